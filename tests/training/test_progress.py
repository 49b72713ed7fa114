import io
import re

from lightning import Trainer
from rich.console import Console
from rich.progress import Progress

from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.training.progress import ProgressBar, RowsPerSecond
from training.small_run import run


def test_the_bar_shows_rows_per_second(dataset):
    progress = Progress(RowsPerSecond(500))
    task = progress.add_task("", total=10)
    assert "-- rows/s" in RowsPerSecond(500).render(progress.tasks[task]).plain
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[ProgressBar(10)])
    trainer.datamodule = CTRDataModule(dataset, batch_size=500)
    assert any(isinstance(column, RowsPerSecond) for column in trainer.callbacks[0].configure_columns(trainer))


class Kept(ProgressBar):
    """Keeps what a terminal of 80 columns shows after every step, without spaces at the ends."""

    def __init__(self):
        super().__init__(1)
        self.shown = []

    def _update(self, *args, **options):
        super()._update(*args, **options)
        self.shown.append(self.show())

    def show(self):
        console = Console(width=80, file=io.StringIO())
        console.print(self.progress.get_renderable())
        return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]

    def on_train_end(self, trainer, module):
        self.progress.update(self.train_progress_bar_id, description="Epoch 100/100", total=196_000, completed=185_000)
        self.largest = self.show()


def test_the_bar_is_one_line_and_nothing_is_left_of_it(dataset, tmp_path):
    bar = Kept()
    run(dataset, tmp_path, epochs=2, extra=bar, enable_progress_bar=True, val_check_interval=0.4, patience=100)
    assert len(bar.shown) == 2 * 5 + 4 * 2  # steps, and batches of validations
    assert {len(lines) for lines in bar.shown} == {1}
    training = r"Epoch [12]/2 [━╸╺]+ +[1-5]/5 ([\d,]+|--) rows/s (\d:\d\d:\d\d|-:--:--)( loss: \d\.\d{3})?"
    kinds = ["t" if re.fullmatch(training, line) else line.split()[0] for (line,) in bar.shown]
    assert kinds == [*"tt", *["Validation"] * 2, *"tt", *["Validation"] * 2, "t"] * 2
    assert " loss: " in bar.shown[1][0]
    assert len(bar.largest) == 1
    assert re.match(r"Epoch 100/100 [━╸╺]+ +185000/196000 ", bar.largest[0])
    assert re.search(r" loss: \d.\d{3}$", bar.largest[0])
    assert bar.progress.live.transient
