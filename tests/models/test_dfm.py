import numpy as np
import pytest
import torch
from torch import nn

from tf4ctr.errors import InputError
from tf4ctr.models.dfm import Concatenation, MixtureOfExperts, Sum, Voting, WeightedSum


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


@pytest.mark.parametrize("dfm", [Sum, WeightedSum, Voting, Concatenation, MixtureOfExperts])
def test_gradients(dfm, hidden):
    dfm = dfm(5, 3).double().eval()
    inputs = [h.requires_grad_() for h in hidden]
    assert torch.autograd.gradcheck(lambda *h: tuple(dfm(*h)), inputs)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_voting_in_evaluation_is_the_softmax_of_the_votes(hidden):
    dfm = Voting(5, 3, temperature=0.8).double().eval()
    out = dfm(*hidden)
    votes = np.stack([linear(dfm.simple_vote, hidden[0]), linear(dfm.complex_vote, hidden[1])], 1)
    logits = np.stack([linear(dfm.simple, hidden[0]), linear(dfm.complex, hidden[1])], 1)
    np.testing.assert_allclose(out.fused.detach(), (softmax(votes / 0.8) * logits).sum(1), atol=1e-12)
    assert torch.equal(out.fused, dfm(*hidden).fused)


def test_voting_in_training_draws_gumbel_noise(hidden):
    """The chance that one vote beats the other is that of the softmax of the votes, whatever the temperature."""
    dfm = Voting(5, 3).double().train()
    h = [part[:1].expand(20_000, -1) for part in hidden]
    out = dfm(*h)
    weight = (out.fused - out.complex) / (out.simple - out.complex)
    votes = np.stack([linear(dfm.simple_vote, h[0]), linear(dfm.complex_vote, h[1])], 1)
    assert float((weight > 0.5).double().mean()) == pytest.approx(softmax(votes)[0, 0], abs=0.015)


def test_voting_needs_a_positive_temperature():
    with pytest.raises(InputError, match="dfm.temperature is 0"):
        Voting(5, 3, temperature=0)


def test_concatenation(hidden):
    dfm = Concatenation(5, 3).double()
    out = dfm(*hidden)
    np.testing.assert_allclose(out.fused.detach(), linear(dfm.fused, torch.cat(hidden, 1)), atol=1e-12)
    np.testing.assert_allclose(out.simple.detach(), linear(dfm.simple, hidden[0]), atol=1e-12)
    np.testing.assert_allclose(out.complex.detach(), linear(dfm.complex, hidden[1]), atol=1e-12)


def test_mixture_of_experts(hidden):
    dfm = MixtureOfExperts(5, 3).double()
    out = dfm(*hidden)
    both = torch.cat(hidden, 1).numpy()
    gate, expert = (both @ layer.weight.detach().numpy().T + layer.bias.detach().numpy() for layer in (dfm.gate, dfm.expert))
    np.testing.assert_allclose(out.fused.detach(), (softmax(gate) * expert).sum(1), atol=1e-12)
