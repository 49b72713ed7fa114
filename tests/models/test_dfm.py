import numpy as np
import pytest
import torch
from torch import nn

from tf4ctr.models.dfm import Sum, WeightedSum


def linear(layer, h):
    return h.detach().numpy() @ layer.weight.detach().numpy()[0] + layer.bias.item()


@pytest.fixture
def hidden():
    return torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)


def test_sum(hidden):
    dfm = Sum(5, 3).double()
    out = dfm(*hidden)
    simple, complex_ = linear(dfm.simple, hidden[0]), linear(dfm.complex, hidden[1])
    np.testing.assert_allclose(out.simple.detach(), simple, atol=1e-12)
    np.testing.assert_allclose(out.complex.detach(), complex_, atol=1e-12)
    np.testing.assert_allclose(out.fused.detach(), simple + complex_, atol=1e-12)


def test_sum_takes_a_logit_as_it_is():
    dfm = Sum(1, 3)
    assert isinstance(dfm.simple, nn.Identity)
    simple = torch.randn(4, 1)
    assert torch.equal(dfm(simple, torch.randn(4, 3)).simple, simple[:, 0])


def test_weighted_sum(hidden):
    dfm = WeightedSum(5, 3).double()
    assert dfm.weight.tolist() == [0.5, 0.5]
    with torch.no_grad():
        dfm.weight.copy_(torch.tensor([0.3, 1.7]))
    out = dfm(*hidden)
    expected = 0.3 * linear(dfm.simple, hidden[0]) + 1.7 * linear(dfm.complex, hidden[1])
    np.testing.assert_allclose(out.fused.detach(), expected, atol=1e-6)


@pytest.mark.parametrize("dfm", [Sum(5, 3), WeightedSum(5, 3)])
def test_gradients(dfm, hidden):
    dfm = dfm.double()
    inputs = [h.requires_grad_() for h in hidden]
    assert torch.autograd.gradcheck(lambda *h: tuple(dfm(*h)), inputs)
