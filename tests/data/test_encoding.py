import numpy as np
import polars as pl
import pytest

from conftest import make_spec
from tf4ctr.data import encoding, vocabulary
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


def test_prepared_rows_take_3_and_3_0_as_one_value_as_prediction_does(tmp_path):
    """pandas writes ages as 20.0 where one is missing: here in the later files, of each split."""
    (tmp_path / "raw").mkdir()
    ages = [20 + i % 4 for i in range(40)]
    for name, end in {"train-1": "", "train-2": ".0", "valid": ".0", "test": ".0"}.items():
        texts = [f"{age}{end}" for age in ages]
        texts[7] = texts[7] if name == "train-1" else ""
        lines = [f"{i % 2},{text},{text}|{text},{text}|7" for i, text in enumerate(texts)]
        (tmp_path / "raw" / f"{name}.csv").write_text("\n".join(["click,age,ages,past", *lines]) + "\n")
    layout = {"reader": "csv", "train": "train-*.csv", "valid": "valid.csv", "test": "test.csv"}
    several = {"separator": "|", "width": 2}
    fields = ["age", {"name": "ages", **several}, {"name": "past", "kind": "sequence", "of": "age", **several}]
    spec = make_spec(tmp_path / "raw", layouts=[layout], fields=fields, group="age", min_count=15)
    folder = prepare(spec)
    schema = Schema.load(folder)
    assert vocabulary.load("age", folder / "vocabulary").to_list() == ["20", "21", "22", "23"]
    encoder = RowEncoder(schema, spec.fields, folder / "vocabulary")
    for split in ("valid", "test"):
        prepared = pl.read_parquet(folder / f"{split}.parquet")
        assert prepared["age"].to_list() == [5 if i == 7 else 1 + i % 4 for i in range(40)]
        assert prepared["__group"].to_list() == [4 if i == 7 else i % 4 for i in range(40)]
        raw = pl.read_csv(tmp_path / "raw" / f"{split}.csv", infer_schema=False)
        np.testing.assert_array_equal(encoder.ids(raw), prepared.select(schema.columns).to_numpy())


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
        encoding.keep(prepared, tmp_path)
    (prepared / "vocabulary" / "user.parquet").unlink()
    assert vocabulary.load("user", tmp_path / "vocabulary").equals(before)


def test_a_disk_without_links_gets_copies(spec, tmp_path, monkeypatch):
    prepared = prepare(spec)

    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr(type(tmp_path), "hardlink_to", refuse)
    encoding.keep(prepared, tmp_path)
    path = tmp_path / "vocabulary" / "item.parquet"
    assert path.stat().st_nlink == 1
    assert vocabulary.load("item", tmp_path / "vocabulary").equals(vocabulary.load("item", prepared / "vocabulary"))


SEQUENCE = {"kind": "sequence", "by": "user", "order": "time", "width": 3, "separator": "|"}
WITH_HISTORY = (
    FieldSpec("item"),
    FieldSpec("shop"),
    FieldSpec("history", of="item", **SEQUENCE),
    FieldSpec("history_shop", of="shop", aligned_with="history", **SEQUENCE),
    FieldSpec("history_gap", gaps=True, aligned_with="history", **SEQUENCE),
)
EMPTY = [[0] * 3, [7] * 3, [12] * 3]  # padding of the items, the shops and the times
# user u has clicked 3 in shop a at moment 1, and 5.0 in shop b at moment 4
OF_U = [[1, 2, 0], [8, 9, 7], [12 + 65, 12 + 65, 12]]  # without a moment: the times are unknown
OF_U_AT_4 = [[1, 0, 0], [8, 7, 7], [12 + 3, 12, 12]]


@pytest.fixture
def with_history(tmp_path):
    """Encodes rows of five items, three shops and the history of one user."""
    sizes = {"item": 7, "shop": 5}
    fields = tuple(field.encoded(sizes.get(field.of or field.name, 0)) for field in WITH_HISTORY)
    schema = Schema("toy", fields, "click")
    vocabulary.save(pl.Series("item", ["3", "5.0", "6", "7", "8"]), tmp_path / "vocabulary")
    vocabulary.save(pl.Series("shop", ["a", "b", "c"]), tmp_path / "vocabulary")
    (tmp_path / "histories").mkdir()
    state = {"__user": ["u"], "__moment": [[1.0, 4.0]], "history": [[1, 2]], "history_shop": [[8, 9]]}
    types = {"history": pl.List(pl.Int32), "history_shop": pl.List(pl.Int32)}
    pl.DataFrame(state, schema_overrides=types).write_parquet(tmp_path / "histories" / "history.parquet")
    return RowEncoder(schema, WITH_HISTORY, tmp_path / "vocabulary")


def encoded(encoder, **columns):
    """The histories of rows: for each row the items, the shops and the times."""
    count = len(next(iter(columns.values())))
    ids = encoder.ids(pl.DataFrame({"item": ["3"] * count, "shop": ["a"] * count, **columns}))
    return ids[:, 2:].reshape(count, 3, 3).tolist()


def test_an_encoder_names_the_columns_of_histories(with_history):
    assert with_history.columns == ["item", "shop"]
    assert with_history.optional == ["user", "time", "history", "history_shop", "history_gap"]


def test_a_history_is_joined_by_the_user(with_history):
    users = ["u", "u", "v", None]
    assert encoded(with_history, user=users) == [OF_U, OF_U, EMPTY, EMPTY]
    assert encoded(with_history, user=users, time=["4", None, "4", "4"]) == [OF_U_AT_4, OF_U, EMPTY, EMPTY]


GIVEN = {"history": ["8|nothing", "3|5|3.0|6", "", "||7"], "history_shop": ["c|a", "a|b|c|a", "", "|z|c"]}
FOUND = [
    [[5, 6, 0], [10, 8, 7]],
    [[2, 1, 3], [9, 10, 8]],  # the last three; 5 and 5.0 are one item, as in any field
    EMPTY[:2],
    [[6, 6, 4], [11, 11, 10]],
]
UNKNOWN_TIMES = [[12 + 65, 12 + 65, 12], [12 + 65] * 3, [12] * 3, [12 + 65] * 3]


def as_lists(texts):
    return [[part or None for part in text.split("|")] if text else [] for text in texts]


@pytest.mark.parametrize("written", [list, as_lists], ids=["texts", "lists"])
def test_a_history_of_the_rows_own_is_taken(with_history, written):
    given = {name: written(texts) for name, texts in GIVEN.items()}
    expected = [[*found, times] for found, times in zip(FOUND, UNKNOWN_TIMES, strict=True)]
    assert encoded(with_history, **given) == expected
    assert encoded(with_history, user=["u"] * 4, time=["9"] * 4, **given) == expected  # it counts, not the kept one
    gaps = written(["0|1", "99|0.5|3|1e30", "", "2.9||7"])
    times = [[13, 14, 12], [13, 15, 12 + 64], [12] * 3, [14, 12 + 65, 16]]
    expected = [[*found, row] for found, row in zip(FOUND, times, strict=True)]
    assert encoded(with_history, history_gap=gaps, **given) == expected


@pytest.mark.parametrize("written", [list, as_lists], ids=["texts", "lists"])
def test_a_row_without_a_history_of_its_own_gets_that_of_its_user(with_history, written):
    """A missing one; an empty one counts, if it is a list."""
    given = {name: [None, *written(texts), None] for name, texts in GIVEN.items()}
    users = ["u", "u", "u", "u", "u", "v"]
    found = encoded(with_history, user=users, **given)
    own = [[*found, times] for found, times in zip(FOUND, UNKNOWN_TIMES, strict=True)]
    assert found == [OF_U, *own, EMPTY]
    without = encoded(with_history, **given)
    assert without == [EMPTY, *own, EMPTY]


def test_rows_with_neither_a_history_nor_a_user_are_refused(with_history):
    message = "the history 'history' needs column 'user', whose history is kept, or the history itself in column"
    with pytest.raises(InputError, match=f"{message} 'history', 'history_shop'"):
        encoded(with_history, item=["3"])


@pytest.mark.parametrize("columns", [{"user": ["u"]}, {}], ids=["with a user", "without"])
def test_a_part_of_a_history_is_refused(with_history, columns):
    with pytest.raises(InputError, match="have column 'history' of the history 'history', but not 'history_shop'"):
        encoded(with_history, history=["3"], **columns)


def test_an_invalid_moment_and_sequences_of_different_lengths_are_faults(with_history):
    rows = pl.DataFrame(
        {
            "item": ["3"] * 6,
            "shop": ["a"] * 6,
            "time": ["4", "noon", None, "2026-01-01", "5", "6"],
            "history": ["3|5", "3", None, "", "3|5", "3"],
            "history_shop": ["a|b", "a", None, None, "a", "a|b"],
        }
    )
    *first, one, other = rows.select(with_history.fault(rows.schema)).to_series().to_list()
    assert first == [None, "column 'time' is 'noon', expected a number or an ISO date", None, None]
    assert one == other == ("column 'history_shop' has another number of values than 'history', to which it is aligned")
    no_history = rows.select("item", "shop")
    assert no_history.with_columns(fault=with_history.fault(no_history.schema))["fault"].null_count() == 6


def test_the_histories_go_with_the_vocabulary(with_history, tmp_path):
    for number in range(2):  # from a prepared dataset to a run, and from a run to an export
        folders = [tmp_path / name if name else tmp_path for name in ("", "run", "export")]
        folders[number + 1].mkdir()
        encoding.keep(folders[number], folders[number + 1])
    again = RowEncoder(with_history.schema, WITH_HISTORY, tmp_path / "export" / "vocabulary")
    assert encoded(again, user=["u", "v"]) == [OF_U, EMPTY]


def test_a_folder_without_the_histories_is_refused(with_history, tmp_path):
    (tmp_path / "histories" / "history.parquet").unlink()
    with pytest.raises(InputError, match=r"history\.parquet is missing: it has the histories of users"):
        RowEncoder(with_history.schema, WITH_HISTORY, tmp_path / "vocabulary")


def test_the_names_of_table_rows(with_history, tmp_path):
    schema, folder = with_history.schema, tmp_path / "vocabulary"
    ends = ("(none)", "(out of vocabulary)")
    assert encoding.value_names(schema["history"], folder).to_list() == [ends[0], "3", "5.0", "6", "7", "8", ends[1]]
    gaps = encoding.value_names(schema["history_gap"], folder)
    assert len(gaps) == 66
    assert gaps[[0, 1, 2, 3, 65]].to_list() == [ends[0], "below 1", "below 3", "below 7", ends[1]]
    hashed = FieldSpec("ip", hash=3).encoded(0)
    assert encoding.value_names(hashed, folder).to_list() == [ends[0], "(hash 1)", "(hash 2)", "(hash 3)", ends[1]]
