import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, sigmoid
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.gated_cross import GatedCross


def test_equals_the_formula_layer_by_layer(schema):
    encoder = randomized(GatedCross(schema, 4, num_layers=2))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 12)
    for row in range(5):
        first = c = array(emb[row]).ravel()
        for cross, gate in zip(encoder.crosses, encoder.gates, strict=True):
            c = first * (array(cross.weight) @ c + array(cross.bias)) * sigmoid(array(gate.weight) @ c) + c
        np.testing.assert_allclose(array(out[row]), c, atol=1e-9)


def test_gradients(schema):
    check_gradients(randomized(GatedCross(schema, 4, num_layers=2)))


@pytest.mark.parametrize("num_layers", [0, -2])
def test_a_network_without_layers_is_refused(schema, num_layers):
    with pytest.raises(InputError, match="at least one layer is needed"):
        GatedCross(schema, 4, num_layers)
