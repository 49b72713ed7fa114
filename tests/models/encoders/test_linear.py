import torch

from conftest import draw_ids
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.inputs import Inputs


def test_equals_the_sum_of_one_weight_per_id(schema):
    encoder = Linear(schema, 4)
    with torch.no_grad():
        encoder.weight.weight.normal_()
        encoder.bias.fill_(0.3)
    ids = draw_ids(schema, 6)
    out = encoder(torch.empty(6, 3, 4), Inputs(ids))
    assert out.shape == (6, encoder.out_features)
    for row in range(6):
        expected = 0.3 + sum(encoder.weight.weight[i, 0].item() for i in ids[row].tolist())
        assert abs(out[row, 0].item() - expected) < 1e-6
