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
