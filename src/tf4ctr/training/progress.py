"""The progress bar of a training."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.progress import ProgressColumn, Task
from rich.text import Text


class RowsPerSecond(ProgressColumn):
    """Rows per second, from the steps per second that rich measures."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.batch_size:,.0f} rows/s" if task.speed else "-- rows/s")


class ProgressBar(RichProgressBar):
    """Lightning's bar, with rows per second instead of steps, and without the logger's version.

    Args:
        every_n_train_steps: steps between two updates of the loss; each update waits for the
            accelerator.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        super().__init__()
        self.every_n_train_steps = every_n_train_steps
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if not trainer.training or trainer.global_step % self.every_n_train_steps == 0:
            self._shown = {
                name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"
            }
            if "step/loss" in trainer.callback_metrics:
                self._shown["step/loss"] = float(trainer.callback_metrics["step/loss"])
        return self._shown

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        batch_size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        columns = super().configure_columns(trainer)
        return [
            RowsPerSecond(batch_size) if isinstance(column, ProcessingSpeedColumn) else column for column in columns
        ]
