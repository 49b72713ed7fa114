from itertools import combinations

import numpy as np
import pytest
import torch

from conftest import draw_ids
from layers import array, check_gradients, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.fmfm import FmFM
from tf4ctr.models.inputs import Inputs


@pytest.mark.parametrize("weights", ["matrix", "vector"])
def test_equals_the_sum_over_pairs(schema, weights):
    encoder = randomized(FmFM(schema, 4, weights))
    emb, ids = torch.randn(5, 3, 4, dtype=torch.float64), draw_ids(schema, 5)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (5, encoder.out_features) == (5, 1)
    first_order = array(encoder.linear.weight.weight)[:, 0]
    for row in range(5):
        e = array(emb[row])
        expected = encoder.linear.bias.item() + sum(first_order[i] for i in ids[row].tolist())
        for w, (f, g) in zip(array(encoder.pairs.weight), combinations(range(3), 2), strict=True):
            expected += e[f] @ (w if weights == "matrix" else np.diag(w)) @ e[g]
        np.testing.assert_allclose(out[row].item(), expected, atol=1e-10)


def test_starts_as_fm_with_vectors(schema):
    emb, x = torch.randn(5, 3, 4), Inputs(draw_ids(schema, 5))
    fm, encoder = FM(schema, 4), FmFM(schema, 4, "vector")
    encoder.linear = fm.linear
    torch.testing.assert_close(encoder(emb, x), fm(emb, x))


@pytest.mark.parametrize("weights", ["matrix", "vector"])
def test_gradients(schema, weights):
    encoder, ids = randomized(FmFM(schema, 4, weights)), draw_ids(schema, 4)
    check_gradients(encoder, ids=ids)


def test_unknown_weights_are_refused(schema):
    with pytest.raises(InputError, match="did you mean 'matrix'"):
        FmFM(schema, 4, "matrx")
