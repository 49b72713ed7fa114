"""The lines that a user reads while a run trains."""

import re

import pytest

from tf4ctr.training.loggers import EpochCSV
from tf4ctr.training.validation_lines import ValidationLines, _power
from training.small_run import MONITOR, KillAt, run
from training.test_loggers import read


@pytest.mark.parametrize(("interval", "decimals"), [(0.4, 2), (1.0, 0)])
def test_a_line_per_validation_and_one_per_decision(dataset, tmp_path, capsys, interval, decimals):
    logger = EpochCSV(str(tmp_path))
    options = {"val_check_interval": interval, "logger": logger, "log_every_n_steps": 1}
    run(dataset, tmp_path, epochs=40, extra=ValidationLines(), **options)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("  ")[-1] == "seconds"
    assert all(len(line) <= 79 for line in (header, *lines))
    best, seconds, misses = float("-inf"), 0.0, 0
    for row in read(tmp_path / "metrics.csv"):
        line = lines.pop(0)
        assert line[: len(header)] == line.removesuffix(" *")  # right under the header
        cells = line.removesuffix(" *").split()
        assert cells[0] == f"{float(row['epoch']):.{decimals}f}"
        expected = (row["train/loss"], row["val/auc"], row["val/gauc"], row["val/logloss"], row["lr"])
        assert [float(cell) for cell in cells[1:6]] == pytest.approx([float(value) for value in expected], abs=6e-6)
        assert float(cells[6].replace(",", "")) > 0
        assert float(cells[7]) >= seconds
        seconds = float(cells[7])
        improved = float(row[MONITOR]) > best
        assert line.endswith(" *") == improved
        best, misses = max(best, float(row[MONITOR])), 0 if improved else misses + 1
        if misses:
            rate = float(row["lr"])
            assert lines.pop(0) == f"learning rate x0.1: {_power(rate)} -> {_power(rate / 10)}"
    assert lines == ["stopped: no improvement in 2 validations"]


def test_a_resumed_run_has_a_header_of_its_own_and_goes_on(dataset, tmp_path, capsys):
    options = {"val_check_interval": 0.4, "patience": 100, "epochs": 2}
    run(dataset, tmp_path / "whole", extra=ValidationLines(), **options)
    whole = capsys.readouterr().out.splitlines()
    run(dataset, tmp_path / "killed", extra=KillAt(step=8), **options)
    capsys.readouterr()
    run(dataset, tmp_path / "killed", ckpt=tmp_path / "killed" / "last.ckpt", extra=ValidationLines(), **options)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == whole[0]
    # without rows/s and seconds, whose widths differ between runs too
    untimed = [re.sub(r" +\S+ +\S+( \*)?$", "", line) for line in lines]
    assert untimed == [re.sub(r" +\S+ +\S+( \*)?$", "", line) for line in whole[-len(lines) :]]


def test_learning_rates_are_short():
    assert [_power(rate) for rate in (1e-3, 2.5e-4, 0.03, 1e-10)] == ["1e-3", "2.5e-4", "3e-2", "1e-10"]
