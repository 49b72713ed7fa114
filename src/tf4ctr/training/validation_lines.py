"""A line per validation, on the terminal and in train.log."""

import math
import time
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from tf4ctr.reporting import say
from tf4ctr.training.module import CTRModule
from tf4ctr.training.schedule import epochs_trained, validates_inside_epochs
from tf4ctr.training.summary import RunSummary, summary_of

# of the columns, in characters: with the mark of a new best, a line has 77
WIDTHS = {
    "epoch": 7,
    "train loss": 10,
    "val AUC": 7,
    "gAUC": 7,
    "logloss": 7,
    "lr": 7,
    "rows/s": 9,
    "seconds": 7,
}


class ValidationLines(Callback):
    """Says what every validation found, in one line; `*` marks a new best.

    The line has the epochs trained so far, the mean training loss and the rows per second since the
    validation before, validation metrics, the learning rate of these steps, and the seconds since
    training started. More lines say that the plateau lowered the learning rate, and that early
    stopping ends the run. It is called after these callbacks: conf/callbacks has it behind them.
    """

    def __init__(self) -> None:
        self._has_header = False
        self._start = 0.0
        self._rows, self._seconds = 0, 0.0  # of the summary, at the validation before
        self._rate = 0.0  # the learning rate before the validation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_header = False
        self._start = time.perf_counter()
        summary = _summary(trainer)
        self._rows, self._seconds = summary.train_rows, summary.train_seconds

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.optimizers:
            self._rate = _rate(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        cells = self._cells(trainer, cast(CTRModule, pl_module))
        if not self._has_header:
            say(_line({name: name for name in cells}))
            self._has_header = True
        is_best = _summary(trainer).best_epoch == epochs_trained(trainer)
        say(_line(cells) + (" *" if is_best else ""))
        self._say_changes(trainer)

    def _cells(self, trainer: Trainer, module: CTRModule) -> dict[str, str]:
        summary, results = _summary(trainer), module.results
        rows, seconds = summary.train_rows - self._rows, summary.train_seconds - self._seconds
        self._rows, self._seconds = summary.train_rows, summary.train_seconds
        metrics = {"val AUC": results["val/auc"], "gAUC": results.get("val/gauc"), "logloss": results["val/logloss"]}
        return {
            "epoch": f"{epochs_trained(trainer):.{_decimals(trainer)}f}",
            "train loss": _number(float(trainer.callback_metrics.get("train/loss", math.nan))),
            **{name: _number(value) for name, value in metrics.items() if value is not None},
            "lr": _power(self._rate),
            "rows/s": f"{rows / seconds:,.0f}" if seconds else "-",
            "seconds": f"{time.perf_counter() - self._start:.1f}",
        }

    def _say_changes(self, trainer: Trainer) -> None:
        rate = _rate(trainer)
        if rate != self._rate:
            say(f"learning rate x{rate / self._rate:.2g}: {_power(self._rate)} -> {_power(rate)}")
        for stopper in trainer.early_stopping_callbacks:
            if trainer.should_stop and stopper.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
                count = stopper.wait_count
                say(f"stopped: no improvement in {count} validation{'s' if count > 1 else ''}")


def _summary(trainer: Trainer) -> RunSummary:
    return cast(RunSummary, summary_of(trainer.callbacks))  # type: ignore[attr-defined]


def _rate(trainer: Trainer) -> float:
    rate: Any = trainer.optimizers[0].param_groups[0]["lr"]
    return float(rate)


def _line(cells: dict[str, str]) -> str:
    return "  ".join(f"{cell:>{WIDTHS[name]}}" for name, cell in cells.items())


def _decimals(trainer: Trainer) -> int:
    """Decimals of the epoch: none without validations inside epochs; enough to tell them apart."""
    if not validates_inside_epochs(trainer):
        return 0
    return 2 if 100 * cast(int, trainer.val_check_batch) >= trainer.num_training_batches else 4


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.5f}"


def _power(value: float) -> str:
    """Three digits and a power of ten: 1e-3, 2.52e-4."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
