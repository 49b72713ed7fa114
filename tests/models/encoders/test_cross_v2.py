import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, softmax
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.cross_v2 import CrossV2, CrossV2Mix


def test_equals_the_recurrence(schema):
    encoder, emb = CrossV2(schema, 4, num_layers=3).double(), torch.randn(6, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (6, encoder.out_features) == (6, 12)
    for row in range(6):
        x0 = x = emb[row].numpy().ravel()
        for layer in encoder.layers:
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            x = np.array([x0[i] * (sum(weight[i, j] * x[j] for j in range(12)) + bias[i]) + x[i] for i in range(12)])
        np.testing.assert_allclose(out[row].detach(), x, atol=1e-10)


def test_gradients(schema):
    encoder = CrossV2(schema, 4, num_layers=2).double()
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, None), torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    )


def test_a_mixture_equals_the_sum_over_experts(schema):
    encoder = randomized(CrossV2Mix(schema, 4, num_layers=2, rank=3, num_experts=2))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 12)
    for row in range(5):
        first = x = array(emb[row]).ravel()
        for layer in encoder.layers:
            down, gate = array(layer.down.weight).reshape(2, 3, 12), softmax(array(layer.gate.weight) @ x)
            mixed = np.zeros(12)
            for k in range(2):
                low = np.tanh(array(layer.middle[k]) @ np.tanh(down[k] @ x))
                mixed += gate[k] * first * (array(layer.up[k]).T @ low + array(layer.bias))
            x = mixed + x
        np.testing.assert_allclose(array(out[row]), x, atol=1e-9)


def test_gradients_of_the_mixture(schema):
    check_gradients(randomized(CrossV2Mix(schema, 4, num_layers=2, rank=3, num_experts=2)))


@pytest.mark.parametrize("options", [(0, 2), (3, 0)])
def test_a_mixture_without_rank_or_experts_is_refused(schema, options):
    with pytest.raises(InputError, match="at least 1"):
        CrossV2Mix(schema, 4, 2, *options)


@pytest.mark.parametrize("num_layers", [0, -2])
def test_a_network_without_layers_is_refused(schema, num_layers):
    with pytest.raises(InputError, match="at least one layer is needed"):
        CrossV2(schema, 4, num_layers)
