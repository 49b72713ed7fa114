import sys

import numpy as np
import polars as pl
import pytest

from conftest import make_spec
from tf4ctr.data import vectors, vocabulary
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import MemoryStream
from tf4ctr.errors import InputError

SPLITS = ("train", "valid", "test")
IMAGE = {"name": "image", "kind": "vector", "width": 3}
LOOKED_UP = {"name": "text", "kind": "vector", "width": 2, "of": "item", "file": "texts.parquet"}


@pytest.fixture
def raw(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in SPLITS:
        image = random.normal(size=(60, 3)).round(3).tolist()
        image[7] = None
        pl.DataFrame({"click": [0, 1] * 30, "item": [f"i{i % 9}" for i in range(60)], "image": image}).write_parquet(
            folder / f"{split}.parquet"
        )
    items = [f"i{i}" for i in (3, 1, 0, 7, 99)]
    pl.DataFrame({"item": items, "text": [[i, -i] for i in range(5)]}).write_parquet(folder / "texts.parquet")
    return folder


def spec_of(raw, kind="parquet", **options):
    layout = {"reader": kind, **{split: f"{split}.{kind}" for split in SPLITS}}
    defaults = {"fields": ["item", IMAGE, LOOKED_UP], "layouts": [layout], "min_count": 1, "group": None}
    return make_spec(raw, **{**defaults, **options})


def test_vectors_of_rows_and_of_values_are_prepared(raw):
    folder = prepare(spec_of(raw))
    schema, source = Schema.load(folder), pl.read_parquet(raw / "train.parquet")
    assert schema.number_columns == ["image.0", "image.1", "image.2"]
    (batch,) = MemoryStream(folder, "train", 100)
    expected = [[np.nan] * 3 if row is None else row for row in source["image"].to_list()]
    np.testing.assert_allclose(batch.numbers.numpy(), expected, rtol=1e-6)
    values = vocabulary.load("item", folder / "vocabulary").to_list()
    table = vectors.load("text", folder / "vectors", 2)
    assert table.shape == (9, 2)
    assert table[values.index("i1")].tolist() == [1, -1]
    assert np.isnan(table[values.index("i2")]).all()
    encoder = RowEncoder(schema, spec_of(raw).fields, folder / "vocabulary")
    np.testing.assert_array_equal(encoder.numbers(source), batch.numbers.numpy())


def test_texts_and_arrays_give_the_same_vectors_as_lists(raw, tmp_path):
    first = prepare(spec_of(raw))
    for split in SPLITS:
        rows = pl.read_parquet(raw / f"{split}.parquet")
        texts = pl.col("image").list.eval(pl.element().cast(pl.String)).list.join(" ")
        rows.with_columns(texts).write_csv(raw / f"{split}.csv")
        rows.with_columns(pl.col("image").list.to_array(3)).write_parquet(raw / f"{split}.parquet")
    arrays = prepare(spec_of(raw, prepared_dir=tmp_path / "arrays"))
    fields = ["item", {**IMAGE, "separator": " "}, LOOKED_UP]
    texts = prepare(spec_of(raw, "csv", fields=fields, prepared_dir=tmp_path / "texts"))
    for split in SPLITS:
        wanted = (first / f"{split}.parquet").read_bytes()
        assert (arrays / f"{split}.parquet").read_bytes() == wanted
        assert (texts / f"{split}.parquet").read_bytes() == wanted


def test_another_file_of_vectors_prepares_again(raw):
    folder = prepare(spec_of(raw))
    before = vectors.load("text", folder / "vectors", 2)
    pl.DataFrame({"item": ["i1"], "text": [[5.0, 6.0]]}).write_parquet(raw / "texts.parquet")
    assert not np.array_equal(vectors.load("text", prepare(spec_of(raw)) / "vectors", 2), before, equal_nan=True)


@pytest.mark.parametrize("vector", [[1.0, 2.0], [1.0, 2.0, float("inf")], [1.0, None, 2.0], [1.0, 2.0, 3.0, 4.0]])
def test_a_vector_that_is_invalid_is_named_by_its_row(raw, vector):
    rows = pl.read_parquet(raw / "train.parquet")
    image = rows["image"].to_list()
    image[4] = vector
    rows.with_columns(image=pl.Series(image)).write_parquet(raw / "train.parquet")
    with pytest.raises(
        InputError, match=r"train\.parquet, row 5: column 'image' .*expected a vector of 3 finite numbers"
    ):
        prepare(spec_of(raw))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item": ["i1", "i1"], "text": [[1, 2], [3, 4]]}, "item 'i1' has several vectors, expected one"),
        ({"item": ["i1"], "text": [[1, 2, 3]]}, "the vector of item 'i1' is not a vector of 2 finite numbers"),
        ({"item": ["x", "y"], "text": [[1, 2], [3, 4]]}, r"no vector of any known value: it has \['x', 'y'\]"),
        ({"items": ["i1"], "text": [[1, 2]]}, "no column 'item'"),
    ],
)
def test_a_file_of_vectors_that_is_invalid_is_refused(raw, table, message):
    pl.DataFrame(table).write_parquet(raw / "texts.parquet")
    with pytest.raises(InputError, match=message):
        prepare(spec_of(raw))


def test_a_vector_of_a_value_that_is_not_known_is_not_looked_at(raw):
    rows = pl.read_parquet(raw / "texts.parquet")
    more = pl.DataFrame({"item": ["x", "x", "y"], "text": [[1, 2], [1, 2], [1]]})
    pl.concat([rows, more]).write_parquet(raw / "texts.parquet")
    assert np.isfinite(vectors.load("text", prepare(spec_of(raw)) / "vectors", 2)).sum() == 8


def test_a_missing_file_of_vectors_is_named(raw):
    (raw / "texts.parquet").unlink()
    with pytest.raises(InputError, match=r"texts\.parquet \(missing\)"):
        prepare(spec_of(raw))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({**LOOKED_UP, "of": None}, "file and of come together"),
        ({**IMAGE, "pooling": "mean"}, "a field of kind vector has no such option"),
        ({**LOOKED_UP, "of": "image"}, "expected a field with a vocabulary of its own"),
        ({"name": "text", "frozen": False}, "a field of kind categorical has no such option"),
    ],
)
def test_options_that_do_not_fit_a_vector_are_refused(tmp_path, field, message):
    with pytest.raises(InputError, match=message):
        make_spec(tmp_path, fields=["item", IMAGE, field] if field["name"] != "image" else ["item", field])


def hdf5_spec(raw, **datasets):
    h5py = pytest.importorskip("h5py")
    with h5py.File(raw / "texts.h5", "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return spec_of(raw, fields=["item", {**LOOKED_UP, "file": "texts.h5"}])


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_vectors_of_an_hdf5_file_are_those_of_a_table(raw, tmp_path, precision):
    table = pl.read_parquet(raw / "texts.parquet")
    values = np.array(table["text"].to_list(), precision)
    found = prepare(hdf5_spec(raw, key=table["item"].to_list(), value=values))
    expected = prepare(spec_of(raw, fields=["item", LOOKED_UP], prepared_dir=tmp_path / "expected"))
    np.testing.assert_array_equal(
        vectors.load("text", found / "vectors", 2), vectors.load("text", expected / "vectors", 2)
    )


def test_keys_of_an_hdf5_file_may_be_numbers(raw):
    for split in SPLITS:
        rows = pl.read_parquet(raw / f"{split}.parquet")
        rows.with_columns(pl.col("item").str.slice(1).cast(pl.Int64)).write_parquet(raw / f"{split}.parquet")
    folder = prepare(hdf5_spec(raw, key=[3, 1, 0, 7, 99], value=[[i, -i] for i in range(5)]))
    values = vocabulary.load("item", folder / "vocabulary").to_list()
    table = vectors.load("text", folder / "vectors", 2)
    assert [table[values.index(value)].tolist() for value in ("3", "1", "0", "7")] == [
        [0, 0],
        [1, -1],
        [2, -2],
        [3, -3],
    ]
    assert np.isnan(table).sum() == 2 * 5


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"keys": [1]}, r"texts\.h5: expected the arrays key \[N\] and value \[N, V\], found \['keys'\]"),
        ({"key": [1, 2], "value": [[1.0, 2.0]]}, r"found \{'key': \(2,\), 'value': \(1, 2\)\}"),
        ({"key": [1], "value": [1.0]}, r"found \{'key': \(1,\), 'value': \(1,\)\}"),
        ({"key": ["i1"], "value": [[1.0, 2.0, 3.0]]}, "the vector of item 'i1' is not a vector of 2 finite numbers"),
        ({"key": ["i1"], "value": [[1.0, float("nan")]]}, "the vector of item 'i1' is not a vector of 2 finite"),
    ],
)
def test_an_hdf5_file_that_is_invalid_is_refused(raw, datasets, message):
    spec = hdf5_spec(raw, **datasets)
    with pytest.raises(InputError, match=message):
        prepare(spec)


def test_an_hdf5_file_that_is_cut_short_says_so(raw):
    pytest.importorskip("h5py")
    (raw / "texts.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    with pytest.raises(InputError, match=r"texts\.h5 is not a readable HDF5 file"):
        prepare(spec_of(raw, fields=["item", {**LOOKED_UP, "file": "texts.h5"}]))


def test_an_hdf5_file_without_h5py_says_what_to_install(raw, monkeypatch):
    (raw / "texts.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r'texts\.h5 needs h5py .*pip install -e "\.\[hdf5\]"'):
        prepare(spec_of(raw, fields=["item", {**LOOKED_UP, "file": "texts.h5"}]))
