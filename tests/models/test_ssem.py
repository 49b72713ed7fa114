from functools import partial

import pytest
import torch

from conftest import draw_ids
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.ssem import SeparateRepresentation, Shared

table = partial(FieldEmbedding, init_std=1.0)


def test_shared_gives_both_encoders_the_same(schema):
    ssem = Shared(schema, table, 6)
    simple, complex_ = ssem(draw_ids(schema, 5))
    assert simple is complex_
    assert simple.shape == (5, schema.num_fields, ssem.simple_dim)
    assert ssem.simple_dim == ssem.complex_dim == 6


def test_ser_has_a_table_for_each_encoder(schema):
    ssem = SeparateRepresentation(schema, table, 6)
    ids = draw_ids(schema, 5)
    simple, complex_ = ssem(ids)
    assert simple.shape == (5, 3, 3)
    assert complex_.shape == (5, 3, 6)
    assert torch.equal(simple, ssem.simple_table.weight[ids.long()])
    assert torch.equal(complex_, ssem.complex_table.weight[ids.long()])
    simple.sum().backward()
    assert ssem.complex_table.weight.grad is None


def test_ser_needs_an_even_size(schema):
    with pytest.raises(InputError, match=r"embedding.dim is 5.*must be even"):
        SeparateRepresentation(schema, table, 5)
