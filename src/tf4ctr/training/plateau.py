"""A learning rate that falls when validation stops improving, and that resumes exactly."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tf4ctr.errors import InputError, did_you_mean


class LRPlateau(Callback):
    """Multiplies the learning rate by `factor` after a validation that does not improve `monitor`.

    Lightning's own plateau scheduling is not used. It steps after the checkpoint of the epoch is
    written, and that step is skipped when the run resumes from there. A resumed run would continue
    with another learning rate.

    Args:
        monitor: logged metric to maximise.
        factor: the learning rate is multiplied by it.
        patience: validations without improvement before the first reduction.
        min_delta: an improvement must be larger than this.
        min_lr: lower limit of the learning rate.

    Raises:
        InputError: `factor` does not lower the learning rate.
    """

    def __init__(self, monitor: str, factor: float, patience: int, min_delta: float, min_lr: float) -> None:
        if not 0 < factor < 1:
            raise InputError(
                f"callbacks.lr_plateau.factor is {factor}: expected more than 0 and less than 1;"
                " callbacks.lr_plateau=null keeps the learning rate"
            )
        self.monitor = monitor
        self.settings = {"factor": factor, "patience": patience, "threshold": min_delta, "min_lr": min_lr}
        self.scheduler: ReduceLROnPlateau | None = None
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.scheduler = ReduceLROnPlateau(trainer.optimizers[0], mode="max", threshold_mode="abs", **self.settings)  # type: ignore[arg-type]
        if self._restored is not None:
            self.scheduler.load_state_dict(self._restored)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.scheduler is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self.monitor not in trainer.callback_metrics:
                raise InputError(
                    f"callbacks.lr_plateau.monitor is {self.monitor}, which is not measured: "
                    + did_you_mean(self.monitor, [name for name in trainer.callback_metrics if name[:4] == "val/"])
                )
            self.scheduler.step(float(trainer.callback_metrics[self.monitor]))

    def state_dict(self) -> dict[str, Any]:
        if self.scheduler is None:
            return {}
        keys = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        state = self.scheduler.state_dict()
        return {key: float(state[key]) if key == "best" else state[key] for key in keys}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None
