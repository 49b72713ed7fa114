"""Sequences that raw files have: what is kept, what is missing, and the same from every format."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import leftovers, make_spec
from tf4ctr.data import report, vocabulary
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.sequences import columns_of, pieces, spread
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError

VISITS = {"name": "visits", "kind": "sequence", "of": "item", "separator": "|", "width": 3}
SHOPS = {"name": "shops", "kind": "sequence", "aligned_with": "visits", "separator": ",", "width": 3}
FIELDS = ["item", VISITS, SHOPS]
ITEMS = ["a", "b", "c"]
CASES = [  # visits, shops
    (["a"], ["x"]),
    (["a", "b", "c", "a", "b"], ["v", "w", "x", "y", "z"]),  # more than are kept
    (["c", None, "a"], [None, "x", "y"]),  # a missing value keeps its place
    (["zzz", "b"], ["x", "zzz"]),
    (["a", "a", "a"], ["x", "y", "x"]),
    (None, None),
    ([], []),
    (None, []),  # both are empty
    ([], None),
]


@pytest.fixture(autouse=True, scope="module")
def _no_drawing():
    """The report's figure takes three quarters of a small preparation, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_draw", lambda *_: None)
        yield


def rows_of(cases):
    visits, shops = zip(*cases, strict=True)
    schema = {"click": pl.Int64, "item": pl.String, "visits": pl.List(pl.String), "shops": pl.List(pl.String)}
    items = [ITEMS[number % 3] for number in range(len(cases))]
    clicks = [number % 2 for number in range(len(cases))]
    return pl.DataFrame([clicks, items, visits, shops], schema=schema)


def as_texts(rows, **separators):
    """The same rows with texts in place of lists."""
    return rows.with_columns(
        pl.col(name).list.eval(pl.element().fill_null("")).list.join(separator)
        for name, separator in separators.items()
    )


def write(folder, rows, kind):
    """The same rows as train, valid and test of a format."""
    folder.mkdir(exist_ok=True)
    texts = as_texts(rows, visits="|", shops=",") if kind == "csv" else rows
    for split in SPLITS:
        path = folder / f"{split}.{kind}"
        {"csv": texts.write_csv, "parquet": texts.write_parquet, "ndjson": texts.write_ndjson}[kind](path)
    return folder


def sequence_spec(folder, kind="parquet", **options):
    layout = {"reader": kind, **{split: f"{split}.{kind}" for split in SPLITS}}
    defaults = {"fields": FIELDS, "layouts": [layout], "group": None, "min_count": 1}
    return make_spec(folder, **{**defaults, **options})


def prepared_rows(folder, name, split="train"):
    """The table rows of a sequence, from the field's first one on."""
    schema = Schema.load(folder)
    table = pl.read_parquet(folder / f"{split}.parquet")
    return (table.select(schema[name].columns).to_numpy() - schema.offset_of(name)).tolist()


def expected_rows(values, known, width=3):
    """The last values of each row, their place in `known`, then padding: in plain Python."""
    numbers = {value: number for number, value in enumerate(known, 1)}
    rows = [[numbers.get(value, len(known) + 1) for value in (row or [])[-width:]] for row in values]
    return [row + [0] * (width - len(row)) for row in rows]


def test_the_last_values_are_kept_in_their_order(tmp_path):
    rows = rows_of(CASES)
    folder = prepare(sequence_spec(write(tmp_path / "raw", rows, "parquet")))
    visits, shops = zip(*CASES, strict=True)
    assert prepared_rows(folder, "visits") == expected_rows(visits, ITEMS)
    # a vocabulary of its own has the values that are kept, not those before
    known = vocabulary.load("shops", folder / "vocabulary").to_list()
    assert known == ["x", "y", "z", "zzz"]
    assert prepared_rows(folder, "shops") == expected_rows(shops, known)
    schema = Schema.load(folder)
    assert [field.name for field in schema.sequence_fields] == ["visits", "shops"]
    assert schema.offset_of("visits") == schema.offset_of("item")
    assert not (folder / "vocabulary" / "visits.parquet").exists()
    assert not (folder / "histories").exists()
    sizes = read_manifest(folder)["vocabulary_sizes"]
    assert sizes == {"item": 5, "visits": 5, "shops": 6}


def test_every_format_gives_the_same_bytes(tmp_path):
    rows = rows_of([case for case in CASES if None not in case or case == (None, None)] * 20)
    folders = []
    for kind in ("parquet", "csv", "ndjson"):
        spec = sequence_spec(write(tmp_path / "raw", rows, kind), kind, prepared_dir=tmp_path / kind)
        folders.append(prepare(spec))
    names = [*(f"{split}.parquet" for split in SPLITS), "schema.json", "vocabulary/item.parquet"]
    for name in [*names, "vocabulary/shops.parquet"]:
        first, *others = [(folder / name).read_bytes() for folder in folders]
        assert others == [first, first], name


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1.0, 2.0, 3.0], [1.5, None, 3.0]])
def test_lists_of_numbers_are_lists_of_their_texts(tmp_path, numbers):
    shown = [None if number is None else f"{number:g}" for number in numbers]
    field = {"name": "visits", "kind": "sequence", "width": 3, "separator": "|"}
    rows = pl.DataFrame({"click": [0, 1], "item": ["a", "b"], "visits": [numbers, numbers[:1]]})
    texts = rows.with_columns(pl.Series("visits", ["|".join(text or "" for text in shown), shown[0]]))
    folders = []
    for kind, frame in (("parquet", rows), ("csv", texts), ("ndjson", rows)):
        (tmp_path / kind).mkdir()
        for split in SPLITS:
            getattr(frame, f"write_{kind}")(tmp_path / kind / f"{split}.{kind}")
        options = {"fields": ["item", field], "prepared_dir": tmp_path / f"of {kind}"}
        folders.append(prepare(sequence_spec(tmp_path / kind, kind, **options)))
    known = sorted(text for text in shown if text is not None)
    for folder in folders:
        assert vocabulary.load("visits", folder / "vocabulary").to_list() == known
        assert prepared_rows(folder, "visits") == expected_rows([shown, shown[:1]], known)


def test_a_parquet_array_is_a_sequence(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = pl.DataFrame({"click": [0, 1], "item": ["a", "b"], "visits": [["a", "b"], ["b", None]]})
    for split in SPLITS:
        rows.with_columns(pl.col("visits").list.to_array(2)).write_parquet(folder / f"{split}.parquet")
    prepared = prepare(sequence_spec(folder, fields=["item", VISITS]))
    assert prepared_rows(prepared, "visits") == [[1, 2, 0], [2, 3, 0]]


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson"])
def test_an_empty_text_in_a_sequence_is_a_missing_value(tmp_path, kind):
    """Also of a sequence with a vocabulary of its own: it does not become a known value."""
    rows = rows_of([(["a", "", "b"], ["", "x", ""]), (["", "a"], ["", ""])])
    folder = prepare(sequence_spec(write(tmp_path / "raw", rows, kind), kind))
    assert vocabulary.load("shops", folder / "vocabulary").to_list() == ["x"]
    assert prepared_rows(folder, "visits") == [[1, 3, 2], [3, 1, 0]]
    assert prepared_rows(folder, "shops") == [[2, 1, 2], [2, 2, 0]]


def test_an_empty_text_in_a_hashed_sequence_is_a_missing_value(tmp_path):
    rows = rows_of([(["a", "", None], None), (["a"], None)])
    hashed = {"name": "visits", "kind": "sequence", "separator": "|", "width": 3, "hash": 1000}
    folder = prepare(sequence_spec(write(tmp_path / "raw", rows, "parquet"), fields=["item", hashed]))
    (first, *missing), (same, *padding) = prepared_rows(folder, "visits")
    assert 1 <= first == same <= 1000
    assert missing == [1001, 1001]
    assert padding == [0, 0]


def test_a_sequence_of_a_hashed_field_has_its_table_rows(tmp_path):
    rows = rows_of([(["a"], None), (["c", "b", "a", "c"], None), (None, None)])
    fields = [{"name": "item", "hash": 1000}, VISITS]
    folder = prepare(sequence_spec(write(tmp_path / "raw", rows, "parquet"), fields=fields))
    a, b, c = (row[0] for row in prepared_rows(folder, "item"))
    assert prepared_rows(folder, "visits") == [[a, 0, 0], [b, a, c], [0, 0, 0]]


def test_rare_values_of_a_sequence_are_out_of_vocabulary(tmp_path):
    rows = rows_of([(None, ["x", "y", "x"]), (None, ["y", "x", "z"]), (None, ["q", "x"])])
    shops = {**SHOPS, "aligned_with": None}
    for name, limits, known in (("a", {"min_count": 2}, ["x", "y"]), ("b", {"max_values": 1}, ["x"])):
        options = {"fields": ["item", {**shops, **limits}], "prepared_dir": tmp_path / name}
        folder = prepare(sequence_spec(write(tmp_path / "raw", rows, "parquet"), **options))
        assert vocabulary.load("shops", folder / "vocabulary").to_list() == known
        assert prepared_rows(folder, "shops") == expected_rows(rows["shops"].to_list(), known)


def test_sequences_that_are_all_empty_are_all_padding(tmp_path):
    rows = rows_of([(None, None), ([], [])])
    for kind in ("csv", "parquet"):
        spec = sequence_spec(write(tmp_path / "raw", rows, kind), kind, prepared_dir=tmp_path / kind)
        folder = prepare(spec)
        assert prepared_rows(folder, "visits") == prepared_rows(folder, "shops") == [[0] * 3] * 2
        assert Schema.load(folder)["shops"].vocabulary_size == 2
        json.loads((folder / "manifest.json").read_text(), parse_constant=pytest.fail)  # no NaN in it


@pytest.mark.parametrize("width", [2, 50, 1000])
def test_widths_to_1_000(tmp_path, width):
    random = np.random.default_rng(0)
    lengths = [0, 1, width - 1, width, width + 1, 3 * width]
    visits = [[ITEMS[number] for number in random.integers(0, 3, length)] for length in lengths]
    rows = rows_of([(row, None) for row in visits])
    folders = []
    for kind in ("parquet", "csv"):
        spec = sequence_spec(
            write(tmp_path / "raw", rows, kind),
            kind,
            fields=["item", {**VISITS, "width": width}],
            prepared_dir=tmp_path / kind,
        )
        folders.append(prepare(spec))
        assert prepared_rows(folders[-1], "visits") == expected_rows(visits, ITEMS, width)
    assert len(Schema.load(folders[0]).columns) == 1 + width
    assert (folders[0] / "train.parquet").read_bytes() == (folders[1] / "train.parquet").read_bytes()


@pytest.mark.parametrize(
    ("kind", "place", "shown"),
    [("csv", "line 4", "'x,y'"), ("parquet", "row 3", r"\['x', 'y'\]"), ("ndjson", "line 3", r"\['x', 'y'\]")],
)
def test_aligned_sequences_of_different_lengths_are_refused_with_the_line(tmp_path, kind, place, shown):
    cases = [(["a"], ["x"]), (["a", "b"], ["x", "y"]), (["a"], ["x", "y"]), (["a", "b", "c"], None)]
    spec = sequence_spec(write(tmp_path / "raw", rows_of(cases), kind), kind)
    expected = "as many values as column 'visits', to which it is aligned"
    message = rf"train\.{kind}, {place}: column 'shops' is {shown}, expected {expected} \(2 such rows\)"
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


def test_lengths_are_those_of_the_files_not_of_what_is_kept(tmp_path):
    cases = [(["a", "b", "c"], ["x", "y", "z"]), (["a", "b", "c", "a"], ["x", "y", "z"])]
    with pytest.raises(InputError, match=r"row 2: column 'shops'"):
        prepare(sequence_spec(write(tmp_path / "raw", rows_of(cases), "parquet")))


def test_a_text_without_a_separator_is_refused(tmp_path):
    field = {"name": "visits", "kind": "sequence", "of": "item", "width": 3}
    spec = sequence_spec(write(tmp_path / "raw", rows_of(CASES[:1]), "csv"), "csv", fields=["item", field])
    with pytest.raises(InputError, match=r"column 'visits' is text: set the field's separator"):
        prepare(spec)


def test_another_width_prepares_again(tmp_path):
    folder = write(tmp_path / "raw", rows_of(CASES), "parquet")
    assert len(Schema.load(prepare(sequence_spec(folder, fields=["item", VISITS])))["visits"].columns) == 3
    wider = sequence_spec(folder, fields=["item", {**VISITS, "width": 4}])
    assert len(Schema.load(prepare(wider))["visits"].columns) == 4


LISTS = st.lists(st.none() | st.lists(st.integers(0, 9), max_size=6), max_size=8)


@given(LISTS, st.integers(6, 9))
@settings(max_examples=50, deadline=None)
def test_lists_become_columns_with_padding_after_the_values(lists, width):
    """And the other columns of the frame stay as they are."""
    frame = pl.DataFrame({"other": range(len(lists)), "s": pl.Series(lists, dtype=pl.List(pl.Int32))})
    schema = Schema("toy", (Field("item", 7), Field("s", 12, width, "sequence")), "click")
    found = spread(frame, schema.sequence_fields, schema)
    assert found.columns == ["other", *schema["s"].columns]
    assert found["other"].to_list() == list(range(len(lists)))
    expected = [(row or []) + [schema.offset_of("s")] * (width - len(row or [])) for row in lists]
    assert [list(row) for row in found.drop("other").rows()] == expected
    assert {dtype for name, dtype in found.schema.items() if name != "other"} <= {pl.Int32}


def test_pieces_of_a_column_of_lists():
    ids, starts, lengths = pieces(pl.Series([[1, 2], None, [], [3]], dtype=pl.List(pl.Int64)))
    assert (ids.tolist(), starts.tolist(), lengths.tolist()) == ([1, 2, 3], [0, 2, 2, 2], [2, 0, 0, 1])
    columns = columns_of(ids, starts, lengths, 2, padding=9)
    assert np.stack(columns, 1).tolist() == [[1, 2], [9, 9], [9, 9], [3, 9]]
    assert {column.dtype for column in columns} == {np.dtype(np.int32)}
