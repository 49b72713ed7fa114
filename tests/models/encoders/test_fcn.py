import numpy as np
import pytest
import torch

from conftest import draw_ids
from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.fcn import FusionCross


def normalized(norm, c):
    c = (c - c.mean()) / np.sqrt(c.var() + norm.eps)
    return c * array(norm.weight) + array(norm.bias)


@pytest.mark.parametrize("exponential", [True, False])
@pytest.mark.parametrize(("layer_norm", "batch_norm", "dim"), [(True, False, 4), (False, True, 4), (True, True, 5)])
def test_equals_the_formula_layer_by_layer(schema, exponential, layer_norm, batch_norm, dim):
    encoder = randomized(FusionCross(schema, dim, 2, exponential, layer_norm, batch_norm, dropout=0.5))
    emb, size = torch.randn(5, 3, dim, dtype=torch.float64), 3 * dim
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, size)
    for row in range(5):
        first = x = np.array([emb[row, f, d].item() for d in range(dim) for f in range(3)])
        for layer in encoder.layers:
            c = run([layer.linear, layer.batch_norm], x[None])[0]
            m = c * np.maximum(normalized(layer.layer_norm, c) if layer_norm else c, 0)
            left = x if exponential else first
            x = left * (np.concatenate([c, m])[:size] + array(layer.bias)) + x
        np.testing.assert_allclose(array(out[row]), x, atol=1e-9)


@pytest.mark.parametrize("exponential", [True, False])
def test_gradients(schema, exponential):
    check_gradients(randomized(FusionCross(schema, 4, 2, exponential)))


def test_c_belongs_to_the_first_half_of_each_embedding(schema):
    """Without the second half, the layer's output does not depend on the mask."""
    encoder = randomized(FusionCross(schema, 4, 1, True))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    before = encoder(emb, None).unflatten(1, (4, 3))
    encoder.layers[0].layer_norm.bias.data += 1
    same = (encoder(emb, None).unflatten(1, (4, 3)) == before).all(0)
    assert same[:2].all()
    assert not same[2:].any()


def test_a_layer_has_half_the_weights_of_dcn_v2s(schema):
    encoder = FusionCross(schema, 4, 3, True)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 3 * (12 * 6 + 12 + 2 * 6)


def test_dropout_is_used_in_training_only(schema):
    encoder = FusionCross(schema, 4, 1, True, dropout=0.5)
    out = encoder.train()(torch.randn(200, 3, 4), draw_ids(schema, 200))
    assert 0.3 < (out == 0).float().mean() < 0.7


@pytest.mark.parametrize(("num_layers", "dropout"), [(0, 0.0), (1, 1.0)])
def test_invalid_options_are_refused(schema, num_layers, dropout):
    with pytest.raises(InputError, match="at least one layer"):
        FusionCross(schema, 4, num_layers, True, dropout=dropout)
