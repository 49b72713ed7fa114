from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf4ctr.data import vocabulary
from tf4ctr.data.schema import Field

values = st.lists(st.one_of(st.none(), st.text("ab01é ", max_size=3)), min_size=1, max_size=50)


def counted(counts, batch):
    """The values of one batch, and their counts."""
    are_lists = isinstance(batch.schema["f"], pl.List)
    return batch.select(counts.query(pl.col("f"), are_lists)).item().struct.unnest()


def count(batches, min_count):
    counts = vocabulary.Counts("f")
    for batch in batches:
        counts.add(counted(counts, batch))
    return counts.seen(min_count).get_column("f")


def test_counts_of_many_batches_equal_those_of_one(monkeypatch):
    monkeypatch.setattr(vocabulary, "MERGE_ROWS", 5)
    drawn = pl.Series("f", [f"v{i * i % 17}" for i in range(200)] + [None])
    counts = vocabulary.Counts("f")
    for start in range(0, 201, 10):
        counts.add(counted(counts, drawn[start : start + 10].to_frame()))
        assert sum(map(len, counts._pending)) <= 5 + len(counts._merged)
    expected = Counter(value for value in drawn if value is not None)
    assert dict(counts.seen(1).rows()) == expected
    assert counts.seen(12).get_column("f").to_list() == sorted(
        value for value, number in expected.items() if number >= 12
    )


def test_counts_above_32_bits_are_exact(monkeypatch):
    monkeypatch.setattr(vocabulary, "MERGE_ROWS", 1)  # some batches are merged before the last one
    counts = vocabulary.Counts("f")
    for _ in range(5):
        counts.add(pl.DataFrame({"f": ["a", "b"], "count": [2**31, 1]}, schema_overrides={"count": pl.UInt64}))
    assert counts.seen(1).rows() == [("a", 5 * 2**31), ("b", 5)]
    assert counts.seen(2**33).rows() == [("a", 5 * 2**31)]


@pytest.mark.parametrize("rows", [["a", "b", "a", None], [["a", "b"], None, [], ["a", None]], [1, 2, 1, None]])
def test_a_batch_is_counted_in_64_bits(rows):
    counts = counted(vocabulary.Counts("f"), pl.DataFrame({"f": rows})).sort("f")
    assert counts.get_column("count").to_list() == [2, 1]
    assert counts.schema["count"] == pl.UInt64


@pytest.mark.parametrize(
    ("counted_values", "kept", "expected"),
    [
        ({"3": 2, "3.0": 1, "4.5": 1, "7.0": 1}, None, {"3": 3, "4.5": 1, "7.0": 1}),
        ({"3": 2, "3.0": 1}, ["3.0", "9"], {"3.0": 3, "9": 0}),
        ({"3.0": 2}, ["3"], {"3": 2}),
        ({"3": 2, "3.0": 1}, ["3", "3.0"], {"3": 2, "3.0": 1}),  # two rows of the earlier table
        ({"3": 2, "3.0": 1, "three": 1}, None, {"3": 2, "3.0": 1, "three": 1}),
    ],
)
def test_two_spellings_of_a_number_are_counted_as_one_value(counted_values, kept, expected):
    counts = vocabulary.Counts("f")
    for value, count in counted_values.items():
        counts.add(pl.DataFrame({"f": [value], "count": [count]}, schema_overrides={"count": pl.UInt64}))
    other = vocabulary.Counts("f")
    other.join(counts)  # as of another process
    for each in (counts, other):
        assert dict(each.seen(1, kept=None if kept is None else pl.Series("f", kept)).rows()) == expected


@given(train=values, later=values, min_count=st.integers(1, 3), offset=st.integers(0, 1000))
def test_table_rows_are_padding_sorted_known_values_unknown(train, later, min_count, offset):
    frame = pl.DataFrame({"f": train}, schema={"f": pl.String})
    known = count([frame], min_count)
    counts = Counter(value for value in train if value is not None)
    expected = sorted(value for value, count in counts.items() if count >= min_count)
    assert known.to_list() == expected
    assert vocabulary.size(known) == len(expected) + 2

    field = Field("f", vocabulary.size(known))
    frame = pl.DataFrame({"f": later}, schema={"f": pl.String})
    encoded = frame.select(vocabulary.encode(field, pl.col("f"), known, offset)).to_series()
    row_of = {value: row for row, value in enumerate(expected, 1)}
    assert encoded.to_list() == [offset + row_of.get(value, len(expected) + 1) for value in later]
    assert encoded.dtype == pl.Int32


def test_a_saved_vocabulary_loads_unchanged(tmp_path):
    known = pl.Series("site", ["a,b", 'quo"te', "é\n"])
    vocabulary.save(known, tmp_path / "vocabulary")
    assert vocabulary.load("site", tmp_path / "vocabulary").equals(known)


lists = st.lists(st.one_of(st.none(), st.lists(st.sampled_from("abcd"), max_size=5)), min_size=1, max_size=30)


@given(train=lists, later=lists, offset=st.integers(0, 1000))
def test_a_list_becomes_its_first_values_and_padding(train, later, offset):
    def frame(rows):
        return pl.DataFrame({"f": rows}, schema={"f": pl.List(pl.String)})

    known = count([frame(train[:7]), frame(train[7:])], 2)
    counts = Counter(value for row in train for value in row or [])
    assert known.to_list() == sorted(value for value, count in counts.items() if count >= 2)
    field = Field("f", vocabulary.size(known), width=3)
    encoded = frame(later).select(vocabulary.encode(field, pl.col("f"), known, offset))
    assert encoded.columns == ["f.0", "f.1", "f.2"]
    row_of = {value: row for row, value in enumerate(known, 1)}
    for row, ids in zip(later, encoded.rows(), strict=True):
        expected = [row_of.get(value, len(known) + 1) for value in (row or ["missing"])[:3]]
        assert list(ids) == [offset + number for number in [*expected, 0, 0][:3]]
