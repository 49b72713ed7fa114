from itertools import combinations

import numpy as np
import pytest
import torch

from conftest import draw_ids
from layers import array, check_gradients, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.hofm import HOFM
from tf4ctr.models.inputs import Inputs


@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_sum_over_sets_of_fields(schema, shared):
    encoder = randomized(HOFM(schema, 4, order=3, shared=shared))
    emb, ids = torch.randn(5, 3, 4, dtype=torch.float64), draw_ids(schema, 5)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (5, encoder.out_features) == (5, 1)
    first_order = array(encoder.linear.weight.weight)[:, 0]
    for row in range(5):
        e = array(emb[row])
        third = e if shared else array(encoder.tables[0].weight)[ids[row].tolist()]
        expected = encoder.linear.bias.item() + sum(first_order[i] for i in ids[row].tolist())
        expected += sum((e[f] * e[g]).sum() for f, g in combinations(range(3), 2))
        expected += (third[0] * third[1] * third[2]).sum()
        np.testing.assert_allclose(out[row].item(), expected, atol=1e-9)


@pytest.mark.parametrize("shared", [True, False])
def test_gradients(schema, shared):
    check_gradients(randomized(HOFM(schema, 4, order=3, shared=shared)), ids=draw_ids(schema, 4))


def test_order_two_is_fm(schema):
    emb, x = torch.randn(5, 3, 4), Inputs(draw_ids(schema, 5))
    fm, encoder = FM(schema, 4), HOFM(schema, 4, order=2)
    encoder.linear = fm.linear
    torch.testing.assert_close(encoder(emb, x), fm(emb, x))


@pytest.mark.parametrize("order", [1, 4])
def test_invalid_orders_are_refused(schema, order):
    with pytest.raises(InputError, match="from 2 to 3"):
        HOFM(schema, 4, order)
