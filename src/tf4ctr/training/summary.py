"""What metrics.json says about a training."""

import math
import time
from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tf4ctr.training.schedule import epochs_trained


class RunSummary(Callback):
    """Collects the best validation's metrics, the number of epochs, and rows per second.

    Rows per second are those of training only, without validation.

    Args:
        monitor: the metric that chooses the best validation; larger is better.
    """

    def __init__(self, monitor: str = "val/monitor") -> None:
        self.monitor = monitor
        self.best: dict[str, float] = {}
        self.best_epoch: int | float = -1
        self.epochs: int | float = 0  # trained before the last validation
        self.train_rows = 0
        self.train_seconds = 0.0
        self.seconds = 0.0  # of earlier starts of this run, until their checkpoint
        self._start = time.perf_counter()
        self._mark: float | None = None  # when the time of the next step starts; None: with the step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._mark is None:
            self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.train_rows += len(batch.label) * trainer.world_size
        self.train_seconds += now - cast(float, self._mark)
        self._mark = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._mark = None  # validation and its checkpoints are no time of training
        self.epochs = epochs_trained(trainer)
        results: dict[str, float] = pl_module.results  # type: ignore[assignment]
        # a run that resumes in another folder writes a new best.ckpt there: start anew, too
        starts_anew = not getattr(trainer.checkpoint_callback, "best_k_models", True)
        # float32, as ModelCheckpoint compares
        best, new = torch.tensor([self.best.get(self.monitor, math.nan), results[self.monitor]], dtype=torch.float32)
        # `not >=` is true if the best is NaN, as an older run may have saved it
        if starts_anew or not best >= new:
            self.best, self.best_epoch = dict(results), self.epochs

    def metrics(self) -> dict[str, float | int]:
        """Keys as in metrics.json; an undefined metric is NaN.

        `best_epoch` and `epochs` are the epochs trained before the best and the last validation:
        1 at the end of the first epoch, 1.25 after a quarter of the second one.
        """
        rate = self.train_rows / self.train_seconds if self.train_seconds else 0.0
        return {
            **self.best,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "train_rows_per_second": round(rate, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        state = {key: getattr(self, key) for key in ("best", "best_epoch", "epochs", "train_rows", "train_seconds")}
        return state | {"seconds": self.seconds + time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def summary_of(callbacks: Iterable[Callback]) -> RunSummary | None:
    """The summary among a trainer's callbacks; None if there is none."""
    return next((callback for callback in callbacks if isinstance(callback, RunSummary)), None)
