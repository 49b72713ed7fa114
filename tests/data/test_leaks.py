import numpy as np
import polars as pl
import pytest

from conftest import make_spec, write_raw
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare


def write(folder, change):
    """The toy dataset with a field `copy`, made of the labels and random numbers from 0 to 1."""
    raw = write_raw(folder / "raw")
    for seed, split in enumerate(("train", "valid", "test")):
        rows = pl.read_csv(raw / f"{split}.csv")
        chance = np.random.default_rng(seed).random(len(rows))
        rows.with_columns(copy=pl.Series(change(rows["click"].to_numpy(), chance))).write_csv(raw / f"{split}.csv")
    return make_spec(raw, fields=["user", "copy"])


@pytest.mark.parametrize(
    "change",
    [lambda click, chance: click, lambda click, chance: np.where(chance < 0.01, 1 - click, click) + 5],
    ids=["a copy", "nearly a copy, under other names"],
)
def test_a_field_that_decides_the_label_is_named(tmp_path, change, caplog):
    folder = prepare(write(tmp_path, change))
    assert "field 'copy' alone decides the label of" in caplog.text
    assert "is it a copy of 'click'" in caplog.text
    (warning,) = read_manifest(folder)["warnings"]
    assert warning in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda click, chance: np.where(chance < 0.2, 1 - click, click),
        lambda click, chance: np.arange(len(click)),
        lambda click, chance: np.full(len(click), 7),
    ],
    ids=["a strong field", "a key", "a constant"],
)
def test_an_honest_field_is_not(tmp_path, change, caplog):
    prepare(write(tmp_path, change))
    assert "alone decides" not in caplog.text


def write_sequence(folder, past):
    """The toy dataset with a sequence `past`; past(click, row) is its text in a row."""
    raw = write_raw(folder / "raw")
    for split in ("train", "valid", "test"):
        rows = pl.read_csv(raw / f"{split}.csv")
        texts = [past(click, row) for row, click in enumerate(rows["click"])]
        rows.with_columns(past=pl.Series(texts, dtype=pl.String)).write_csv(raw / f"{split}.csv")
    return make_spec(raw, fields=["hour", {"name": "past", "kind": "sequence", "separator": "|", "width": 3}])


@pytest.mark.parametrize(
    "past",
    [
        lambda click, row: "view|click|" * (row % 3) + ("click" if click else "view"),
        lambda click, row: "a|b" if click else None,
    ],
    ids=["ends with the row itself", "empty without a click"],
)
def test_a_sequence_with_the_rows_own_click_is_named(tmp_path, past, caplog):
    folder = prepare(write_sequence(tmp_path, past))
    (warning,) = read_manifest(folder)["warnings"]
    assert warning in caplog.text
    assert "the latest value of the sequence 'past' alone decides the label of 100.0% of the training rows" in warning


@pytest.mark.parametrize(
    "past",
    [
        # the earlier values tell the label, because a user always clicks or never does
        lambda click, row: f"{'a|b' if click else 'c|d'}|{row // 2}",
        lambda click, row: f"{row % 3}|{row % 7}",
        lambda click, row: None,
    ],
    ids=["users that always click", "no relation", "all empty"],
)
def test_an_honest_sequence_is_not(tmp_path, past, caplog):
    assert read_manifest(prepare(write_sequence(tmp_path, past)))["warnings"] == []
    assert "alone decides" not in caplog.text
