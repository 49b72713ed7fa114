"""Files that nobody has described: splits, formats, separators, headers, columns."""

import gzip
import json

import polars as pl
import pytest

from tf4ctr.data.describing import sniffing
from tf4ctr.data.splits import ALL
from tf4ctr.errors import InputError

ROWS = pl.DataFrame({"click": [0, 1, 0], "user": ["a", "b", "c"], "price": [1.5, None, 2.5]})


def write(folder, *names, rows=ROWS):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            rows.write_parquet(path)
        elif name.endswith(".arrow"):
            rows.write_ipc(path)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(rows.write_csv().encode()))
        else:
            rows.write_csv(path)
    return folder


def layout(*inputs, **options):
    return sniffing.find([str(path) for path in inputs], **options).layout


def test_files_named_like_splits_are_splits(tmp_path):
    folder = write(
        tmp_path, "ad_train_sample.csv", "ad_val_sample.csv", "ad_test_sample.csv", "items.csv", "README.txt"
    )
    source = sniffing.find([str(folder)])
    assert source.layout == {
        "reader": "csv",
        "train": "ad_train_sample.csv",
        "valid": "ad_val_sample.csv",
        "test": "ad_test_sample.csv",
    }
    assert source.has_splits
    assert source.notes == ["not used: README.txt, items.csv"]
    assert source.columns == ["click", "user", "price"]
    assert len(source.paths) == 3


def test_folders_named_like_splits_are_splits(tmp_path):
    folder = write(tmp_path, *(f"{split}/part-{i}.parquet" for split in ("train", "valid", "test") for i in range(2)))
    names = {split: f"{split}/part-*.parquet" for split in ("train", "valid", "test")}
    assert layout(folder) == {"reader": "parquet", **names}


def test_other_files_are_one_set(tmp_path):
    folder = write(tmp_path, "train.csv", "README.txt")
    assert layout(folder) == {"reader": "csv", "all": "train.csv"}
    assert layout(folder / "train.csv") == {"reader": "csv", "all": "train.csv"}
    write(folder / "log", "a.csv.gz", "b.csv.gz")
    assert layout(folder / "log") == {"reader": "csv", "all": "*.csv.gz"}
    assert layout(folder / "log/a*") == {"reader": "csv", "all": "a.csv.gz"}
    assert layout(folder / "*/*.csv.gz") == {"reader": "csv", "all": "*/*.csv.gz"}


def test_a_list_of_files(tmp_path):
    folder = write(tmp_path, "log/may.csv", "log/june.csv", "users.csv")
    source = sniffing.find([str(folder / "log/may.csv"), str(folder / "log/june.csv")])
    assert source.layout == {"reader": "csv", "all": "*.csv"}
    assert source.folder == folder / "log"
    write(folder, "log/july.csv")
    with pytest.raises(InputError, match=r"no name with wildcards matches june.csv, may.csv, .* a folder of their own"):
        sniffing.find([str(folder / "log/may.csv"), str(folder / "log/june.csv")])


def test_the_only_test_file_is_also_the_validation_file(tmp_path):
    source = sniffing.find([str(write(tmp_path, "train.csv", "test.csv"))])
    assert source.layout == {"reader": "csv", "train": "train.csv", "valid": "test.csv", "test": "test.csv"}
    assert "there is no valid file: the test file is used for both" in source.notes[0]
    assert len(source.paths) == 2


def test_a_test_file_without_labels_is_not_used(tmp_path):
    folder = write(tmp_path, "train.csv")
    write(folder, "test.csv", rows=ROWS.drop("click"))
    source = sniffing.find([str(folder)])
    assert source.layout == {"reader": "csv", "all": "train.csv"}
    assert source.notes == ["not used: test.csv, which has no column 'click'"]
    assert source.columns == ["click", "user", "price"]
    assert not source.has_splits


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "\x01"])
def test_the_separator_is_found(separator):
    text = pl.DataFrame({"label": [0, 1], "genres": ["Comedy, black|Drama", "Action"], "when": "2024-01-01 10:00"})
    lines = text.write_csv(separator=separator).splitlines()
    assert sniffing.separator_of(lines) == separator


def test_no_separator_is_found():
    assert sniffing.separator_of(["1::1193::5", "1::661::3"]) is None
    assert sniffing.separator_of(["a", "b"]) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["label", "101"], ["0", "7"]], True),  # a text above numbers
        ([["user", "city"], ["ann", "Rome"]], True),
        ([["user", "city"]], True),
        ([["0", "05db9164"], ["1", "68fd1e64"]], False),
        ([["196", "242"], ["186", "302"]], False),
        ([["", "click"], ["0", "1"]], True),  # pandas writes the index without a name
    ],
)
def test_a_header_line_is_found(rows, expected):
    assert sniffing.has_header(rows) is expected


def test_columns_without_a_header_are_numbered_or_named(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("0\t5\n1\t6\n")
    source = sniffing.find([str(path)])
    assert source.layout == {"reader": "csv", "separator": "\t", "header": ["column_1", "column_2"], "all": "log.tsv"}
    assert source.notes[0].startswith("the files have no header line")
    named = sniffing.find([str(path)], header=["click", "item"])
    assert named.columns == ["click", "item"]
    assert named.notes == []
    with pytest.raises(InputError, match=r"header has 1 names, the first line of .* has 2 cells"):
        sniffing.find([str(path)], header=["click"])


def test_columns_that_cannot_be_read(tmp_path):
    write(tmp_path, "a.parquet", rows=ROWS.with_columns(obj=pl.struct("user"), blob=pl.lit(b"x"), only=1))
    write(tmp_path, "b.parquet", rows=ROWS.with_columns(obj=pl.struct("user"), blob=pl.lit(b"x")))
    source = sniffing.find([str(tmp_path)])
    assert source.columns == ["click", "user", "price"]
    assert source.unreadable["only"] == "not all files have it"
    assert "holds no single values" in source.unreadable["obj"]
    assert "holds no single values" in source.unreadable["blob"]
    (tmp_path / "c.csv").write_text("click,,x,x\n0,1,2,3\n")
    twice = sniffing.find([str(tmp_path / "c.csv")])
    assert twice.columns == ["click"]
    assert twice.unreadable == {"x": "its name is in the header several times"}


def test_keys_of_json_objects(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [
        {"click": 1, "user": {"id": 3, "tags": ["a"]}, "seen": [{"item": 1}], "x": 1},
        {"click": 0, "user": {"id": 4, "age": None}, "x": [1], "late": 5},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    source = sniffing.find([str(path)])
    assert source.layout == {"reader": "ndjson", "all": "log.jsonl"}
    assert source.columns == ["click", "user.id", "user.tags", "user.age", "late"]
    assert source.unreadable == {"seen": "it is a list of objects", "x": "it is a list or a value"}
    assert source.raw.rows(source.paths, source.columns).collect().shape == (2, 6)


def test_a_file_is_known_by_its_content_not_by_its_name(tmp_path):
    write(tmp_path, "x.parquet").joinpath("x.parquet").rename(tmp_path / "log.txt")
    assert layout(tmp_path / "log.txt") == {"reader": "parquet", "all": "log.txt"}
    write(tmp_path, "x.arrow").joinpath("x.arrow").rename(tmp_path / "log.feather")
    assert layout(tmp_path / "log.feather") == {"reader": "arrow", "all": "log.feather"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3:1 7:1\n0 2:1 8:1\n", "write conf/dataset/NAME.yaml by hand"),
        ('[{"click": 1}]', "write one object per line"),
        ('{"click": 1}\n{"click"\n', "not a JSON object"),
        ("1::1193::5\n1::661::3\n", "one cell each, expected cells between commas"),
        ("", "is empty"),
        ("click,user\n".encode("utf-16"), "UTF-16"),
        ("click,user\n0,Zoë\n".encode("latin-1"), r"line 2: byte 0xeb at column 5 is not UTF-8; .*iconv -f latin1"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        sniffing.find([str(path)])


def test_missing_files_are_refused(tmp_path):
    write(tmp_path, "clicks.csv")
    with pytest.raises(InputError, match=r"does not exist \(did you mean 'clicks.csv'\?\)"):
        sniffing.find([str(tmp_path / "click.csv")])
    with pytest.raises(InputError, match="matches no file"):
        sniffing.find([str(tmp_path / "*.tsv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no files ending with .csv"):
        sniffing.find([str(tmp_path / "empty")])
    write(tmp_path, "clicks.parquet")
    with pytest.raises(InputError, match=r"several formats: clicks.csv \(csv\), clicks.parquet \(parquet\)"):
        sniffing.find([str(tmp_path)])


def test_all_files_are_one_set_of_the_reader(tmp_path):
    source = sniffing.find([str(write(tmp_path, "train.csv", "valid.csv", "test.csv"))])
    assert [path.name for path in source.raw.files[ALL]] == ["train.csv", "valid.csv", "test.csv"]
