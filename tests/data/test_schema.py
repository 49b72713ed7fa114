import json

import pytest

from tf4ctr.data.schema import Schema
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
