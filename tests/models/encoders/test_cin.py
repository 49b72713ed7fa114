import numpy as np
import pytest
import torch

from conftest import draw_ids
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.cin import CIN
from tf4ctr.models.inputs import Inputs


def test_equals_the_sum_over_pairs_of_maps_and_fields(schema):
    encoder = CIN(schema, 4, layer_units=[5, 3]).double()
    with torch.no_grad():
        encoder.linear.weight.weight.normal_()
    ids, emb = draw_ids(schema, 6), torch.randn(6, 3, 4, dtype=torch.float64)
    out = encoder(emb, Inputs(ids)).detach().numpy()
    assert out.shape == (6, encoder.out_features) == (6, 9)
    for row in range(6):
        x0 = emb[row].numpy()
        previous, pooled = x0, []
        for layer in encoder.layers:
            weight = layer.weight.detach().numpy().reshape(layer.out_features, len(previous), 3)
            maps = np.zeros((layer.out_features, 4))
            for h in range(layer.out_features):
                maps[h] = layer.bias[h].item()
                for i in range(len(previous)):
                    for j in range(3):
                        maps[h] += weight[h, i, j] * previous[i] * x0[j]
            pooled.extend(maps.sum(1))
            previous = maps
        pooled.append(sum(encoder.linear.weight.weight[i, 0].item() for i in ids[row].tolist()))
        np.testing.assert_allclose(out[row], pooled, atol=1e-10)


def test_without_the_linear_part(schema):
    encoder = CIN(schema, 4, layer_units=[5], linear=False)
    assert encoder(torch.randn(2, 3, 4), draw_ids(schema, 2)).shape == (2, 5) == (2, encoder.out_features)


def test_gradients(schema):
    encoder, ids = CIN(schema, 4, layer_units=[5, 3]).double(), draw_ids(schema, 5)
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, Inputs(ids)), torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    )


def test_zero_layers_are_refused(schema):
    with pytest.raises(InputError, match="at least one layer"):
        CIN(schema, 4, layer_units=[])
