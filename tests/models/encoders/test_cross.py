import numpy as np
import pytest
import torch

from tf4ctr.errors import InputError
from tf4ctr.models.encoders.cross import Cross


def make(schema):
    encoder = Cross(schema, 4, num_layers=3).double()
    with torch.no_grad():
        for bias in encoder.biases:
            bias.normal_()
    return encoder


def test_equals_the_recurrence(schema):
    encoder, emb = make(schema), torch.randn(6, 3, 4, dtype=torch.float64)
    out = encoder(emb, None)
    assert out.shape == (6, encoder.out_features) == (6, 12)
    for row in range(6):
        x0 = x = emb[row].numpy().ravel()
        for weight, bias in zip(encoder.weights, encoder.biases, strict=True):
            x = np.outer(x0, x) @ weight.weight.detach().numpy()[0] + bias.detach().numpy() + x
        np.testing.assert_allclose(out[row].detach(), x, atol=1e-10)


def test_gradients(schema):
    encoder = make(schema)
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, None), torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("num_layers", [0, -2])
def test_a_network_without_layers_is_refused(schema, num_layers):
    with pytest.raises(InputError, match="at least one layer is needed"):
        Cross(schema, 4, num_layers)
