import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from conftest import CSV, make_spec
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.growth import Base
from tf4ctr.data.schema import Field, Schema
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
        ({"fields": "user"}, "dataset.fields is user: expected a list, as in"),
        ({"fields": ["a/b"]}, "cannot be a field's name"),
        ({"min_count": 0}, "dataset.min_count is 0"),
        ({"limit_rows": "many"}, "dataset.limit_rows is 'many'"),
        ({"layouts": [{"reader": "csv"}]}, "expected reader and train, valid, test"),
        ({"layouts": [{**CSV, "reader": "cvs"}]}, "did you mean 'csv'"),
        ({"layouts": [{**CSV, "quote": "''"}]}, "quote is \"''\": expected one character, or null"),
        (
            {"layouts": [{**CSV, "separator": "::"}]},
            r"separator is '::': expected one ASCII .* sed 's/::/",
        ),
        ({"layouts": [{**CSV, "separator": "§"}]}, "separator is '§': expected one ASCII character"),
        (
            {"fields": [{"name": "a", "width": 2, "separator": "|"}, "a.0"]},
            r"'a\.0' and 'a' both have a prepared column 'a\.0'",
        ),
        ({"fields": [{"name": "a", "width": 0}]}, "a.width is 0: expected a whole number from 1 on"),
        ({"fields": [{"name": "a", "separator": "|"}]}, "has a separator and width 1"),
    ],
)
def test_a_mistake_is_refused_with_what_to_do(change, message):
    with pytest.raises(InputError, match=message):
        DatasetSpec.from_config({**CONFIG, **change})


def test_a_misspelt_list_of_histories_is_named():
    with pytest.raises(InputError, match="dataset.history is not an option of a dataset, did you mean 'histories'"):
        DatasetSpec.from_config({**CONFIG, "history": []})


SEQUENCE = {"name": "s", "kind": "sequence", "width": 5, "separator": "|"}
HISTORY = {"name": "h", "of": "item", "by": "user", "order": "time", "width": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sequences"}, "s.kind is 'sequences': did you mean 'sequence'?"),
        ({"width": 1}, "s is a sequence of width 1: set its width, from 2 on"),
        ({"width": "all"}, "s.width is 'all': expected a whole number from 1 on"),
        ({"pooling": "mean"}, "s.pooling is 'mean': a field of kind sequence has no such option"),
        ({"transform": "weekday"}, "s.transform is 'weekday': a field of kind sequence has no such option"),
        ({"scale": "minmax"}, "a field of kind sequence has no such option"),
        ({"file": "texts.parquet"}, "a field of kind sequence has no such option"),
        *(
            ({"kind": "categorical", option: value}, "a field of kind categorical has no such option")
            for option, value in {
                "aligned_with": "h",
                "target": "item",
                "by": "user",
                "order": "time",
                "where": {"label": 1},
                "gaps": True,
            }.items()
        ),
        ({"by": "user"}, "s.order is None: a history needs `by`, the user's column, and `order`, the moments'"),
        ({"order": "time"}, "s.by is None: a history needs `by`"),
        ({"where": {"label": 1}}, "only a history of the log has it: set `by` and `order`"),
        ({"gaps": True}, "s.gaps is True: expected aligned_with, the history of the log whose times they are"),
        ({"gaps": True, "aligned_with": "h"}, "expected aligned_with, the history of the log"),
        ({"gaps": True, "by": "user", "order": "time"}, "expected aligned_with, the history of the log"),
        ({"by": "user", "order": "time"}, "s.of is None: a history has the values of a field (`of`), or `gaps: true`"),
        ({"of": "items"}, "s.of is 'items', expected a field with a vocabulary of its own, did you mean 'item'?"),
        ({"of": "tags"}, "s.of is 'tags', a list: expected a single value"),
        ({"of": "price"}, "s.of is 'price', expected a field with a vocabulary of its own"),
        ({"of": "s"}, "s.of is 's', expected a field with a vocabulary of its own"),
        ({"of": "item", "min_count": 2}, "s.min_count is 2: the vocabulary is that of item: set it there"),
        ({"of": "item", "hash": 9}, "s.of is 'item': a field with hash has no vocabulary"),
        ({"target": "itm"}, "s.target is 'itm', expected a field with one id, did you mean 'item'?"),
        ({"target": "tags"}, "s.target is 'tags', expected a field with one id"),
        ({"target": "price"}, "s.target is 'price', expected a field with one id"),
        ({"target": "s"}, "s.target is 's', expected a field with one id"),
        ({"aligned_with": "s"}, "s.aligned_with is 's', expected a sequence that is not aligned with another"),
        ({"aligned_with": "item"}, "s.aligned_with is 'item', expected a sequence that is not aligned with another"),
        ({"aligned_with": "other", "width": 4}, "s is aligned with other, but its width is 4, not 5"),
        ({"aligned_with": "h"}, "s is aligned with h, but its by is None, not 'user'"),
    ],
)
def test_options_of_a_sequence_that_do_not_fit_are_refused(options, message):
    tags, price = {"name": "tags", "separator": "|", "width": 3}, {"name": "price", "kind": "number"}
    fields = ["user", "item", tags, price, {**SEQUENCE, "name": "other"}, {**SEQUENCE, **options}]
    with pytest.raises(InputError, match=re.escape(message)):
        DatasetSpec.from_config({**CONFIG, "fields": fields, "histories": [HISTORY]})


def aligned(**options):
    return [HISTORY, {"name": "g", "aligned_with": "h", **options}]


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("h", "dataset.histories: 'h' is no history: expected {name: history, of: FIELD, by: USER"),
        ([{"of": "item"}], "dataset.histories: {'of': 'item'} is no history"),
        ([{**HISTORY, "by": None}], "dataset.histories: h.by is missing: a history has `by` and `order`"),
        ([{**HISTORY, "order": None}], "dataset.histories: h.order is missing"),
        ([{**HISTORY, "width": 1}], "h is a sequence of width 1"),
        ([{**HISTORY, "kind": "categorical"}], "a field of kind categorical has no such option"),
        ([{**HISTORY, "form": "item"}], "form is not an option of a field"),
        ([{**HISTORY, "name": "item"}], "names a field twice: user, item, item"),
        ([HISTORY, HISTORY], "names a field twice: user, item, h, h"),
        *(
            ([{**HISTORY, "name": name, "where": {"action": 1}}], f"'{name}' is also a raw column of the dataset")
            for name in ("time", "action", "y")
        ),
        ([{**HISTORY, "column": "item"}], "'item' is also a raw column of the dataset: name the history otherwise"),
        ([{**HISTORY, "where": "label"}], "h.where is 'label': expected {label: 1}, or {COLUMN: [VALUE, ...]}"),
        ([{**HISTORY, "where": {}}], "h.where is {}: expected {label: 1}"),
        ([{**HISTORY, "where": {"action": []}}], "h.where is {'action': []}: expected {label: 1}"),
        ([{**HISTORY, "where": {"action": None}}], "h.where is {'action': None}: expected {label: 1}"),
        ([{**HISTORY, "where": {"action": {"not": "buy"}}}], "h.where is {'action': {'not': 'buy'}}: expected {label"),
        ([{**HISTORY, "where": {"label": "yes"}}], "h.where.label is 'yes': expected 0 or 1"),
        ([{**HISTORY, "where": {"label": [1, 2]}}], "h.where.label is '2': expected 0 or 1"),
        (aligned(), "g.of is None: a history has the values of a field (`of`), or `gaps: true`"),
        (aligned(gaps=True, of="item"), "g.of is 'item': a history has the values of a field (`of`), or"),
        (aligned(gaps=True, hash=9), "g.gaps is True: the times have neither a vocabulary nor a target"),
        (aligned(gaps=True, min_count=9), "the times have neither a vocabulary nor a target"),
        (aligned(gaps=True, max_values=9), "the times have neither a vocabulary nor a target"),
        (aligned(gaps=True, target="item"), "the times have neither a vocabulary nor a target"),
        (aligned(gaps=True, width=9), "g is aligned with h, but its width is 9, not 5"),
        (aligned(gaps=True, by="item"), "g is aligned with h, but its by is 'item', not 'user'"),
        (aligned(gaps=True, order="day"), "g is aligned with h, but its order is 'day', not 'time'"),
        (aligned(gaps=True, where={"label": 1}), "its where is {'label': ('1',)}, not None"),
        (
            [HISTORY, {"name": "g", "aligned_with": "hh", "gaps": True}],
            "g.aligned_with is 'hh', expected a history before it that is not aligned with another, did you mean 'h'?",
        ),
        (
            [*aligned(gaps=True), {"name": "f", "aligned_with": "g", "of": "item"}],
            "f.aligned_with is 'g', expected a history before it that is not aligned with another",
        ),
        (aligned(gaps=True)[::-1], "g.aligned_with is 'h', expected a history before it"),
    ],
)
def test_histories_that_do_not_fit_are_refused(histories, message):
    with pytest.raises(InputError, match=re.escape(message)):
        DatasetSpec.from_config({**CONFIG, "fields": ["user", "item"], "histories": histories})


def test_histories_are_fields_whose_columns_are_read_but_not_their_own():
    histories = [
        {**HISTORY, "where": {"label": True, "action": ["buy", 3]}, "target": "user"},
        {"name": "g", "aligned_with": "h", "gaps": True},
        {**HISTORY, "name": "days", "order": "day", "by": "shop", "width": 7},
        {"name": "prices", "aligned_with": "h", "of": "price", "hash": None},
    ]
    spec = DatasetSpec.from_config({**CONFIG, "fields": ["user", "item", "price"], "histories": histories})
    fields = {field.name: field for field in spec.fields}
    assert list(fields) == ["user", "item", "price", "h", "g", "days", "prices"]
    assert [field.name for field in spec.logs] == ["h", "days"]
    assert {field.name: field.width for field in spec.fields[3:]} == {"h": 5, "g": 5, "days": 7, "prices": 5}
    assert {field.separator for field in spec.fields[3:]} == {"|"}
    assert fields["prices"].where == {"label": ("true",), "action": ("buy", "3", "3.0")}
    assert spec.conditions(fields["h"]) == {"action": ("buy", "3", "3.0")}
    assert spec.columns == ["y", "user", "item", "price", "time", "action", "shop", "day"]
    assert spec.numbers == {"time", "day"}  # the others are texts
    schema = spec.stand_in()
    assert {field.name: field.target for field in schema.sequence_fields} == {
        "h": "user",
        "g": None,
        "prices": "price",
        "days": "item",
    }
    assert schema["g"].vocabulary_size == 66


def test_a_dataset_may_have_hashed_fields_alone():
    fields = [{"name": "item", "hash": 9}, {**SEQUENCE, "of": "item"}, {**SEQUENCE, "name": "t", "hash": 7}]
    spec = DatasetSpec.from_config({**CONFIG, "fields": fields})
    schema = spec.stand_in()
    assert {field.name: (field.hashed, field.vocabulary_size) for field in schema.fields} == {
        "item": (True, 3),
        "s": (True, 3),
        "t": (True, 3),
    }
    assert spec.least_rows() == 11 + 9


def test_the_rows_that_a_table_has_at_least_are_known_before_data_is_read():
    fields = ["user", {"name": "item", "hash": 100}, {"name": "shop", "max_values": 5}, {**SEQUENCE, "of": "user"}]
    spec = DatasetSpec.from_config({**CONFIG, "fields": fields})
    assert spec.least_rows() == 102
    sizes = (Field("user", 7), Field("item", 102, hashed=True), Field("shop", 30), Field("s", 7, of="user"))
    grown = replace(spec, base=Base(Path("run"), Schema("toy", sizes, "y")))
    assert grown.least_rows() == 7 + 102 + 7


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


def test_true_and_false_of_a_yaml_are_those_of_the_data(tmp_path):
    """YAML reads yes, no, on and off as booleans, too: they must be in quotes."""
    pl.DataFrame({"bought": [True, False, None], "user": ["a", "b", "c"]}).write_parquet(tmp_path / "a.parquet")
    label, layout = {"column": "bought", "positive": [True]}, {"reader": "parquet", "all": "a.parquet"}
    spec = make_spec(tmp_path, fields=["user"], label=label, null_values=["NA", False], layouts=[layout])
    assert spec.positive == ("true", "True", "TRUE")
    assert spec.null_values == ("NA", "false", "False", "FALSE")
    split = {"by": "member", "values": {"train": [True], "valid": [2], "test": ["x"]}}
    values = {"train": ["true", "True", "TRUE"], "valid": ["2", "2.0"], "test": ["x"]}
    assert make_spec(tmp_path, fields=["user"], split=split, layouts=[layout]).split.values == values


def test_a_layout_can_name_files_by_their_whole_path(tmp_path):
    (tmp_path / "a.csv").write_text("click,user\n1,a\n")
    spec = make_spec(tmp_path / "raw", fields=["user"], layouts=[{"reader": "csv", "all": str(tmp_path / "*.csv")}])
    assert spec.raw_files(tmp_path / "raw").files["all"] == [tmp_path / "a.csv"]
    gone = make_spec(tmp_path / "raw", fields=["user"], layouts=[{"reader": "csv", "all": str(tmp_path / "b.csv")}])
    with pytest.raises(InputError, match=r"b\.csv \(missing\)"):
        gone.raw_files(tmp_path / "raw")


def test_null_values_are_a_list(tmp_path):
    with pytest.raises(InputError, match=r"dataset.null_values is NA: expected a list of texts, as in \['NA'\]"):
        make_spec(tmp_path, null_values="NA")
