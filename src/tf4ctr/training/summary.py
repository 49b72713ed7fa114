"""What metrics.json says of a training."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
        return {
            **self.best,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "train_rows_per_second": round(rate, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("best", "best_epoch", "epochs", "train_rows", "train_seconds")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)
