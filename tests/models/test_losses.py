import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tf4ctr.errors import InputError
from tf4ctr.models.losses import BCELoss, DistillationLoss, FocalLoss, SelfEnsembleLoss, TFLoss, TriBCELoss
from tf4ctr.models.network import Logits


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def bce(z, y):
    """-log of the probability of the true class."""
    return math.log1p(math.exp(-abs(z))) + max(z, 0.0) - z * y


def expected_terms(fused, simple, complex_, label, alpha, gamma, c):
    """The paper's formula, row by row, from probabilities."""
    s, k = 0.0, 0.0
    for z_s, z_c, y in zip(simple, complex_, label, strict=True):
        q_s = sigmoid(z_s) if y == 1 else 1 - sigmoid(z_s)
        q_c = sigmoid(z_c) if y == 1 else 1 - sigmoid(z_c)
        s += (c + q_s) ** gamma * bce(z_s, y) / len(label)
        k += ((2 - c) - q_c) ** gamma * bce(z_c, y) / len(label)
    main = np.mean([bce(z, y) for z, y in zip(fused, label, strict=True)])
    return main, s, k, main + alpha * s + (1 - alpha) * k


logit = st.floats(-12, 12)
batches = st.lists(st.tuples(logit, logit, logit, st.integers(0, 1)), min_size=1, max_size=8)


@given(
    batch=batches,
    alpha=st.floats(0, 1),
    modulation=st.sampled_from([(0, 1.0), (1, 0.7), (2, 0.8), (0.5, 0.9), (3, 0.0), (2, 1.2), (0, 1.5)]),
)
def test_tf_loss_equals_the_papers_formula(batch, alpha, modulation):
    gamma, c = modulation
    fused, simple, complex_, label = zip(*batch, strict=True)
    logits = Logits(*(torch.tensor(z, dtype=torch.float32) for z in (fused, simple, complex_)))
    # the formula gets the same numbers, rounded to float32
    columns = [z.double().tolist() for z in logits[:3]]
    terms = TFLoss(alpha, gamma, c)(logits, torch.tensor(label, dtype=torch.float32))
    expected = expected_terms(*columns, label, alpha, gamma, c)
    values = [float(terms[name]) for name in ("bce", "tf_simple", "tf_complex", "loss")]
    assert values == pytest.approx(expected, rel=2e-5, abs=1e-6)


@given(batch=batches, alpha=st.floats(0, 1), modulation=st.sampled_from([(1, 0.7), (2, 0.8), (2, 1.2)]))
def test_three_heads_equal_the_extended_formula(batch, alpha, modulation):
    """The factor and the weight of a head are mixed by its focus; the weights sum to 1."""
    gamma, c = modulation
    fused, simple, complex_, label = zip(*batch, strict=True)
    z, z_s, z_c, y = (torch.tensor(column, dtype=torch.float64) for column in (fused, simple, complex_, label))
    focus = [0, 0.3, 1]
    terms = TFLoss(alpha, gamma, c, focus)(Logits(z, z_s, z_c, {"middle": z}), y)
    weights = [(1 - f) * alpha + f * (1 - alpha) for f in focus]
    expected = 0.0
    for rows, f, weight, name in zip((z_s, z, z_c), focus, weights, ("simple", "middle", "complex"), strict=True):
        rows = rows.float().double().tolist()
        q = [sigmoid(v) if t == 1 else sigmoid(-v) for v, t in zip(rows, label, strict=True)]
        factor = [((1 - f) * (c + p) + f * ((2 - c) - p)) ** gamma for p in q]
        term = np.mean([m * bce(v, t) for m, v, t in zip(factor, rows, label, strict=True)])
        assert float(terms[f"tf_{name}"]) == pytest.approx(term, rel=2e-5, abs=1e-6)
        expected += weight / sum(weights) * term
    assert float(terms["loss"]) == pytest.approx(float(terms["bce"]) + expected, rel=2e-5, abs=1e-6)


def test_a_focus_of_one_half_gives_plain_bce_and_even_steps_are_the_default():
    z, label = torch.randn(50), torch.randint(0, 2, (50,)).float()
    logits = Logits(z, z, z, {"middle": z})
    default, named = (TFLoss(0.25, 2, 0.8, focus)(logits, label) for focus in (None, [0, 0.5, 1]))
    assert all(torch.equal(default[name], named[name]) for name in named)
    assert float(default["tf_middle"]) == pytest.approx(float(default["bce"]), rel=1e-6)


def test_two_heads_with_focus_0_and_1_are_bitwise_equal_to_the_default():
    logits, label = Logits(*torch.randn(3, 50)), torch.randint(0, 2, (50,)).float()
    default, named = (TFLoss(0.25, 2, 0.8, focus)(logits, label) for focus in (None, [0, 1]))
    assert all(torch.equal(default[name], named[name]) for name in named)


@pytest.mark.parametrize(
    ("focus", "heads", "message"),
    [
        ([0, 0.5], 2, "must rise from 0"),
        ([0, 0.7, 0.2, 1], 4, "must rise from 0"),
        ([0, 1], 3, "loss.focus has 2 numbers, but the backbone has 3 encoders"),
        (None, 1, "add framework=plain"),
    ],
)
def test_a_focus_that_does_not_fit_the_heads_is_refused(focus, heads, message):
    with pytest.raises(InputError, match=message):
        TFLoss(0.25, 1, 0.7, focus).focus_of(heads)


def test_gamma_zero_gives_plain_bce_of_both_heads():
    logits, label = Logits(*torch.randn(3, 50)), torch.randint(0, 2, (50,)).float()
    terms = TFLoss(alpha=0.3, gamma=0, c=0.7)(logits, label)
    plain = [float(BCELoss()(Logits(z, z, z), label)["loss"]) for z in logits[:3]]
    assert float(terms["loss"]) == pytest.approx(plain[0] + 0.3 * plain[1] + 0.7 * plain[2], rel=1e-6)


@pytest.mark.parametrize(("gamma", "c"), [(0, 1), (1, 0.7), (2, 0.8), (2, 1.2), (1.5, 0.9)])
def test_the_gradient_flows_through_the_modulating_factor(gamma, c):
    """Central differences of the formula: the factor is not treated as a constant."""
    torch.manual_seed(1)
    simple, complex_, fused = torch.randn(3, 6)
    label = torch.tensor([0.0, 1, 1, 0, 1, 0])
    logits = Logits(fused.requires_grad_(), simple.requires_grad_(), complex_.requires_grad_())
    TFLoss(0.25, gamma, c)(logits, label)["loss"].backward()
    for number, tensor in enumerate(logits[:3]):
        for i in range(6):
            columns = [z.detach().double().tolist() for z in logits[:3]]
            columns[number][i] += 1e-5
            up = expected_terms(*columns, label.tolist(), 0.25, gamma, c)[3]
            columns[number][i] -= 2e-5
            down = expected_terms(*columns, label.tolist(), 0.25, gamma, c)[3]
            assert float(tensor.grad[i]) == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("gamma", "c"), [(1, 1), (0.5, 1), (2, 0.8), (2, 1.2)])
def test_tf_loss_is_finite_at_saturated_logits(dtype, gamma, c):
    z = torch.tensor([50.0, -50.0, 50.0, -50.0], dtype=dtype).requires_grad_()
    label = torch.tensor([1.0, 0.0, 0.0, 1.0])
    terms = TFLoss(0.25, gamma, c)(Logits(z, z, z), label)
    terms["loss"].backward()
    assert float(terms["bce"]) == pytest.approx(25, rel=1e-6)
    assert torch.isfinite(terms["loss"])
    assert torch.isfinite(z.grad).all()
    assert torch.all(z.grad[2:].abs() > 0.1)  # a wrong saturated logit still has a gradient


def test_bce_trains_only_the_fused_logit():
    logits = Logits(*(z.requires_grad_() for z in torch.randn(3, 4).unbind()))
    BCELoss()(logits, torch.tensor([0.0, 1, 1, 0]))["loss"].backward()
    assert logits.fused.grad is not None
    assert logits.simple.grad is None
    assert logits.complex.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 1, 0.7), "loss.alpha is 1.5"),
        ((0.5, -1, 0.7), "loss.gamma is -1"),
        ((0.5, 1, 2.5), "loss.c is 2.5"),
        ((0.5, 1, 1.2), "only an even gamma"),
        ((0.5, 0.5, 1.2), "only an even gamma"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        TFLoss(*arguments)


@given(batch=batches, gamma=st.sampled_from([0, 0.5, 1, 2]), alpha=st.sampled_from([None, 0.25]))
def test_focal_loss_equals_its_formula(batch, gamma, alpha):
    fused, simple, complex_, label = zip(*batch, strict=True)
    logits = Logits(*(torch.tensor(z, dtype=torch.float32) for z in (fused, simple, complex_)))
    expected = 0.0
    for z, y in zip(logits.fused.double().tolist(), label, strict=True):
        q = sigmoid(z) if y == 1 else 1 - sigmoid(z)
        weight = 1.0 if alpha is None else (alpha if y == 1 else 1 - alpha)
        expected += weight * (1 - q) ** gamma * bce(z, y) / len(label)
    value = float(FocalLoss(gamma, alpha)(logits, torch.tensor(label, dtype=torch.float32))["loss"])
    assert value == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_focal_loss_is_finite_at_saturated_logits():
    z = torch.tensor([50.0, -50.0, 50.0, 120.0]).requires_grad_()
    FocalLoss(0.5)(Logits(z, z, z), torch.tensor([1.0, 0.0, 0.0, 1.0]))["loss"].backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(("arguments", "message"), [((-1,), "loss.gamma is -1"), ((2, 1.5), "loss.alpha is 1.5")])
def test_focal_loss_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        FocalLoss(*arguments)


@pytest.mark.parametrize(
    "loss", [BCELoss(), FocalLoss(2, 0.3), TFLoss(0.25, 2, 0.7), TriBCELoss(), DistillationLoss(), SelfEnsembleLoss()]
)
def test_logits_in_float64_have_gradients_in_float64(loss):
    logits = torch.linspace(-2, 3, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    label = torch.tensor([0, 1, 1, 0], dtype=torch.float64)
    passes = [Logits(*logits)] * getattr(loss, "passes", 1)
    gradient = torch.autograd.grad(loss(*passes, label)["loss"], logits)[0]
    assert not torch.equal(gradient, gradient.float().double())


@pytest.mark.parametrize("loss", [BCELoss(), FocalLoss(2, 0.3), TFLoss(0.25, 2, 0.7)])
def test_a_weight_of_the_mean_one_counts_as_so_many_rows(loss):
    weight = torch.tensor([0, 1, 2, 1, 0, 3, 1, 0], dtype=torch.float32)
    logits = [torch.randn(8, requires_grad=True) for _ in range(3)]
    label = torch.tensor([0, 1, 1, 0, 1, 0, 1, 0], dtype=torch.float32)
    repeat = weight.long()
    weighted = loss(Logits(*logits), label, weight / weight.mean())
    repeated = loss(Logits(*(part.repeat_interleave(repeat) for part in logits)), label.repeat_interleave(repeat))
    for name, term in weighted.items():
        assert float(term) == pytest.approx(float(repeated[name]), abs=1e-6)
    first, second = (torch.autograd.grad(terms["loss"], logits[0])[0] for terms in (weighted, repeated))
    torch.testing.assert_close(first, second)
    equal = loss(Logits(*logits), label, torch.ones(8))
    assert float(equal["loss"]) == pytest.approx(float(loss(Logits(*logits), label)["loss"]), abs=1e-6)
