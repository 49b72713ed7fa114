import torch

from conftest import draw_ids
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.inputs import Inputs


def test_equals_the_sum_over_pairs(schema):
    encoder = FM(schema, 4).double()
    with torch.no_grad():
        encoder.linear.weight.weight.normal_()
    ids, emb = draw_ids(schema, 6), torch.randn(6, 3, 4, dtype=torch.float64)
    out = encoder(emb, Inputs(ids))
    assert out.shape == (6, encoder.out_features)
    for row in range(6):
        expected = encoder.linear.bias.item() + sum(
            encoder.linear.weight.weight[i, 0].item() for i in ids[row].tolist()
        )
        for f in range(3):
            for g in range(f + 1, 3):
                expected += sum(float(emb[row, f, d] * emb[row, g, d]) for d in range(4))
        assert abs(out[row, 0].item() - expected) < 1e-12


def test_gradients(schema):
    encoder = FM(schema, 4).double()
    ids = draw_ids(schema, 5)
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, Inputs(ids)), torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    )
