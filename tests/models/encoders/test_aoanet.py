import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.aoanet import AOANet


def test_equals_the_formula_layer_by_layer(schema):
    encoder = randomized(AOANet(schema, 4, num_layers=2, subspaces=2))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 8)
    for row in range(5):
        e = y = array(emb[row])
        for layer in encoder.layers:
            matrix, weight, vector = array(layer.matrix), array(layer.pair_weight), array(layer.vector)
            z = np.zeros((2, 4))
            for o in range(2):
                outer = sum(weight[f, i, o] * np.outer(e[f], y[i]) for f in range(3) for i in range(len(y)))
                z[o] = (matrix[o] * outer) @ vector[o]
            y = z
        np.testing.assert_allclose(array(out[row]), y.ravel(), rtol=1e-9, atol=1e-9)


def test_starts_as_the_sum_of_all_products(schema):
    emb = torch.randn(5, 3, 4)
    out = AOANet(schema, 4, num_layers=1, subspaces=2)(emb, None)
    torch.testing.assert_close(out, (emb.sum(1) ** 2).repeat(1, 2))


def test_gradients(schema):
    check_gradients(randomized(AOANet(schema, 4, num_layers=2, subspaces=2)))


@pytest.mark.parametrize("options", [(0, 2), (2, 0)])
def test_invalid_options_are_refused(schema, options):
    with pytest.raises(InputError, match="both must be at least 1"):
        AOANet(schema, 4, *options)
