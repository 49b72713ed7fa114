import gzip

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from conftest import leftovers, make_spec
from tf4ctr.data.preparation import prepare, read_manifest
from tf4ctr.errors import InputError


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (12, "1,3,4", r"train\.csv has rows that are cut short or too long:\n  line 12: 3 cells, the header has 4"),
        (12, "1,3,4,5,6", r"line 12: 5 cells, the header has 4"),
        (12, "2,3,4,5", r"train\.csv, line 12: column 'click' is '2', expected 0 or 1 \(1 such rows\)"),
        (12, "yes,3,4,5", r"line 12: column 'click' is 'yes'"),
        (12, ",3,4,5", r"line 12: column 'click' is None"),
        (1, "click,user,itme,hour", r"no column 'item' in its header \(did you mean 'itme'\?\)"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left(raw_dir, line, text, message):
    path = raw_dir / "train.csv"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    spec = make_spec(raw_dir)
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


def test_a_file_cut_in_half_is_refused(raw_dir):
    rows = {"train": 400, "valid": 100, "test": 100}
    path = raw_dir / "train.csv"
    content = path.read_bytes()
    end = content.index(b"\n", len(content) // 2) + 1  # at the end of a line, where no row looks wrong
    path.write_bytes(content[:end])
    with pytest.raises(InputError, match=r"train\.csv has \d+ rows, toy has 400 in its train split"):
        prepare(make_spec(raw_dir, rows=rows))
    path.write_bytes(content[: end - 4])  # and within one
    with pytest.raises(InputError, match=r"cut short|has \d+ rows"):
        prepare(make_spec(raw_dir, rows=rows))
    assert not make_spec(raw_dir).prepared_dir.exists()


def test_a_header_without_rows_is_refused(raw_dir):
    (raw_dir / "valid.csv").write_text("click,user,item,hour\n")
    with pytest.raises(InputError, match=r"valid\.csv has no rows"):
        prepare(make_spec(raw_dir))


def break_train(raw_dir, change):
    path = raw_dir / "train.csv"
    path.write_bytes(change(path.read_bytes()))
    return make_spec(raw_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b.replace(b"\n", b"\n\xff", 9).replace(b"\n\xff", b"\n", 8),
            r"line 10: byte 0xff at column 1 is not UTF-8; .*iconv",
        ),
        (lambda b: b"", r"train\.csv is empty: expected a header"),
        (lambda b: b.replace(b"\n", b"\n\n", 2) + b"\n2,3,4,5\n", r"line 405: column 'click' is '2', expected 0 or 1"),
        (
            lambda b: b + b,
            r"line 402: column 'click' is 'click' \(the header again: files put one after the other\?\), expected 0 or 1",
        ),
        (
            lambda b: b.replace(b"click,user,item", b"click,user,user", 1),
            r"no column 'item'|names column 'user' 2 times",
        ),
        (lambda b: b + b'1,2,"3,4\n', r"train\.csv has rows that are cut short|cannot be read"),
        (lambda b: b.replace(b"\n", b"\r"), r"train\.csv ends its lines with carriage returns alone"),
        (lambda b: gzip.compress(b)[:-400], r"train\.csv cannot be read.*download it again"),
    ],
    ids=[
        "not UTF-8",
        "empty",
        "blank lines before",
        "header twice",
        "column twice",
        "open quote",
        "old line ends",
        "gzip cut short",
    ],
)
def test_a_broken_file_is_told_and_nothing_is_left(raw_dir, change, message):
    spec = break_train(raw_dir, change)
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.replace(b"\n", b"\r\n"),
        lambda b: b.replace(b"\n", b"\r\n", 50),
        lambda b: gzip.compress(b),
        lambda b: b"\xef\xbb\xbf" + b,
        lambda b: b + b"\n\n",
    ],
    ids=["CRLF", "mixed line ends", "gzipped under its own name", "byte order mark", "blank lines at the end"],
)
def test_other_writings_of_the_same_rows_prepare_the_same(raw_dir, prepared, change):
    before = {split: pl.read_parquet(prepared / f"{split}.parquet") for split in ("train", "valid", "test")}
    folder = prepare(break_train(raw_dir, change))
    for split, rows in before.items():
        assert_frame_equal(pl.read_parquet(folder / f"{split}.parquet"), rows)


def test_a_value_that_its_transform_cannot_take_is_named(raw_dir):
    fields = ["user", {"name": "weekday", "column": "item", "transform": "weekday"}]
    with pytest.raises(
        InputError, match=r"train\.csv, line 2: column 'item' is '\d+', expected a time as YYMMDDHH \(400 such rows\)"
    ):
        prepare(make_spec(raw_dir, fields=fields))


def test_parquet_cut_short_is_refused(raw_dir):
    for split in ("train", "valid", "test"):
        pl.read_csv(raw_dir / f"{split}.csv").write_parquet(raw_dir / f"{split}.parquet")
    layout = {"reader": "parquet", **{split: f"{split}.parquet" for split in ("train", "valid", "test")}}
    assert read_manifest(prepare(make_spec(raw_dir, layouts=[layout])))["splits"]["train"]["rows"] == 400
    content = (raw_dir / "train.parquet").read_bytes()
    (raw_dir / "train.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"train\.parquet is not a readable parquet file"):
        prepare(make_spec(raw_dir, layouts=[layout]))
