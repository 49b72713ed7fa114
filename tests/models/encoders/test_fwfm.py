from itertools import combinations

import numpy as np
import torch

from conftest import draw_ids
from layers import array, randomized
from tf4ctr.models.encoders.fwfm import FwFM
from tf4ctr.models.inputs import Inputs


def test_equals_the_weighted_sum_over_pairs(schema):
    encoder = randomized(FwFM(schema, 4))
    emb, ids = torch.randn(5, 3, 4, dtype=torch.float64), draw_ids(schema, 5)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (5, encoder.out_features) == (5, 1)
    weights, first_order = array(encoder.pair_weight.weight)[0], array(encoder.linear.weight.weight)[:, 0]
    for row in range(5):
        e = array(emb[row])
        expected = encoder.linear.bias.item() + sum(first_order[i] for i in ids[row].tolist())
        expected += sum(r * (e[f] @ e[g]) for r, (f, g) in zip(weights, combinations(range(3), 2), strict=True))
        np.testing.assert_allclose(out[row].item(), expected, atol=1e-10)


def test_gradients(schema):
    encoder, ids = randomized(FwFM(schema, 4)), draw_ids(schema, 5)
    emb = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda emb: encoder(emb, Inputs(ids)), emb)
