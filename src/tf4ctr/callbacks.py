"""What happens around the steps: learning-rate plateau, checkpoints that resume exactly, the run's summary, the progress bar."""

import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.progress import ProgressColumn, Task
from rich.text import Text
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tf4ctr.errors import InputError
from tf4ctr.module import CTRModule, of_all_ranks, own_of


class LRPlateau(Callback):
    """Multiply the learning rate by `factor` after every validation whose `monitor` is no improvement.

    Not Lightning's own plateau scheduling: that steps after the checkpoint of the epoch is written and is left out when the run
    resumes from there, so a resumed run would go on with another learning rate.

    Args:
        monitor: logged metric to maximise.
        factor: what the learning rate is multiplied by.
        patience: validations without improvement that are let pass first.
        min_delta: an improvement is more than this.
        min_lr: the learning rate never falls below.
    """

    def __init__(self, monitor: str, factor: float, patience: int, min_delta: float, min_lr: float) -> None:
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
            self.scheduler.step(float(trainer.callback_metrics[self.monitor]))

    def state_dict(self) -> dict[str, Any]:
        if self.scheduler is None:
            return {}
        keys = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        state = self.scheduler.state_dict()
        return {key: float(state[key]) if key == "best" else state[key] for key in keys}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt` so that `ckpt=` goes on where the run stopped, to the same end.

    Written every `every_n_train_steps` steps, before the last step of an epoch, after every validation, and when training is
    interrupted. Never between the last step of an epoch and the end of its validation: Lightning resumes from there without
    validating, or validates only the rest. And never in the middle of a step, where some weights are already new and some
    random numbers already drawn: Ctrl-C, SIGTERM and SIGUSR1 (what a scheduler sends before it kills) wait for the step's end, and a
    second one doesn't.

    Args:
        dirpath: folder of the checkpoint.
        every_n_train_steps: steps between two checkpoints within an epoch.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._rng: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._stepping = False
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if self._rng["cuda"]:
                torch.cuda.set_rng_state_all(self._rng["cuda"])
            self._rng = None
        # a run that was killed after it had decided to stop (while testing, say) has nothing left to train
        trainer.should_stop = any(stopper.wait_count >= stopper.patience for stopper in trainer.early_stopping_callbacks)
        if threading.current_thread() is threading.main_thread():  # no other may set them
            self._handlers = {each: signal.signal(each, self._interrupt) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.train_dataloader.start_epoch(trainer.current_epoch)  # type: ignore[union-attr]
        self._stepping = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.train_dataloader.position = batch_idx + 1  # type: ignore[union-attr]
        left = trainer.num_training_batches - (batch_idx + 1)
        self._stepping = left > 0
        # a signal reaches each rank at its own time: they agree on the step, as saving is done together
        interrupted = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if left == 1 or (left > 1 and (interrupted or trainer.global_step % self.every_n_train_steps == 0)):
            self._save(trainer)
        if interrupted:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers, self._stepping, self._interrupted = {}, False, False

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted or not self._stepping:
            raise KeyboardInterrupt
        self._interrupted = True

    def _save(self, trainer: Trainer) -> None:
        partial = self.path.with_suffix(".partial")
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            kept = "the one before is whole" if self.path.exists() else "there is none before it"
            raise InputError(f"the checkpoint {self.path} cannot be written ({error.strerror or error}), {kept}") from error

    def state_dict(self) -> dict[str, Any]:
        own = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []}
        return {"ranks": of_all_ranks(own)}  # each draws its own dropout; Lightning asks all of them for their state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rng = own_of(state_dict["ranks"])


class StopDiverged(Callback):
    """Stop where the loss is no number any more, before a step makes every weight one of those; the last checkpoint stays.

    Looks at every step on a CPU, and every `every_n_train_steps` steps on an accelerator, which looking would make wait.

    Args:
        every_n_train_steps: steps between two looks.

    Raises:
        InputError: naming step, epoch, batch and tensor.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        self.every_n_train_steps = every_n_train_steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if loss.device.type != "cpu" and trainer.global_step % self.every_n_train_steps:
            return
        if torch.isfinite(loss):
            return
        module = cast(CTRModule, pl_module)
        tensors: dict[str, Tensor] = {f"parameter {name}": each for name, each in module.network.named_parameters()}
        tensors |= {f"loss term {name}": each for name, each in module.train_terms.items() if name != "loss"}
        name = next((name for name, each in tensors.items() if not torch.isfinite(each).all()), "loss")
        raise InputError(
            f"training diverged: the loss is {loss.item()} at step {trainer.global_step + 1}, epoch {trainer.current_epoch + 1}, batch"
            f" {trainer.fit_loop.epoch_loop.batch_idx + 1}; the first tensor that is no number: {name}. Try a smaller optimizer.lr"
        )


class RunSummary(Callback):
    """Collect what metrics.json tells of training: the best epoch's validation metrics, epochs, seconds and rows a second.

    Args:
        monitor: metric that tells the best epoch, larger is better.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.best: dict[str, float] = {}
        self.best_epoch = -1
        self.epochs = 0
        self.train_rows = 0
        self.train_seconds = 0.0
        self._mark = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self.train_rows += len(batch.label) * trainer.world_size
        self.train_seconds += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.epochs = trainer.current_epoch + 1
        results: dict[str, float] = pl_module.results  # type: ignore[assignment]
        if not self.best or results[self.monitor] > self.best[self.monitor]:
            self.best, self.best_epoch = dict(results), self.epochs

    def metrics(self) -> dict[str, float | int]:
        """Keys as in metrics.json; epochs count from 1."""
        rate = self.train_rows / self.train_seconds if self.train_seconds else 0.0
        return {**self.best, "best_epoch": self.best_epoch, "epochs": self.epochs, "train_rows_per_second": round(rate, 1)}

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("best", "best_epoch", "epochs", "train_rows", "train_seconds")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class RowsPerSecond(ProgressColumn):
    """Rows a second, from the steps a second that rich measures."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.batch_size:,.0f} rows/s" if task.speed else "-- rows/s")


class ProgressBar(RichProgressBar):
    """Lightning's bar, with rows instead of steps a second and without the logger's version.

    Args:
        every_n_train_steps: steps between two looks at the loss, which an accelerator is waited for.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        super().__init__()
        self.every_n_train_steps = every_n_train_steps
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if not trainer.training or trainer.global_step % self.every_n_train_steps == 0:
            self._shown = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return self._shown

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        batch_size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        columns = super().configure_columns(trainer)
        return [RowsPerSecond(batch_size) if isinstance(column, ProcessingSpeedColumn) else column for column in columns]
