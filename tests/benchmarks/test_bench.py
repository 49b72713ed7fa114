"""The benchmarks run, and both sides do the same work; their times are not checked."""

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import bench, criteo
from tf4ctr.data.schema import NUMBERS, Field, Schema


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 50)


def test_both_streams_give_every_row(prepared):
    ours, theirs = bench.stream(prepared)
    assert ours() == theirs() == 400


def test_an_epoch_runs_in_lightning_and_bare(prepared):
    in_lightning, bare = bench.epoch(prepared)
    assert in_lightning() == bare() == 8


@pytest.mark.parametrize("sparse", [True, False])
def test_steps_over_a_table_run(sparse):
    (five,) = bench.steps(440, sparse)
    first, second = five(), five()
    assert second < first  # the loss falls


@pytest.mark.parametrize("sparse", [True, False])
def test_a_step_takes_numbers_with_gaps(sparse):
    schema = Schema("toy", (Field("price", 0, kind=NUMBERS), Field("user", 7)), "click")
    ids = Schema("toy", (schema["user"],), "click")
    batch = bench.random_batch(ids)._replace(numbers=torch.tensor([[1.0], [float("nan")]]).repeat(25, 1))
    one = bench.step(bench.make_module(schema, sparse), batch)
    losses = [one() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_criteo_shaped_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(criteo, "PART_ROWS", 1_500)
    splits = {}
    for folder, rows in (("small", 2_000), ("large", 4_000)):
        criteo.write(tmp_path / folder, rows)
        splits[folder] = {
            split: pl.read_csv(tmp_path / folder / f"{split}.csv", infer_schema_length=None)
            for split in ("train", "valid", "test")
        }
    assert [len(frame) for frame in splits["large"].values()] == [3_200, 400, 400]
    for split, frame in splits["small"].items():
        assert splits["large"][split].head(len(frame)).equals(frame)
    train = splits["large"]["train"]
    assert train.columns == ["label", *criteo.NUMBERS, *criteo.IDS]
    assert train.select(pl.col(*criteo.IDS).str.contains("^[0-9a-f]{8}$").all()).row(0) == (True,) * 26
    for name, (*_, gaps) in {**criteo.NUMBERS, **criteo.IDS}.items():
        assert train[name].null_count() / len(train) == pytest.approx(gaps, abs=0.05)
    assert train["I1"].dtype == pl.Float64  # with a decimal point
    assert train["I2"].dtype == pl.Int64
    assert not train["C3"].head(400).equals(splits["large"]["valid"]["C3"])


def test_hashed_numbers_are_different_texts():
    texts = criteo.hashed(np.arange(70_000), 3)
    assert texts[0] == f"{3 * 97_531:08x}"
    assert texts.n_unique() == 70_000
