"""The benchmarks run, and both sides do the same work; their times are not checked."""

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import bench, criteo, taobao, tf4ctr_side
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import NUMBERS, Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS
from tf4ctr.data.stream import MemoryStream


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


def test_din_trains_on_taobao_shaped_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(taobao, "PART_ROWS", 500)
    raw = taobao.write(tmp_path / "raw", 1_500)
    rows = pl.read_csv(raw / "train.csv", schema_overrides=dict.fromkeys(taobao.HISTORIES, pl.String))
    assert (len(rows), len(taobao.IDS)) == (1_200, 14)
    ads, categories = (rows[name].fill_null("").str.split(taobao.SEPARATOR) for name in taobao.HISTORIES)
    assert (ads.list.len() == categories.list.len()).all()
    assert ads.list.len().max() == taobao.WIDTH
    category = dict(rows.select("adgroup_id", "cate_id").cast(pl.String).iter_rows())
    for past, of_past in zip(ads, categories, strict=True):
        assert [category[ad] for ad in past if ad] == [value for value in of_past if value]

    layout = {"reader": "csv", **{split: f"{split}.csv" for split in SPLITS}}
    folders = {"raw_dir": raw, "prepared_dir": tmp_path / "prepared"}
    prepared = prepare(DatasetSpec.from_config(taobao.ROWS | folders | {"layouts": [layout]}))
    stream = MemoryStream(prepared, "train", 100, shuffle=True)
    module = tf4ctr_side.build(stream.schema, *tf4ctr_side.DIN)
    assert len(tf4ctr_side.train(module, stream)) == 12  # raises if the loss does not fall


def test_histories_of_a_log_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(taobao, "EVENT_ROWS", 300)
    raw = taobao.write_events(tmp_path / "raw", 500)
    assert len(list(raw.iterdir())) == 2
    folders = {"raw_dir": raw, "prepared_dir": tmp_path / "prepared"}
    schema = Schema.load(prepare(DatasetSpec.from_config(taobao.EVENTS | folders)))
    (history,) = schema.histories
    assert [field.name for field in history] == ["clicked", "clicked_category", "since"]


@pytest.mark.parametrize("way", [tf4ctr_side.DIN, ("sequence=mean", "embedding=rowwise")])
def test_a_step_takes_histories_of_any_width(way):
    sizes = {"user": 40, "item": 30, "category": 5}
    schema, batch = tf4ctr_side.random_rows(sizes, {"past_items": "item", "past_categories": "category"}, 7, 50)
    assert batch.ids.shape == (50, 3 + 2 * 7)
    known_BL = batch.ids[:, schema.ids_of("past_items")] != schema.offset_of("item")
    assert torch.equal(known_BL, batch.ids[:, schema.ids_of("past_categories")] != schema.offset_of("category"))
    assert known_BL.sum(1).max() > 3
    one = bench.step(tf4ctr_side.build(schema, *way), batch)
    losses = [one() for _ in range(5)]
    assert losses[-1] < losses[0]
