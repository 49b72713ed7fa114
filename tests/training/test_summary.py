import itertools
import math

import torch

from tf4ctr.training.summary import RunSummary, summary_of
from training.small_run import MONITOR, KillAt, Results, run


def test_summary_has_the_best_epoch(dataset, tmp_path):
    results = Results()
    end = run(dataset, tmp_path, extra=results, epochs=40)
    scores = [metrics[MONITOR] for metrics in results.metrics]
    assert end.metrics["best_epoch"] == scores.index(max(scores)) + 1
    assert end.metrics["epochs"] == len(scores)
    best = results.metrics[end.metrics["best_epoch"] - 1]
    assert {key: end.metrics[key] for key in best} == best
    assert end.train_rows == 400 * len(scores)
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] + 1 == end.metrics["best_epoch"]


def test_in_another_folder_the_summary_has_the_epoch_of_the_best_checkpoint_there(dataset, unbroken, tmp_path):
    assert unbroken.metrics["best_epoch"] <= 2  # before the resumed run begins
    assert run(dataset, tmp_path / "first", extra=KillAt(step=12), every=2, epochs=4) is None
    end = run(dataset, tmp_path / "second", ckpt=tmp_path / "first" / "last.ckpt", epochs=4)
    checkpoint = torch.load(tmp_path / "second" / "best.ckpt", weights_only=True)
    assert end.metrics["best_epoch"] == checkpoint["epoch"] + 1 > 2


def test_a_number_is_better_than_the_nan_of_an_older_run(dataset, tmp_path):
    class AsOlder(RunSummary):
        def on_fit_start(self, trainer, module):
            summary_of(trainer.callbacks).load_state_dict({"best": {MONITOR: math.nan}, "best_epoch": 0})

    assert run(dataset, tmp_path, extra=AsOlder(), epochs=1).metrics["best_epoch"] == 1


def test_a_rise_below_the_digits_of_float32_is_no_new_best(dataset, tmp_path, monkeypatch):
    rising = (1.5 + 1e-9 * number for number in itertools.count())
    monkeypatch.setattr("tf4ctr.training.module.monitor_of", lambda *args: next(rising))
    end = run(dataset, tmp_path, epochs=3)
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert end.metrics["best_epoch"] == checkpoint["epoch"] + 1 == 1
