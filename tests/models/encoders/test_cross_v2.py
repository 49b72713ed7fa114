import numpy as np
import torch

from tf4ctr.models.encoders.cross_v2 import CrossV2


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
    assert torch.autograd.gradcheck(lambda emb: encoder(emb, None), torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True))
