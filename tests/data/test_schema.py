import json

import pytest

from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError


def test_fields_own_consecutive_rows_of_the_table(schema):
    assert schema.offsets == (0, 7, 12)
    assert schema.num_ids == 16
    assert schema.num_fields == 3


def test_round_trip(schema, tmp_path):
    schema.save(tmp_path)
    assert Schema.load(tmp_path) == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_a_folder_without_schema_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="prepare.py"):
        Schema.load(tmp_path)


def test_a_field_knows_its_columns_of_ids_and_its_rows():
    schema = Schema("toy", (Field("user", 7), Field("tags", 6, 3), Field("hour", 4)), "click")
    assert [schema.columns[schema.ids_of(name)] for name in ("user", "tags", "hour")] == [
        ["user"],
        ["tags.0", "tags.1", "tags.2"],
        ["hour"],
    ]
    assert [schema.offset_of(name) for name in ("user", "tags", "hour")] == [0, 7, 13]
    assert [schema.unknown_of(name) for name in ("user", "tags", "hour")] == [6, 12, 16]


LISTS = (
    Field("clicked", 5, 3, "sequence", of="item", target="item"),
    Field("user", 7),
    Field("bought", 4, 2, "sequence"),
    Field("clicked_shop", 6, 3, "sequence", of="shop", aligned_with="clicked", target="shop"),
    Field("item", 5),
    Field("clicked_gap", 66, 3, "sequence", aligned_with="clicked", gaps=True),
    Field("shop", 6),
)


def test_sequences_come_after_the_categorical_fields_history_by_history():
    schema = Schema("toy", LISTS, "click")
    assert [[field.name for field in history] for history in schema.histories] == [
        ["clicked", "clicked_shop", "clicked_gap"],
        ["bought"],
    ]
    names = ["user", "item", "shop", "clicked", "clicked_shop", "clicked_gap", "bought"]
    assert [field.name for field in schema.id_fields] == names
    assert [field.name for field in schema.sequence_fields] == names[3:]
    assert schema.columns[:5] == ["user", "item", "shop", "clicked.0", "clicked.1"]
    assert schema.columns[schema.ids_of("bought")] == ["bought.0", "bought.1"]
    assert len(schema.columns) == 3 + 3 * 3 + 2


def test_a_sequence_owns_table_rows_unless_it_shares_those_of_a_field():
    schema = Schema("toy", LISTS, "click")
    assert schema.num_ids == 7 + 5 + 6 + 66 + 4
    assert schema.paddings == (0, 7, 12, 18, 84)
    assert {field.name: schema.offset_of(field.name) for field in schema.id_fields} == {
        "user": 0,
        "item": 7,
        "shop": 12,
        "clicked": 7,
        "clicked_shop": 12,
        "clicked_gap": 18,
        "bought": 84,
    }
    assert schema.unknown_of("clicked") == schema.unknown_of("item") == 11
    assert schema.unknown_of("clicked_gap") == 83


def test_sequences_make_a_round_trip(tmp_path):
    schema = Schema("toy", LISTS, "click")
    schema.save(tmp_path)
    assert Schema.load(tmp_path) == schema
