from lightning import Trainer
from rich.progress import Progress

from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.training.progress import ProgressBar, RowsPerSecond


def test_the_bar_shows_rows_per_second(dataset):
    progress = Progress(RowsPerSecond(500))
    task = progress.add_task("", total=10)
    assert "-- rows/s" in RowsPerSecond(500).render(progress.tasks[task]).plain
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[ProgressBar(10)])
    trainer.datamodule = CTRDataModule(dataset, batch_size=500)
    assert any(isinstance(column, RowsPerSecond) for column in trainer.callbacks[0].configure_columns(trainer))
