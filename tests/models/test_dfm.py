import numpy as np
import pytest
import torch
from torch import nn

from tf4ctr.errors import InputError
from tf4ctr.models.dfm import BilinearFusion, Concatenation, Mean, MixtureOfExperts, Sum, Voting, WeightedSum

SIZES = [5, 3, 2]  # widths of the encoders' outputs


def linear(layer, h):
    return h.detach().numpy() @ layer.weight.detach().numpy()[0] + layer.bias.item()


@pytest.fixture(params=[2, 3])
def hidden(request):
    """The outputs of two encoders (as in the paper) and of three."""
    return [torch.randn(8, size, dtype=torch.float64) for size in SIZES[: request.param]]


def build(dfm, hidden, **options):
    return dfm([h.shape[1] for h in hidden], **options).double()


def check_heads(dfm, hidden, heads):
    for layer, h, logit in zip(dfm.heads, hidden, heads, strict=True):
        np.testing.assert_allclose(logit.detach(), linear(layer, h), atol=1e-12)


def test_sum(hidden):
    dfm = build(Sum, hidden)
    fused, heads = dfm(hidden)
    check_heads(dfm, hidden, heads)
    np.testing.assert_allclose(
        fused.detach(), sum(linear(layer, h) for layer, h in zip(dfm.heads, hidden, strict=True)), atol=1e-12
    )


def test_sum_uses_an_output_of_width_one_as_the_logit():
    dfm = Sum([1, 3])
    assert isinstance(dfm.heads[0], nn.Identity)
    simple = torch.randn(4, 1)
    assert torch.equal(dfm([simple, torch.randn(4, 3)])[1][0], simple[:, 0])


def test_sum_of_one_encoder_is_its_logit():
    hidden = torch.randn(4, 1)
    fused, heads = Sum([1])([hidden])
    assert torch.equal(fused, hidden[:, 0])
    assert torch.equal(heads[0], fused)


def test_weighted_sum(hidden):
    dfm = build(WeightedSum, hidden)
    assert dfm.weight.tolist() == pytest.approx([1 / len(hidden)] * len(hidden))
    weights = [0.3, 1.7, -0.4][: len(hidden)]
    with torch.no_grad():
        dfm.weight.copy_(torch.tensor(weights))
    fused, heads = dfm(hidden)
    check_heads(dfm, hidden, heads)
    expected = sum(w * linear(layer, h) for w, layer, h in zip(weights, dfm.heads, hidden, strict=True))
    np.testing.assert_allclose(fused.detach(), expected, atol=1e-6)


def test_mean(hidden):
    dfm = build(Mean, hidden)
    fused, heads = dfm(hidden)
    check_heads(dfm, hidden, heads)
    expected = sum(linear(layer, h) for layer, h in zip(dfm.heads, hidden, strict=True)) / len(hidden)
    np.testing.assert_allclose(fused.detach(), expected, atol=1e-12)


@pytest.mark.parametrize("dfm", [Sum, Mean, WeightedSum, Voting, Concatenation, MixtureOfExperts])
def test_gradients(dfm, hidden):
    dfm = build(dfm, hidden).eval()

    def logits(*h):
        fused, heads = dfm(h)
        return fused, *heads

    assert torch.autograd.gradcheck(logits, [h.requires_grad_() for h in hidden])


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_voting_in_evaluation_is_the_softmax_of_the_votes(hidden):
    dfm = build(Voting, hidden, temperature=0.8).eval()
    fused, heads = dfm(hidden)
    check_heads(dfm, hidden, heads)
    votes, logits = (
        np.stack([linear(layer, h) for layer, h in zip(layers, hidden, strict=True)], 1)
        for layers in (dfm.votes, dfm.heads)
    )
    np.testing.assert_allclose(fused.detach(), (softmax(votes / 0.8) * logits).sum(1), atol=1e-12)
    assert torch.equal(fused, dfm(hidden)[0])


def test_voting_in_training_draws_gumbel_noise():
    """P(one vote is larger than the other) = softmax of the votes, for every temperature."""
    h = [torch.randn(1, size, dtype=torch.float64).expand(20_000, -1) for size in (5, 3)]
    dfm = build(Voting, h).train()
    fused, (simple, complex_) = dfm(h)
    weight = (fused - complex_) / (simple - complex_)
    votes = np.stack([linear(layer, part[:1]) for layer, part in zip(dfm.votes, h, strict=True)], 1)
    assert float((weight > 0.5).double().mean()) == pytest.approx(softmax(votes)[0, 0], abs=0.015)


def test_voting_needs_a_positive_temperature():
    with pytest.raises(InputError, match="dfm.temperature is 0"):
        Voting([5, 3], temperature=0)


def test_concatenation(hidden):
    dfm = build(Concatenation, hidden)
    fused, heads = dfm(hidden)
    np.testing.assert_allclose(fused.detach(), linear(dfm.fused, torch.cat(hidden, 1)), atol=1e-12)
    check_heads(dfm, hidden, heads)


def test_mixture_of_experts(hidden):
    dfm = build(MixtureOfExperts, hidden)
    fused, heads = dfm(hidden)
    concatenated = torch.cat(hidden, 1).numpy()
    gate, expert = (
        concatenated @ layer.weight.detach().numpy().T + layer.bias.detach().numpy() for layer in (dfm.gate, dfm.expert)
    )
    np.testing.assert_allclose(fused.detach(), (softmax(gate) * expert).sum(1), atol=1e-12)
    check_heads(dfm, hidden, heads)


def test_bilinear_fusion_equals_the_sum_over_chunks():
    h = [torch.randn(4, size, dtype=torch.float64) for size in (6, 9)]
    fusion = build(BilinearFusion, h, num_heads=3)
    expected = np.zeros(4)
    for row in range(4):
        for m in range(3):
            left, right = h[0][row, 2 * m : 2 * m + 2].numpy(), h[1][row, 3 * m : 3 * m + 3].numpy()
            expected[row] += left @ fusion.weight[m].detach().numpy() @ right
    np.testing.assert_allclose(fusion(h).detach(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *parts: fusion(parts), [part.requires_grad_() for part in h])
    plain = build(Sum, h)
    extended = build(Sum, h, interaction=lambda features: fusion)
    extended.load_state_dict({**plain.state_dict(), "interaction.weight": fusion.weight})
    np.testing.assert_allclose(extended(h)[0].detach(), (plain(h)[0] + fusion(h)).detach(), atol=1e-12)


@pytest.mark.parametrize("sizes", [[6, 8], [6], [6, 6, 6]])
def test_bilinear_fusion_needs_two_encoders_with_equal_chunks(sizes):
    with pytest.raises(InputError, match="it needs two"):
        BilinearFusion(sizes, num_heads=3)


@pytest.mark.parametrize("kind", [WeightedSum, Voting])
def test_the_fused_logit_is_the_weighted_sum_of_the_heads(hidden, kind):
    dfm = build(kind, hidden).eval()
    fused, heads = dfm(hidden)
    weight = dfm.weights(hidden)
    assert weight.shape == (8, len(hidden))
    np.testing.assert_allclose(fused.detach(), (weight * torch.stack(heads, 1)).sum(1).detach(), atol=1e-12)
