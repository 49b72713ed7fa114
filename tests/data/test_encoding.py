import numpy as np
import polars as pl
import pytest

from tf4ctr.data import vocabulary
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError


def test_raw_rows_get_the_ids_that_preparation_gave_them(spec):
    prepared = prepare(spec)
    schema = Schema.load(prepared)
    encoder = RowEncoder(schema, spec.fields, prepared / "vocabulary")
    raw = pl.read_csv(spec.raw_dir / "test.csv", infer_schema=False)
    expected = pl.read_parquet(sorted(prepared.glob("**/test*.parquet"))).select(schema.columns).to_numpy()
    np.testing.assert_array_equal(encoder.ids(raw), expected)
    nothing = pl.DataFrame(
        {name: ["never seen", None] for name in encoder.columns}, schema=dict.fromkeys(encoder.columns, pl.String)
    )
    assert (encoder.ids(nothing) == encoder.unknown_W).all()


@pytest.mark.parametrize("written", [("3.0", "7.0"), ("3", "7")])
def test_whole_numbers_are_the_same_with_and_without_a_fraction(tmp_path, written):
    """pandas writes 3.0 if a value is missing, and the row to predict has 3, or the reverse."""
    schema = Schema("toy", (Field("user", 4),), "click")
    vocabulary.save(pl.Series("user", written), tmp_path)
    encoder = RowEncoder(schema, [FieldSpec("user")], tmp_path)
    assert encoder.ids(pl.DataFrame({"user": ["3", "3.0", "7.0", "7", "8", None]})).T.tolist() == [[1, 1, 2, 2, 3, 3]]


@pytest.mark.parametrize("known", [["1", "1.0"], ["1", "x"], ["v1", "v1.0"]])
def test_other_texts_are_compared_as_they_are(tmp_path, known):
    vocabulary.save(pl.Series("user", known), tmp_path)
    encoder = RowEncoder(Schema("toy", (Field("user", 4),), "click"), [FieldSpec("user")], tmp_path)
    assert encoder.ids(pl.DataFrame({"user": [*known, f"{known[1]}.0", f"{known[0]}.00"]})).T.tolist() == [[1, 2, 3, 3]]


def test_a_list_field_takes_lists_and_texts(tmp_path):
    vocabulary.save(pl.Series("tags", ["a", "b"]), tmp_path)
    encoder = RowEncoder(
        Schema("toy", (Field("tags", 4, 2),), "y"), [FieldSpec("tags", separator="|", width=2)], tmp_path
    )
    lists = pl.DataFrame({"tags": [["a", None, "b"], [], None, ["b", "c", "a"]]})
    texts = pl.DataFrame({"tags": ["a||b", "", None, "b|c|a"]})
    assert encoder.ids(lists).tolist() == encoder.ids(texts).tolist() == [[1, 2], [3, 0], [3, 0], [2, 3]]


def test_a_fault_names_column_value_and_what_was_expected(spec):
    prepared = prepare(spec)
    fields = [
        type(field)(field.name, transform="log_bucket" if field.name == "hour" else None) for field in spec.fields
    ]
    encoder = RowEncoder(Schema.load(prepared), fields, prepared / "vocabulary")
    rows = pl.DataFrame({"user": ["1", "1", None], "item": ["2", "2", "2"], "hour": ["3", "noon", None]})
    assert rows.select(encoder.fault()).to_series().to_list() == [
        None,
        "column 'hour' is 'noon', expected a number",
        None,
    ]


def test_another_vocabulary_is_refused(spec):
    prepared = prepare(spec)
    path = prepared / "vocabulary" / "user.parquet"
    path.write_bytes((prepared / "vocabulary" / "hour.parquet").read_bytes())
    pl.read_parquet(path).rename({"hour": "user"}).write_parquet(path)
    with pytest.raises(InputError, match=r"user.parquet has \d+ values, the network \d+"):
        RowEncoder(Schema.load(prepared), spec.fields, prepared / "vocabulary")


def test_a_run_keeps_the_vocabulary_when_the_dataset_is_gone(spec, tmp_path):
    prepared = prepare(spec)
    before = vocabulary.load("user", prepared / "vocabulary")
    for _ in range(2):
        vocabulary.keep(prepared, tmp_path)
    (prepared / "vocabulary" / "user.parquet").unlink()
    assert vocabulary.load("user", tmp_path / "vocabulary").equals(before)


def test_a_disk_without_links_gets_copies(spec, tmp_path, monkeypatch):
    prepared = prepare(spec)

    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr(type(tmp_path), "hardlink_to", refuse)
    vocabulary.keep(prepared, tmp_path)
    path = tmp_path / "vocabulary" / "item.parquet"
    assert path.stat().st_nlink == 1
    assert vocabulary.load("item", tmp_path / "vocabulary").equals(vocabulary.load("item", prepared / "vocabulary"))
