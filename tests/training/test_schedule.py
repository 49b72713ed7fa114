"""Validations inside epochs: what is measured there, and that a run resumes to the same end."""

import signal
import time

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError
from tf4ctr.training.loggers import EpochCSV
from tf4ctr.training.schedule import check_schedule
from tf4ctr.training.summary import summary_of
from training.small_run import MONITOR, KillAt, SignalAt, assert_same, run
from training.test_loggers import read


def run_with_csv(dataset, folder, schedule, **options):
    """A run of four epochs of five steps that writes metrics.csv."""
    folder.mkdir(exist_ok=True)
    logger = EpochCSV(str(folder))
    return run(dataset, folder, epochs=4, patience=100, logger=logger, log_every_n_steps=1, **schedule, **options)


# trainer.val_check_interval, trainer.check_val_every_n_epoch, and `epoch` of all rows
SCHEDULES = {
    "0.4": ({"val_check_interval": 0.4}, ["0.4", "0.8", "1.4", "1.8", "2.4", "2.8", "3.4", "3.8"]),
    "1 step": ({"val_check_interval": 1}, [f"{step / 5:g}" for step in range(1, 21)]),
    "4 steps": ({"val_check_interval": 4}, ["0.8", "1.8", "2.8", "3.8"]),
    # epochs without validation have a row of their training
    "every 2nd epoch": (
        {"val_check_interval": 0.4, "check_val_every_n_epoch": 2},
        ["1", "1.4", "1.8", "3", "3.4", "3.8"],
    ),
    "across epochs": ({"val_check_interval": 7, "check_val_every_n_epoch": None}, ["1", "1.4", "2.8", "4"]),
}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The end of the unbroken run of each schedule, and its metrics.csv."""
    ends = {}
    for name, (schedule, _) in SCHEDULES.items():
        folder = tmp_path_factory.mktemp("whole")
        ends[name] = run_with_csv(dataset, folder, schedule), read(folder / "metrics.csv")
    return ends


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_row_per_validation_says_how_many_epochs_are_trained(whole, name):
    end, rows = whole[name]
    assert [row["epoch"] for row in rows] == SCHEDULES[name][1]
    assert [round(float(row["epoch"]) * 5) for row in rows] == [int(row["step"]) + 1 for row in rows]
    validated = [row for row in rows if row["val/auc"]]
    best = max(validated, key=lambda row: float(row[MONITOR]))
    assert (end.metrics["best_epoch"], end.metrics["epochs"]) == (float(best["epoch"]), float(validated[-1]["epoch"]))
    assert end.metrics[MONITOR] == pytest.approx(float(best[MONITOR]), abs=1e-6)
    best, rate = float("-inf"), 3e-2
    for row in validated:  # the plateau counts validations
        assert float(row["lr"]) == pytest.approx(rate)
        if float(row[MONITOR]) > best + 1e-6:
            best = float(row[MONITOR])
        else:
            rate = max(rate * 0.1, 1e-6)
    assert end.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "kill", "every"),
    [
        ("0.4", {"step": 1}, 1),  # before the first validation
        ("0.4", {"step": 2}, 1000),  # right after a validation
        ("0.4", {"step": 3}, 1),  # between two validations
        ("0.4", {"step": 5}, 1),  # between the last validation of an epoch and its end
        ("0.4", {"validation": 2}, 1000),
        ("0.4", {"validation": 3}, 1),
        ("1 step", {"validation": 4}, 1),
        ("4 steps", {"step": 4}, 1000),
        ("every 2nd epoch", {"step": 4}, 1),
        ("every 2nd epoch", {"validation": 2}, 2),
        ("across epochs", {"step": 7}, 1000),
        ("across epochs", {"step": 13}, 1),
    ],
)
def test_killed_inside_an_epoch_and_resumed_ends_the_same(dataset, whole, tmp_path, name, kill, every):
    schedule, (end, rows) = SCHEDULES[name][0], whole[name]
    assert run_with_csv(dataset, tmp_path, schedule, extra=KillAt(**kill), every=every) is None
    last = tmp_path / "last.ckpt"
    assert_same(run_with_csv(dataset, tmp_path, schedule, ckpt=last, every=every), end)
    assert read(tmp_path / "metrics.csv") == rows


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_before_backward", 0, 1),
        ("on_train_batch_start", 1, 1),  # a validation follows: the checkpoint is from before the step
        ("on_before_zero_grad", 2, 3),
        ("on_validation_start", 4, 3),  # does not wait for the end of a validation
        ("on_before_optimizer_step", 4, 4),
    ],
)
def test_interrupted_inside_an_epoch_and_resumed_ends_the_same(dataset, whole, tmp_path, hook, step, saved):
    (schedule, _), (end, rows) = SCHEDULES["0.4"], whole["0.4"]
    assert run_with_csv(dataset, tmp_path, schedule, extra=SignalAt(signal.SIGINT, hook, step)) is None
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved
    assert_same(run_with_csv(dataset, tmp_path, schedule, ckpt=last), end)
    assert read(tmp_path / "metrics.csv") == rows


class Losses(Callback):
    """Keeps the rows and the loss of every step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append((len(batch.label), float(outputs["loss"])))


def test_the_training_loss_of_a_row_is_the_mean_since_the_validation_before(dataset, tmp_path):
    losses = Losses()
    run_with_csv(dataset, tmp_path, {"val_check_interval": 0.4}, extra=losses)
    first = 0
    for row in read(tmp_path / "metrics.csv"):
        last = int(row["step"]) + 1
        steps = losses.steps[first:last]
        expected = sum(rows * loss for rows, loss in steps) / sum(rows for rows, _ in steps)
        assert float(row["train/loss"]) == pytest.approx(expected, rel=1e-6)
        first = last


def test_a_run_that_stopped_inside_an_epoch_trains_no_further(dataset, tmp_path):
    stopped = run(dataset, tmp_path, epochs=40, val_check_interval=2)
    assert stopped.metrics["epochs"] % 1 > 0
    again = run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=40, val_check_interval=2)
    assert torch.equal(again.weights, stopped.weights)
    assert again.metrics == stopped.metrics


class SlowValidation(Callback):
    """Validates slowly, and keeps how long training took by the summary."""

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        time.sleep(0.2)

    def on_train_end(self, trainer, module):
        self.seconds = summary_of(trainer.callbacks).train_seconds


def test_rows_per_second_leave_validation_out(dataset, tmp_path):
    slow = SlowValidation()
    run(dataset, tmp_path, epochs=1, extra=slow, val_check_interval=0.4)
    assert 0 < slow.seconds < 0.4  # two validations of two batches take 0.8 s


@pytest.mark.parametrize("interval", [0, 0.0, 1.5, -0.25, True, "half", None])
def test_another_interval_is_refused(interval):
    with pytest.raises(
        InputError, match="val_check_interval is .*: expected a fraction of an epoch, .*number of steps"
    ):
        check_schedule(interval, 1)


def test_a_schedule_that_does_not_fit_is_refused(dataset, tmp_path):
    check_schedule(1000, None)
    check_schedule(0.25, 2)
    with pytest.raises(InputError, match="every_n_epoch is null and .* interval as a whole number of steps"):
        check_schedule(0.25, None)
    with pytest.raises(InputError, match="every_n_epoch is 0: expected a whole number of epochs"):
        check_schedule(0.25, 0)
    with pytest.raises(InputError, match="interval is 6 steps, and an epoch has 5: give at most 5, or a fraction"):
        run(dataset, tmp_path, val_check_interval=6)
    with pytest.raises(InputError, match="interval is 4 steps, and an epoch has 3"):
        run(dataset, tmp_path, val_check_interval=4, limit_train_batches=3)
