"""The progress bar of a training."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn
from rich.progress import ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text


class RowsPerSecond(ProgressColumn):
    """Rows per second, from the steps per second that rich measures."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.batch_size:,.0f} rows/s" if task.speed else "-- rows/s")


class ProgressBar(RichProgressBar):
    """Lightning's bar on one line: epoch, steps, rows per second, time left, loss.

    The line fits 80 columns. During a validation, the bar is that of the validation. Nothing is
    left of it when training ends; `ValidationLines` keeps what a user wants to see later.

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
            loss = trainer.callback_metrics.get("step/loss")
            self._shown = {} if loss is None else {"loss": float(loss)}
        return self._shown

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = [
            TextColumn("{task.description}"),
            CustomBarColumn(
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            RowsPerSecond(trainer.datamodule.batch_size),  # type: ignore[attr-defined]
            TimeRemainingColumn(),
        ]
        for column in columns:  # only the bar becomes narrower where there is little room
            column._table_column = Column(no_wrap=not isinstance(column, CustomBarColumn))
        return columns

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{most}" if most is not None and most > 0 else "")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._show_training(False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._show_training(True)

    def _show_training(self, visible: bool) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, visible=visible)
