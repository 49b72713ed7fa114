"""engine=ray on a local Ray of two workers gives the same files as engine=polars."""

import json
import time
from contextlib import nullcontext

import polars as pl
import pytest

from conftest import CSV, leftovers, make_spec, write_raw
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError

ray = pytest.importorskip("ray", reason="needs the extra ray")
cluster = pytest.importorskip("tf4ctr.data.cluster", reason="needs the extra ray")


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


ITEMS = {"name": "items", "column": "item", "separator": "1", "width": 3}
WHOLE = {"reader": "csv", "all": "*.csv"}


@pytest.mark.parametrize(
    "options",
    [
        {"layouts": [CSV]},
        {"layouts": [CSV], "fields": ["user", ITEMS, {"name": "hour", "transform": "log_bucket"}]},
        {"layouts": [CSV], "limit_rows": 70, "group": None},
        {"layouts": [WHOLE], "split_seed": 3},
        {"layouts": [WHOLE], "limit_rows": 450},
    ],
    ids=["splits", "lists", "limit", "without splits", "without splits, limit"],
)
def test_both_engines_leave_the_same(tmp_path, options):
    raw = write_raw(tmp_path / "raw")
    here, there = (
        prepare(make_spec(raw, prepared_dir=tmp_path / engine, **options), engine) for engine in ("polars", "ray")
    )
    assert {path.name: path.read_bytes() for path in (here / "vocabulary").iterdir()} == {
        path.name: path.read_bytes() for path in (there / "vocabulary").iterdir()
    }
    for split in SPLITS:
        assert pl.read_parquet(here / f"{split}.parquet").equals(pl.read_parquet(there / f"{split}.parquet"))
    first, second = (read_manifest(folder) | {"seconds": 0} for folder in (here, there))
    assert first == second
    assert json.loads((here / "schema.json").read_text()) == json.loads((there / "schema.json").read_text())
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}


@pytest.mark.parametrize(
    ("line", "message"),
    [("2,3,4,5", "expected 0 or 1"), ("1,2", "has invalid rows"), ("1,\xff,3,4", "not UTF-8")],
)
def test_a_bad_row_is_told_as_on_one_machine(tmp_path, line, message):
    raw = write_raw(tmp_path / "raw")
    with (raw / "train.csv").open("a", encoding="latin1") as file:
        file.write(line + "\n")
    told = []
    for engine in ("polars", "ray"):
        spec = make_spec(raw, prepared_dir=tmp_path / engine)
        with pytest.raises(InputError, match=message) as caught:
            prepare(spec, engine)
        told.append(str(caught.value))
        assert not spec.prepared_dir.exists()
        assert not leftovers(spec)
    assert told[0] == told[1]


def test_results_come_in_the_order_of_the_files_and_few_wait(tmp_path, spec):
    """Whichever worker is done first: sums of counts with joined neighbours depend on the order."""

    def slow_first(spec, raw, block, folder):
        """The first one waits until four others are done."""
        if block.first == 0:
            while len(list(folder.iterdir())) < 4:
                time.sleep(0.01)
        (folder / str(block.first)).touch()
        return cluster.Result(block, 1, len(list(folder.iterdir())))

    done = tmp_path / "done"
    done.mkdir()
    engine = cluster.RayEngine(spec, spec.raw_files(spec.raw_dir), lambda *_: nullcontext(lambda rows: None))
    blocks = [cluster.Block("train", tmp_path, number) for number in range(12)]
    ticks = []
    results = list(engine._run(slow_first, blocks, ticks.append, done))
    assert [result.block for result in results] == blocks
    assert ticks == [1] * 12
    assert 5 <= results[0].tally <= cluster.TASKS_PER_CORE * cluster.HELD_PER_TASK * 2


def test_an_ndjson_file_is_read_as_all_of_them_together(tmp_path):
    """A list that is null throughout one file, and a key that one file does not have."""
    raw = tmp_path / "raw"
    raw.mkdir()
    full = [{"click": number % 2, "tags": ["a", "b"], "user": {"id": number % 3}, "promo": "x"} for number in range(30)]
    bare = [{"click": number % 2, "tags": None, "user": {"id": number % 3}} for number in range(30)]
    for name, records in (("train-1", full), ("train-2", bare), ("valid", full), ("test", full)):
        (raw / f"{name}.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    layout = {"reader": "ndjson", "train": "train-*.ndjson", "valid": "valid.ndjson", "test": "test.ndjson"}
    fields = [{"name": "tags", "width": 2}, {"name": "user", "column": "user.id"}, "promo"]
    here, there = (
        prepare(make_spec(raw, prepared_dir=tmp_path / engine, layouts=[layout], fields=fields, group=None), engine)
        for engine in ("polars", "ray")
    )
    for split in SPLITS:
        assert pl.read_parquet(here / f"{split}.parquet").equals(pl.read_parquet(there / f"{split}.parquet"))


def test_an_engine_that_there_is_not(spec):
    with pytest.raises(InputError, match="engine is 'mill': choose from: polars, ray"):
        prepare(spec, "mill")
