"""Histories go on where those of an earlier run end."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from data.test_histories import CATEGORIES, GAPS, HISTORY, WHOLE, drawn_log, log_spec
from tf4ctr.data import histories, report
from tf4ctr.data.encoding import value_names
from tf4ctr.data.growth import Base
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError


def prepared(folder, log, base=None, **options):
    """The prepared rows of a log, with names in place of the ids, in the order of the log."""
    folder.mkdir()
    (folder / "raw").mkdir()
    log.write_csv(folder / "raw" / "log.csv")
    spec = log_spec(folder / "raw", HISTORY, CATEGORIES, GAPS, layout=WHOLE, **options)
    target = prepare(replace(spec, base=base, prepared_dir=folder / "prepared"))
    schema = Schema.load(target)
    frames = []
    for split in SPLITS:
        frame = pl.read_parquet(target / f"{split}.parquet")
        for field in schema.sequence_fields:
            names = value_names(schema[field.of or field.name], target / "vocabulary").to_numpy()
            frame = frame.with_columns(
                pl.Series(column, names[frame[column].to_numpy() - schema.offset_of(field.name)])
                for column in field.columns
            )
        frames.append(frame.select("place", *(name for field in schema.sequence_fields for name in field.columns)))
    return Base(target, schema), pl.concat(frames).sort("place")


def timed_log(rows, users):
    """A log in the order of time, with so few items that each training split has all of them."""
    log = drawn_log(rows, users=users).with_columns(pl.col("item") % 6, pl.col("category").str.replace(r"\d", "0"))
    return log.filter(pl.col("time").is_not_null()).sort("time")


@pytest.mark.parametrize("rows_per_part", [1_000_000, 100])
def test_a_log_in_two_pieces_gives_the_histories_of_the_whole(tmp_path, monkeypatch, rows_per_part):
    """Also if the second piece repeats the end of the first, as a window of days does."""
    monkeypatch.setattr(report, "_draw", lambda *_: None)
    monkeypatch.setattr(histories, "ROWS_PER_PART", rows_per_part)
    log = timed_log(600, 60)
    first, second = log.filter(pl.col("time") < 15), log.filter(pl.col("time") >= 15)
    _, whole = prepared(tmp_path / "whole", log)
    base, _ = prepared(tmp_path / "first", first)
    _, alone = prepared(tmp_path / "alone", second)
    _, grown = prepared(tmp_path / "second", second, base)
    expected = whole.join(grown.select("place"), "place", "semi", maintain_order="right").sort("place")
    assert len(grown) == len(second) > 200
    assert grown.equals(expected)
    assert not alone.equals(expected)
    longer, _ = prepared(tmp_path / "longer", log.filter(pl.col("time") < 16))
    _, again = prepared(tmp_path / "again", second, longer)
    before = pl.concat([first, second.filter(pl.col("time") == 15)]).group_by("user").len()
    few = second.join(before.filter(pl.col("len") <= 4), "user", "semi")  # whose events all fit into the history
    assert len(few) > 20
    frames = [
        frame.join(few.select(pl.col("place").cast(pl.Float32)), "place", "semi").sort("place")
        for frame in (again, whole)
    ]
    assert frames[0].equals(frames[1])


def test_values_without_a_row_are_unknown_and_a_missing_state_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_draw", lambda *_: None)
    log = timed_log(300, 10)
    base, _ = prepared(tmp_path / "first", log.filter(pl.col("time") < 8))
    later = log.filter(pl.col("time") >= 8)
    few = [{"name": "item", "max_values": 3}, "user", "category", {"name": "place", "kind": "number", "scale": "none"}]
    _, grown = prepared(tmp_path / "few", later, base, fields=few)
    shown = set(np.unique(grown.select(f"history.{number}" for number in range(4)).to_numpy()))
    assert {"(none)", "(out of vocabulary)"} < shown
    assert len(shown) <= 2 + 3
    (base.folder / "histories" / "history.parquet").unlink()
    with pytest.raises(InputError, match="history.parquet is missing"):
        prepared(tmp_path / "lost", later, base)
