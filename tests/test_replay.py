"""python src/replay.py as a user runs it."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from omegaconf import OmegaConf

from conftest import ROOT, make_spec, run_script, started_script
from tf4ctr.data.periods import Period
from tf4ctr.data.preparation import prepare
from tf4ctr.errors import InputError
from tf4ctr.experiments import replay
from tf4ctr.inference.log_rows import measure_rows

LAYOUTS = [{"reader": "parquet", "train": "train", "valid": "valid", "test": "test"}]  # as replay.LAYOUT


def write_log(folder):
    """Four days, in which users and items come and go; whether an item is clicked depends on it."""
    folder.mkdir()
    random, days = np.random.default_rng(0), []
    for day in range(4):
        item = random.integers(4 * day, 4 * day + 12, 150)
        click = (random.random(150) < np.where(item % 2 == 0, 0.8, 0.2)).astype(int)
        days.append(
            pl.DataFrame({"click": click, "user": random.integers(day, day + 9, 150), "item": item, "day": day})
        )
    pl.concat(days).sample(fraction=1, shuffle=True, seed=1).write_csv(folder / "log.csv")
    return folder


@pytest.fixture
def days(tmp_path):
    raw = write_log(tmp_path / "raw")
    return [
        *("dataset=frappe", f"dataset.raw_dir={raw}", "dataset.label=click", "dataset.fields=[user,item]"),
        *("dataset.rows=null", "dataset.layouts=[{reader:csv,all:log.csv}]", "backbone.complex.hidden_units=[8]"),
        *("stream.batch_size=20", "optimizer.lr=0.03", "trainer=cpu"),
        *("by=day", "every=value", "min_rows=100", "first=2", "epochs=2"),
    ]


def test_a_replay_killed_in_a_day_ends_with_the_table_of_the_unbroken_one(days, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = run_script("replay.py", *days, "retrain=all", f"folder={whole}")
    assert result.returncode == 0, result.stdout + result.stderr
    table = pl.read_csv(whole / "days.csv", schema_overrides={"trained": pl.String, "tested": pl.String})
    assert table.columns == [
        *("day", "trained", "tested", "rows"),
        *(f"{model}/{metric}" for model in ("daily", "once", "retrained") for metric in ("auc", "logloss", "gauc")),
    ]
    assert table.select("trained", "tested", "rows").rows() == [("1", "2", 150), ("2", "3", 150)]
    assert table["daily/auc"][1] > table["once/auc"][1]  # most items of the last day are new
    # nothing comes before the first training, so that there the retrained model is the same
    assert table["daily/auc"][0] == table["once/auc"][0] == table["retrained/auc"][0]
    assert table["daily/auc"][1] != table["retrained/auc"][1]
    contents = json.loads((whole / "days.json").read_text())
    assert contents["days"] == table.to_dicts()
    assert contents["means"]["daily/auc"] == pytest.approx(table["daily/auc"].mean())
    assert (whole / "days.png").read_bytes().startswith(b"\x89PNG")
    assert "retrained" in result.stdout
    vocabulary = pl.read_parquet(whole / "days" / "001" / "vocabulary" / "item.parquet")["item"]
    assert {"0", "4", "8", "17"} <= set(vocabulary)  # the first days' items are not forgotten
    splits = json.loads((whole / "prepared" / "001" / "manifest.json").read_text())["splits"]
    valid = pl.read_parquet(whole / "periods" / "__period=1" / "__part=1" / "*.parquet")
    assert splits["train"]["rows"] + splits["valid"]["rows"] == 150 + len(valid)

    # the run's own test on the next day, and the prediction of its raw rows, are the same
    config = {"fields": ["user", "item"], "group": "user"}
    sources = sorted((whole / "periods" / "__period=2").glob("**/*.parquet"))
    measured = measure_rows(whole / "days" / "000", make_spec(tmp_path / "raw", **config), sources)
    assert measured["logloss"] == pytest.approx(table["daily/logloss"][0], abs=1e-6)
    # many rows are equal here; in other batches their last digits differ, and they are no ties
    assert measured == {name: pytest.approx(table[f"daily/{name}"][0], abs=0.02) for name in measured}
    assert len(measured) == 3

    with started_script("replay.py", *days, f"folder={parts}") as (process, _):
        while not (parts / "days" / "001" / "checkpoints" / "last.ckpt").exists():
            assert process.is_alive()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    result = run_script("replay.py", *days, f"folder={parts}")
    assert result.returncode == 0, result.stdout + result.stderr
    resumed = pl.read_csv(parts / "days.csv", schema_overrides={"trained": pl.String, "tested": pl.String})
    assert resumed.equals(table.select(resumed.columns))
    refused = run_script("replay.py", *days, f"folder={parts}", "optimizer.lr=0.1")
    assert refused.returncode == 2
    assert "was started with other options" in refused.stderr


def test_a_mistake_is_reported_before_the_log_is_read(days, tmp_path):
    result = run_script("replay.py", *days, "stream.batch_size=1", f"folder={tmp_path}/wrong")
    assert result.returncode == 2
    assert "stream.batch_size is 1" in result.stderr
    assert not (tmp_path / "wrong" / "periods").exists()


def make_periods(count):
    folder = ROOT / "nowhere"
    return [Period(str(n), 10, folder / f"{n}t", folder / f"{n}v") for n in range(count)]


def names(paths):
    return [path.name for path in paths]


def test_with_a_window_of_one_each_row_is_learned_once():
    days = replay.plan(make_periods(5), first=2, window=1)
    assert [names(day.train) for day in days] == [["0t", "0v", "1t"], ["1v", "2t"], ["2v", "3t"]]
    assert [(day.trained.label, day.tested.label, day.valid.name) for day in days] == [
        ("1", "2", "1v"), ("2", "3", "2v"), ("3", "4", "3v")
    ]  # fmt: skip
    assert names(replay.plan(make_periods(5), 2, 2)[1].train) == ["0v", "1t", "1v", "2t"]
    with pytest.raises(InputError, match="the log has 2 periods, and the first training takes 2"):
        replay.plan(make_periods(2), 2, 1)


def test_means_count_rows_and_leave_undefined_days_out():
    days = replay.plan([period._replace(rows=n + 1) for n, period in enumerate(make_periods(3))], 1, 1)
    table = replay.table_of(days, {"daily": [{"auc": 0.5, "logloss": 1.0}, {"auc": float("nan"), "logloss": 2.0}]})
    assert table["daily/auc"].to_list() == [0.5, None]
    assert replay.means_of(table) == {"daily/auc": 0.5, "daily/logloss": pytest.approx((2 * 1 + 3 * 2) / 5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 0}, "first is 0"),
        ({"window": "2"}, "window is '2'"),
        ({"first_epochs": 1.5}, "first_epochs is 1.5"),
        ({"retrain": "everything"}, "retrain is 'everything'"),
        ({"once": "no"}, "once is 'no'"),
        ({"init": "run"}, "init= is an option of one training"),
    ],
)
def test_invalid_options_are_refused(options, message):
    valid = {"first": 1, "window": 1, "epochs": 1, "first_epochs": None, "once": True, "retrain": None}
    valid |= {"ckpt": None, "init": None, "dry_run": False}
    replay.check_options({**valid, "retrain": 3})
    with pytest.raises(InputError, match=message):
        replay.check_options({**valid, **options})


def test_help_explains_the_options():
    result = run_script("replay.py", "--help")
    assert result.returncode == 0
    for word in ("by=timestamp every=week", "days.csv", "retrain=null"):
        assert word in result.stdout


def test_each_day_has_prepared_rows_of_its_own_also_with_vectors(tmp_path):
    (tmp_path / "raw" / "emb").mkdir(parents=True)
    pl.DataFrame({"item": [1], "image": [[0.5, 1.0]]}).write_parquet(tmp_path / "raw" / "emb" / "v.parquet")
    fields = ["item", {"name": "image", "kind": "vector", "width": 2, "of": "item", "file": "emb/v.parquet"}]
    options = {"fields": fields, "group": None}
    spec = make_spec(tmp_path / "raw", **options, layouts=[{"reader": "csv", "all": "log.csv"}])
    parts = tmp_path / "periods"
    periods = [Period(str(number), 20, parts / f"{number}t", parts / f"{number}v") for number in range(3)]
    for folder in (folder for period in periods for folder in (period.train, period.valid)):
        folder.mkdir(parents=True)
        pl.DataFrame({"click": [0, 1] * 5, "item": [1] * 10}).write_parquet(folder / "0.parquet")
    folders = set()
    for day in replay.plan(periods, first=1, window=1):
        own = replay.training(day, spec, tmp_path / "replay", day.name, 1, [])
        given = OmegaConf.from_dotlist([word.lstrip("+").replace("'", "") for word in own]).dataset
        prepared = prepare(make_spec(Path(given.raw_dir), **options, prepared_dir=given.prepared_dir, layouts=LAYOUTS))
        assert (prepared / "vectors" / "image.parquet").is_file()
        folders.add(prepared)
    assert len(folders) == 2
