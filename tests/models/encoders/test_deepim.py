from itertools import combinations

import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.deepim import InteractionMachine, interactions


def by_subsets(e, order):
    """The sum of the products of all sets of `order` rows of e [F, D]."""
    return sum(np.prod(e[list(rows)], 0) for rows in combinations(range(len(e)), order))


def test_interactions_equal_the_sum_over_all_subsets():
    emb = torch.randn(3, 6, 4, dtype=torch.float64)
    for order, sums in enumerate(interactions(emb, 6), 1):
        for row in range(3):
            np.testing.assert_allclose(array(sums[row]), by_subsets(array(emb[row]), order), atol=1e-9)


def test_interactions_of_many_fields_are_precise_in_float32():
    """39 fields, as in Criteo."""
    emb = torch.randn(50, 39, 8)
    for found, expected in zip(interactions(emb, 4), interactions(emb.double(), 4), strict=True):
        assert ((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_all_orders_side_by_side(batch_norm):
    schema = Schema("toy", tuple(Field(f"f{i}", 4) for i in range(5)), "click")
    encoder = randomized(InteractionMachine(schema, 4, order=3, batch_norm=batch_norm))
    emb = torch.randn(6, 5, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (6, encoder.out_features) == (6, 12)
    for row in range(6):
        expected = np.concatenate([by_subsets(array(emb[row]), order) for order in (1, 2, 3)])
        np.testing.assert_allclose(array(out[row]), run([encoder.norm], expected[None])[0], atol=1e-9)


def test_gradients(schema):
    check_gradients(randomized(InteractionMachine(schema, 4, order=3)))


@pytest.mark.parametrize("order", [0, 4])
def test_invalid_orders_are_refused(schema, order):
    with pytest.raises(InputError, match="from 1 to 3"):
        InteractionMachine(schema, 4, order)
