import numpy as np
import pytest
import torch

from layers import array, check_gradients, randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.afn import AFN


def norm(module, channel, x):
    mean, var = module.running_mean[channel].item(), module.running_var[channel].item()
    return (x - mean) / np.sqrt(var + module.eps) * module.weight[channel].item() + module.bias[channel].item()


def test_equals_exponentials_of_weighted_logarithms_then_an_mlp(schema):
    encoder = randomized(AFN(schema, 4, neurons=2, hidden_units=[6, 5]))
    emb = torch.randn(5, 3, 4, dtype=torch.float64)
    emb[0, 0] = 0  # a padding embedding: the logarithm is bounded
    out = encoder(emb, None)
    assert out.shape == (5, encoder.out_features) == (5, 5)
    weight, bias = array(encoder.order.weight), array(encoder.order.bias)
    for row in range(5):
        e = array(emb[row])
        logs = [norm(encoder.log_norm, f, np.log(np.maximum(np.abs(e[f]), 1e-7))) for f in range(3)]
        neurons = [np.exp(sum(weight[j, f] * logs[f] for f in range(3)) + bias[j]) for j in range(2)]
        hidden = np.concatenate([norm(encoder.exp_norm, j, neurons[j]) for j in range(2)])
        np.testing.assert_allclose(array(out[row]), run(encoder.layers, hidden[None])[0], rtol=1e-7, atol=1e-9)


def test_without_the_norms_a_neuron_is_a_product_of_powers(schema):
    encoder = AFN(schema, 4, neurons=1, hidden_units=[2]).double().eval()
    emb = torch.rand(5, 3, 4, dtype=torch.float64) + 0.5
    log = emb.log()
    product = encoder.order(log.transpose(1, 2)).exp()[..., 0]
    powers = encoder.order.weight[0].detach()
    expected = (emb ** powers[None, :, None]).prod(1) * encoder.order.bias.detach().exp()
    assert torch.allclose(product, expected)


def test_gradients(schema):
    check_gradients(randomized(AFN(schema, 4, neurons=2, hidden_units=[6])))


def test_zero_neurons_are_refused(schema):
    with pytest.raises(InputError, match="neurons is 0"):
        AFN(schema, 4, neurons=0, hidden_units=[6])
