"""Validation splits on which AUC or gAUC is undefined."""

import math

import polars as pl
import pytest
from lightning.pytorch.callbacks import Callback

from conftest import make_spec, write_raw
from tf4ctr.data.preparation import prepare
from tf4ctr.errors import InputError
from tf4ctr.training.monitor import MONITORS, check_monitor, explain_monitor, explain_undefined, monitor_of
from training.small_run import MONITOR, Results, run


def prepare_with(folder, label):
    """A prepared dataset whose validation labels are `label`, an expression."""
    raw = write_raw(folder / "raw")
    pl.read_csv(raw / "valid.csv").with_columns(click=label).write_csv(raw / "valid.csv")
    return prepare(make_spec(raw))


@pytest.mark.parametrize(
    ("label", "undefined", "monitor", "message"),
    [
        (
            pl.lit(0),
            {"val/auc", "val/gauc", "val/simple/auc", "val/complex/auc"},
            lambda metrics: -metrics["val/logloss"],
            "val/auc and val/gauc are undefined: all rows of the validation split have the same label."
            " val/monitor, which chooses the best epoch, is -val/logloss instead of auc+gauc",
        ),
        (
            pl.col("user") % 2,
            {"val/gauc"},
            lambda metrics: metrics["val/auc"],
            "val/gauc is undefined: no group of the validation split has rows of both labels."
            " val/monitor, which chooses the best epoch, is val/auc instead of auc+gauc",
        ),
    ],
)
def test_an_undefined_metric_is_reported_once_and_another_one_monitors(
    tmp_path, caplog, label, undefined, monitor, message
):
    results = Results()
    end = run(prepare_with(tmp_path, label), tmp_path, extra=results, epochs=40)
    assert caplog.text.count("undefined") == caplog.text.count(message) == 1
    scores = [metrics[MONITOR] for metrics in results.metrics]
    for metrics in results.metrics:
        assert {name for name, value in metrics.items() if math.isnan(value)} == undefined
        assert metrics[MONITOR] == monitor(metrics)
    # early stopping, plateau, best checkpoint and summary follow it
    assert len(scores) > 2
    assert end.metrics["best_epoch"] == scores.index(max(scores)) + 1 == len(scores) - 2
    assert results.rates == pytest.approx([3e-2] * (len(scores) - 2) + [3e-3, 3e-4])


def test_a_callback_that_monitors_an_undefined_metric_is_refused(tmp_path):
    callback = Callback()
    callback.monitor = "val/auc"
    prepared = prepare_with(tmp_path, pl.lit(1))
    with pytest.raises(InputError, match=r"Callback monitors val/auc, but .* same label\. .*objective=val/monitor"):
        run(prepared, tmp_path, extra=callback, epochs=2)


@pytest.mark.parametrize(
    ("monitor", "both", "no_group", "no_gauc", "neither"),
    [
        ("auc+gauc", 0.75, 0.5, 0.5, -0.7),
        ("auc", 0.5, 0.5, 0.5, -0.7),
        ("gauc", 0.25, -0.7, -0.7, -0.7),
        ("logloss", -0.7, -0.7, -0.7, -0.7),
    ],
)
def test_the_monitor_of_each_kind_of_results(monitor, both, no_group, no_gauc, neither):
    results = {"val/auc": 0.5, "val/logloss": 0.7}
    assert monitor_of(results, "val", monitor) == no_group
    assert monitor_of(results | {"val/gauc": 0.25}, "val", monitor) == both
    assert monitor_of(results | {"val/gauc": math.nan}, "val", monitor) == no_gauc
    assert monitor_of(results | {"val/gauc": math.nan, "val/auc": math.nan}, "val", monitor) == neither


def test_a_metric_that_the_monitor_does_not_need_may_be_undefined():
    results = {"val/auc": 0.5, "val/gauc": math.nan, "val/logloss": 0.7}
    why = "val/gauc is undefined: no group of the validation split has rows of both labels"
    assert explain_monitor(results, "auc") == explain_monitor(results, "logloss") == why
    assert explain_monitor(results, "gauc") == (
        f"{why}. val/monitor, which chooses the best epoch, is -val/logloss instead of gauc"
    )


def test_an_unknown_monitor_is_refused_and_gauc_needs_a_group():
    for monitor in MONITORS:
        check_monitor(monitor, True)
    with pytest.raises(InputError, match=r"monitor is AUC: choose from: auc, auc\+gauc, gauc, logloss"):
        check_monitor("AUC", True)
    with pytest.raises(InputError, match="monitor=gauc needs groups"):
        check_monitor("gauc", False)


def test_the_test_split_monitors_nothing():
    message = explain_undefined({"test/auc": math.nan, "test/logloss": 0.7}, "test")
    assert message == "test/auc is undefined: all rows of the test split have the same label"


def test_scores_that_are_no_numbers_are_told():
    results = {"test/auc": math.nan, "test/gauc": math.nan, "test/logloss": math.nan}
    expected = "test/auc and test/gauc are undefined: the network gives NaN for rows of the test split"
    assert explain_undefined(results, "test") == expected
