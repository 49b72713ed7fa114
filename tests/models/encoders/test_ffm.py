from itertools import combinations

import numpy as np
import pytest

from conftest import draw_ids
from layers import array, randomized
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.ffm import FFM, FieldAwareProducts
from tf4ctr.models.inputs import Inputs


@pytest.fixture
def four_fields():
    return Schema("toy", tuple(Field(f"f{i}", 4 + i) for i in range(4)), "click")


def pair_embedding(row, field, other, dim):
    """v of `field` for the pair with `other`, from the row of its value."""
    place = [number for number in range(4) if number != field].index(other)
    return row[place * dim : place * dim + dim]


def test_equals_the_sum_over_pairs(four_fields):
    encoder, ids = randomized(FFM(four_fields, 4, pair_dim=3)), draw_ids(four_fields, 6)
    out = encoder(None, Inputs(ids))
    assert out.shape == (6, encoder.out_features) == (6, 1)
    table, first_order = array(encoder.products.table.weight), array(encoder.linear.weight.weight)[:, 0]
    for row in range(6):
        rows = ids[row].tolist()
        expected = encoder.linear.bias.item() + sum(first_order[i] for i in rows)
        for f, g in combinations(range(4), 2):
            expected += pair_embedding(table[rows[f]], f, g, 3) @ pair_embedding(table[rows[g]], g, f, 3)
        np.testing.assert_allclose(out[row].item(), expected, atol=1e-10)


def test_the_gradient_reaches_the_pair_embeddings_of_the_batch_and_no_padding(four_fields):
    encoder = FFM(four_fields, 4, pair_dim=3)
    encoder(None, Inputs(draw_ids(four_fields, 50))).sum().backward()
    gradient = encoder.products.table.weight.grad
    paddings = list(four_fields.paddings)
    assert not gradient[paddings].any()
    assert gradient.abs().sum(1).count_nonzero() == four_fields.num_ids - len(paddings)


def test_a_pair_without_numbers_is_refused(schema):
    with pytest.raises(InputError, match="pair_dim is 0"):
        FieldAwareProducts(schema, 0, 0.1)
