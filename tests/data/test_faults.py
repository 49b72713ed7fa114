import gzip

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from conftest import leftovers, make_spec
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.errors import InputError


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (12, "1,3,4", r"train\.csv has invalid rows:\n  line 12: 3 cells, the header has 4"),
        (12, "1,3,4,5,6", r"line 12: 5 cells, the header has 4"),
        (
            12,
            "2,3,4,5",
            r"train\.csv, line 12: column 'click' is '2', expected 0 or 1, or .* \(1 such rows\)\n  2,3,4,5$",
        ),
        (12, "yes,3,4,5", r"line 12: column 'click' is 'yes'"),
        (12, ",3,4,5", r"line 12: column 'click' is missing"),
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


def test_the_separator_of_a_header_is_found(raw_dir):
    for path in raw_dir.iterdir():
        path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(InputError, match="one column 'click;user;item;hour': write separator: ';' in the layout"):
        prepare(make_spec(raw_dir))


def test_a_split_that_gets_no_row_is_no_empty_file(tmp_path):
    (tmp_path / "log.csv").write_text("click,user\n1,1\n0,2\n")
    layouts = ({"reader": "csv", "all": "log.csv"},)
    options = {"fields": ("user",), "layouts": layouts, "min_count": 1, "group": None}
    spec = make_spec(tmp_path, prepared_dir=tmp_path / "prepared", **options)
    with pytest.raises(InputError, match=r"log\.csv: none of its 2 rows is in the valid split"):
        prepare(spec)


def test_a_file_cut_in_half_is_refused(raw_dir):
    rows = {"train": 400, "valid": 100, "test": 100}
    path = raw_dir / "train.csv"
    content = path.read_bytes()
    end = content.index(b"\n", len(content) // 2) + 1  # at the end of a line, where no row looks wrong
    path.write_bytes(content[:end])
    with pytest.raises(InputError, match=r"train\.csv has \d+ rows, toy has 400 in its train split"):
        prepare(make_spec(raw_dir, rows=rows))
    path.write_bytes(content[: end - 4])  # and within one
    with pytest.raises(InputError, match=r"invalid rows|has \d+ rows"):
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
            r"line 402: column 'click' is 'click' \(the header again: were files joined\?\), expected 0 or 1",
        ),
        (
            lambda b: b.replace(b"click,user,item", b"click,user,user", 1),
            r"no column 'item'|names column 'user' 2 times",
        ),
        (lambda b: b + b'1,2,"3,4\n', r"line 402: a quote without its pair: 1,2,\"3,4"),
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


def test_a_row_with_a_value_in_a_column_that_is_not_read_is_a_row(raw_dir):
    """A line of separators alone, as spreadsheets export them, is none. Both count as lines."""
    lines = [f"{line}," for line in (raw_dir / "train.csv").read_text().splitlines()]
    lines[0] += "note"
    (raw_dir / "train.csv").write_text("\n".join([*lines[:5], "", ",,,,", *lines[5:], ",,,,"]) + "\n")
    assert read_manifest(prepare(make_spec(raw_dir)))["splits"]["train"]["rows"] == 400
    (raw_dir / "train.csv").write_text("\n".join([*lines[:5], "", ",,,,", ",,,,x", *lines[5:]]) + "\n")
    with pytest.raises(InputError, match=r"train\.csv, line 8: column 'click' is missing.*\(1 such rows\)\n  ,,,,x"):
        prepare(make_spec(raw_dir))


@pytest.mark.parametrize("line", ["1,\xff,3,4,5", "1,2", "1,2,3,4,5,6"])
def test_a_bad_line_of_a_file_with_a_column_that_is_not_read_is_named(raw_dir, line):
    lines = [f"{line},n" for line in (raw_dir / "train.csv").read_text().splitlines()]
    lines[0] = lines[0].removesuffix("n") + "note"
    (raw_dir / "train.csv").write_text("\n".join([*lines, line]) + "\n", encoding="latin1")
    with pytest.raises(InputError, match=r"train\.csv(, line 402: byte| has invalid rows:\n  line 402: )"):
        prepare(make_spec(raw_dir))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named_with_the_command_that_converts(raw_dir, encoding):
    text = (raw_dir / "train.csv").read_text()
    (raw_dir / "train.csv").write_text(text, encoding=encoding)
    with pytest.raises(InputError, match=r"train\.csv is encoded as UTF-16, expected UTF-8; .*iconv -f utf-16"):
        prepare(make_spec(raw_dir))


@pytest.mark.parametrize("cells", ['1,2,3,4,6" screen', '1,2,3,4,"screen', '1,2,3,4,"a"b'])
def test_a_stray_quote_in_a_column_that_is_not_read_is_named(raw_dir, cells):
    rows = [f"{line},t" for line in (raw_dir / "train.csv").read_text().splitlines()]
    rows[0] = rows[0].removesuffix("t") + "title"
    rows[5] = cells
    (raw_dir / "train.csv").write_text("\n".join(rows) + "\n")
    layout = {"reader": "csv", "train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
    with pytest.raises(InputError, match=r"line 6: |could not parse"):
        prepare(make_spec(raw_dir))
    prepared = prepare(make_spec(raw_dir, layouts=[{**layout, "quote": None}]))
    assert read_manifest(prepared)["splits"]["train"]["rows"] == 400


def test_all_bad_labels_of_files_without_splits_are_counted(tmp_path):
    (tmp_path / "raw").mkdir()
    lines = ["click,user", *(f"{'maybe' if i % 4 == 0 else i % 2},u{i % 7}" for i in range(760))]
    (tmp_path / "raw" / "log.csv").write_text("\n".join(lines) + "\n")
    layouts = [{"reader": "csv", "all": "log.csv"}]
    with pytest.raises(
        InputError, match=r"line 2: column 'click' is 'maybe', expected .*\(190 such rows\)\n  maybe,u0"
    ):
        prepare(make_spec(tmp_path / "raw", fields=["user"], group=None, layouts=layouts))


def test_a_bad_label_of_parquet_is_named_by_its_row(raw_dir):
    for split in ("train", "valid", "test"):
        rows = pl.read_csv(raw_dir / f"{split}.csv")
        rows.with_columns(click=pl.when(pl.int_range(len(rows)) == 3).then(5).otherwise("click")).write_parquet(
            raw_dir / f"{split}.parquet"
        )
    layout = {"reader": "parquet", "train": "train.parquet", "valid": "valid.parquet", "test": "test.parquet"}
    with pytest.raises(InputError, match=r"train\.parquet, row 4: column 'click' is '5', .*\(1 such rows\)$"):
        prepare(make_spec(raw_dir, layouts=[layout]))


def test_labels_that_are_other_words_are_refused(raw_dir):
    text = (raw_dir / "train.csv").read_text().replace("\n1,", "\nclicked,")
    (raw_dir / "train.csv").write_text(text)
    with pytest.raises(InputError, match="column 'click' is 'clicked', expected 0 or 1, or true or false"):
        prepare(make_spec(raw_dir))


HISTORY = {"name": "history", "of": "item", "by": "user", "order": "time", "where": {"action": "buy"}, "width": 3}


def history_spec(folder, lines, name="log.csv", **options):
    """A dataset with a history, of one more csv file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["click,user,item,action,time", *lines]) + "\n")
    layouts = [{"reader": "csv", "all": "*.csv"}]
    return make_spec(
        folder, **{"fields": ["item"], "group": None, "layouts": layouts, "histories": [HISTORY], **options}
    )


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "12:30", "inf"])
def test_a_moment_that_is_neither_a_number_nor_a_date_is_named_by_its_line(tmp_path, text):
    lines = [f"{i % 2},u{i % 7},{i % 5},buy,{moment}" for i, moment in enumerate(["", "3", "2026-01-01", "-4.5"] * 20)]
    history_spec(tmp_path / "raw", lines)
    spec = history_spec(tmp_path / "raw", [lines[0], f"1,u,1,buy,{text}", "1,u,1,buy,never"], "more.csv")
    message = rf"more\.csv, line 3: column 'time' is '{text}', expected a number or an ISO date \(2 such rows\)\n  1,u"
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


def test_a_row_without_a_moment_is_not_refused(tmp_path):
    lines = [f"{i % 2},u{i % 7},{i % 5},buy,{'' if i % 3 else i}" for i in range(60)]
    assert read_manifest(prepare(history_spec(tmp_path / "raw", lines)))["splits"]["train"]["rows"] > 30


@pytest.mark.parametrize("option", ["by", "order", "where"])
def test_a_column_of_a_history_that_the_files_do_not_have_is_named(tmp_path, option):
    history = HISTORY | {option: {"tyme": 3} if option == "where" else "tyme"}
    spec = history_spec(tmp_path / "raw", ["1,u,1,buy,3"], histories=[history])
    with pytest.raises(InputError, match=r"log\.csv: no column 'tyme' in its header \(did you mean 'time'"):
        prepare(spec)


@pytest.mark.parametrize("column", ["user", "time", "action"])
def test_a_list_in_a_column_of_a_history_is_refused(tmp_path, column):
    (tmp_path / "raw").mkdir()
    values = {"click": [0, 1], "user": ["u", "v"], "item": ["a", "b"], "action": ["buy", "view"], "time": ["1", "2"]}
    rows = pl.DataFrame(values | {column: [["1"], ["2", "3"]]})
    rows.write_parquet(tmp_path / "raw" / "log.parquet")
    layouts = [{"reader": "parquet", "all": "log.parquet"}]
    spec = make_spec(tmp_path / "raw", fields=["item"], group=None, layouts=layouts, histories=[HISTORY])
    with pytest.raises(InputError, match=f"dataset.histories: their column '{column}' is a list, expected one value"):
        prepare(spec)
