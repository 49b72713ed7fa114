import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.sam import KINDS, SAM, SumLayer


def summed(layer, e):
    """The output of a layer of SAM3."""
    k, q = array(layer.key.weight), array(layer.residual.weight)
    out = [q @ e[f] for f in range(3)]
    for f in range(3):
        for g in range(3):
            u = e[f] * e[g] if layer.weight is None else array(layer.weight)[f, g]
            out[f] = out[f] + (e[f] @ k @ e[g]) * u
    return np.stack(out)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula(schema, kind):
    encoder = randomized(SAM(schema, 4, kind, num_layers=2, dropout=0.5))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 36 if kind in ("sam2a", "sam2e") else 12)
    layers = [layer for layer in encoder.layers if hasattr(layer, "weight")]
    assert len(layers) == {"sam1": 0, "sam2a": 1, "sam2e": 1}.get(kind, 2)
    for row in range(5):
        e = array(emb[row])
        if kind in ("sam2a", "sam2e"):
            u = [[e[f] * e[g] for g in range(3)] for f in range(3)] if kind == "sam2e" else array(layers[0].weight)
            e = np.stack([(e[f] @ e[g]) * u[f][g] for f in range(3) for g in range(3)])
        for layer in layers:
            e = summed(layer, e) if isinstance(layer, SumLayer) else e
        np.testing.assert_allclose(array(out[row]), e.ravel(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(schema, kind):
    check_gradients(randomized(SAM(schema, 4, kind, num_layers=2)))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_dropout_is_used_in_training(schema, kind):
    out = SAM(schema, 4, kind, num_layers=1, dropout=0.5).train()(torch.randn(200, 3, 4), None)
    assert 0.3 < (out == 0).float().mean() < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("sam3",), "did you mean .*'sam3a'"),
        (("sam3a", 0), "at least one layer"),
        (("sam2a", 1, 1.0), "dropout is 1.0"),
    ],
)
def test_invalid_options_are_refused(schema, options, message):
    with pytest.raises(InputError, match=message):
        SAM(schema, 4, *options)
