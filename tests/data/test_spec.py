import polars as pl
import pytest

from conftest import CSV, make_spec
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError

CONFIG = {
    "name": "toy",
    "prepared_dir": "p",
    "raw_dir": "r",
    "fields": ["a", "b"],
    "label": "y",
    "layouts": [CSV],
    "training": {"dropout": 0},
}


def test_from_config_takes_what_is_the_datasets():
    spec = DatasetSpec.from_config(CONFIG)
    assert spec.fields == (FieldSpec("a"), FieldSpec("b"))
    assert spec.prepared_dir.is_absolute()
    assert spec.columns == ["y", "a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_cuont": 2}, "did you mean 'min_count'"),
        ({"label": None}, "dataset.label is missing"),
        ({"label": "a"}, "the network would see the answer"),
        ({"click_probability": "b"}, "the network would see the answer"),
        ({"fields": ["a", "a"]}, "names a field twice"),
        ({"fields": ["a/b"]}, "cannot be a field's name"),
        ({"min_count": 0}, "dataset.min_count is 0"),
        ({"limit_rows": "many"}, "dataset.limit_rows is 'many'"),
        ({"layouts": [{"reader": "csv"}]}, "expected reader and train, valid, test"),
        ({"layouts": [{**CSV, "reader": "cvs"}]}, "did you mean 'csv'"),
        ({"layouts": [{**CSV, "quote": "''"}]}, "quote is \"''\": expected one character, or null"),
        ({"fields": [{"name": "a", "width": 0}]}, "a.width is 0: expected a whole number from 1 on"),
        ({"fields": [{"name": "a", "separator": "|"}]}, "has a separator and width 1"),
    ],
)
def test_a_mistake_is_refused_with_what_to_do(change, message):
    with pytest.raises(InputError, match=message):
        DatasetSpec.from_config({**CONFIG, **change})


def test_missing_raw_files_say_which_and_where_to_get_them(tmp_path):
    (tmp_path / "train.csv").touch()
    spec = make_spec(tmp_path, source="Download it from somewhere.")
    with pytest.raises(
        InputError,
        match=r"(?s)train.csv \(found\), valid.csv \(missing\).*Download it from somewhere.*dataset.raw_dir=FOLDER",
    ):
        spec.raw_files(tmp_path)


def test_the_first_whole_layout_is_taken(raw_dir, spec):
    raw = spec.raw_files(raw_dir)
    assert raw.reader == "csv"
    assert raw.files["test"] == [raw_dir / "test.csv"]


def test_a_folder_stands_for_its_parquet_files(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        for part in ("b", "a"):
            pl.DataFrame({"click": [1], "user": [part]}).write_parquet(tmp_path / split / f"{part}.parquet")
    layout = {"reader": "parquet", "train": "train", "valid": "valid", "test": "test"}
    raw = make_spec(tmp_path, fields=["user"], layouts=[layout]).raw_files(tmp_path)
    assert raw.files["train"] == [tmp_path / "train" / "a.parquet", tmp_path / "train" / "b.parquet"]
    before = raw.fingerprint()
    pl.DataFrame({"click": [0, 0], "user": ["c", "d"]}).write_parquet(tmp_path / "train" / "b.parquet")
    assert raw.fingerprint() != before
