import numpy as np
import pytest
import torch
from torch import nn

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.wukong import Wukong


def normalized(norm, x):
    """The layer norm over the last dimension."""
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return x * array(norm.weight) + array(norm.bias)


def build(schema, **options):
    sizes = {"num_layers": 2, "fm_vectors": 2, "linear_vectors": 3, "rank": 2, "fm_units": [7], "hidden_units": [6, 5]}
    return Wukong(schema, 4, **{**sizes, **options})


@pytest.mark.parametrize("linear_vectors", [3, 1])  # 1: the first layer keeps the number of vectors
def test_equals_the_formula_layer_by_layer(schema, linear_vectors):
    encoder = randomized(build(schema, linear_vectors=linear_vectors, dropout=0.5))
    assert isinstance(encoder.stack[0].residual, nn.Identity) == (linear_vectors == 1)
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    for row in range(5):
        x = array(emb[row])
        for layer in encoder.stack:
            y = array(layer.fm.compression.linear.weight).T
            products = normalized(layer.fm.norm, (x @ x.T @ y).ravel())
            of_fm = run(layer.fm.layers, products[None])[0].reshape(2, 4)
            compressed = array(layer.compression.linear.weight) @ x
            if not isinstance(layer.residual, nn.Identity):
                x = array(layer.residual.linear.weight) @ x
            x = normalized(layer.norm, np.concatenate([of_fm, compressed]) + x)
        np.testing.assert_allclose(array(out[row]), run(encoder.layers, x.reshape(1, -1))[0], atol=1e-8)


def test_gradients(schema):
    check_gradients(randomized(build(schema)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank is 0: each must"), ({"num_layers": 0}, "each must"), ({"fm_units": []}, "at least one layer")],
)
def test_invalid_options_are_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        build(schema, **options)
