import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from layers import array, sigmoid
from tf4ctr.models.sequences.dice import Dice

DOUBLE = torch.float64


def build(units=3, **options):
    """A layer with random parameters and statistics; float64, training mode."""
    layer = Dice(units, **options).double()
    nn.init.normal_(layer.alpha)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def dice(s, mean, var, alpha, eps=1e-8):
    """f(s) of one number, as the paper defines it."""
    p = sigmoid((s - mean) / math.sqrt(var + eps))
    return p * s + (1 - p) * alpha * s


def check(layer, out, x, mean, var):
    for index in np.ndindex(out.shape):
        h = index[-1]
        assert out[index].item() == pytest.approx(dice(x[index].item(), mean[h], var[h], array(layer.alpha)[h]))


def test_training_uses_the_statistics_of_the_batch():
    layer, x = build(), 3 * torch.randn(20, 3, dtype=DOUBLE) + 1
    check(layer, layer(x), x, array(x).mean(0), array(x).var(0))


def test_evaluation_uses_the_running_averages():
    layer, x = build().eval(), torch.randn(4, 5, 3, dtype=DOUBLE)
    mean, var = array(layer.running_mean).copy(), array(layer.running_var).copy()
    check(layer, layer(x), x, mean, var)
    known = torch.rand(4, 5) < 0.5
    assert torch.equal(layer(x, known), layer(x))
    assert (array(layer.running_mean) == mean).all()
    assert (array(layer.running_var) == var).all()


def test_statistics_are_those_of_the_known_rows():
    layer, x = build(), torch.randn(4, 5, 3, dtype=DOUBLE)
    known = torch.rand(4, 5) < 0.5
    rows = array(x[known])
    x[~known] = 1e6
    check(layer, layer(x, known), x, rows.mean(0), rows.var(0))


@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_running_averages_are_those_of_a_batch_norm(momentum):
    layer, norm = Dice(3, momentum=momentum).double(), nn.BatchNorm1d(3, momentum=momentum).double()
    for rows in (2, 3, 50):
        x = torch.randn(rows, 3, dtype=DOUBLE) * 2 + 1
        padded = torch.cat([x, torch.full((4, 3), 1e6, dtype=DOUBLE)])
        norm(x)
        masked = Dice(3, momentum=momentum).double()
        masked.load_state_dict(layer.state_dict())
        layer(x)
        masked(padded, torch.arange(rows + 4) < rows)
        for one in (layer, masked):
            torch.testing.assert_close(one.running_mean, norm.running_mean)
            torch.testing.assert_close(one.running_var, norm.running_var)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_both_ways_have_equal_outputs_gradients_and_averages(dtype):
    kernels = build().to(dtype)
    operators = build().to(dtype)
    operators.load_state_dict(kernels.state_dict())
    x = (torch.randn(6, 50, 3, dtype=dtype) + 2).requires_grad_()
    weight = torch.randn(6, 50, 3, dtype=dtype)
    out, expected = kernels(x), operators(x, torch.ones(6, 50, dtype=torch.bool))
    torch.testing.assert_close(out, expected)
    gradients = [
        torch.autograd.grad((values * weight).sum(), [x, layer.alpha])
        for values, layer in ((out, kernels), (expected, operators))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kernels.state_dict(), operators.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(operators(x), out)


@pytest.mark.parametrize("known", [None, torch.tensor([True, True, False, True, False, True])])
@pytest.mark.parametrize("training", [True, False])
def test_gradients(known, training):
    layer = build().train(training)
    x = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, alpha: functional_call(layer, {"alpha": alpha}, (x, known)), (x, layer.alpha)
    )


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("padding", [0, 2])
def test_no_row_and_one_row_do_not_change_the_averages(rows, padding):
    layer = build()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(rows + padding, 3, dtype=DOUBLE, requires_grad=True)
    out = layer(x, torch.arange(rows + padding) < rows if padding else None)
    torch.testing.assert_close(layer.state_dict(), before)
    torch.testing.assert_close(out[:rows], x[:rows] * (1 + layer.alpha) / 2)  # the mean is s, so p is 1/2
    out[:rows].sum().backward()
    assert x.grad.isfinite().all()
    assert layer.alpha.grad.isfinite().all()


def test_a_constant_unit_has_finite_gradients():
    layer, x = Dice(2), torch.full((100, 2), 0.3).requires_grad_()
    out = layer(x)
    torch.testing.assert_close(out, x / 2, rtol=1e-2, atol=0)  # p is 1/2, but for rounding
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert (layer.running_var > 0).all()


def test_bfloat16_inputs_have_float32_statistics():
    layer, x = Dice(3), (torch.randn(500, 3) / 100 + 1).bfloat16()
    out = layer(x)
    assert out.dtype == torch.float32
    mean, var = array(x.double()).mean(0), array(x.double()).var(0)
    expected = [[dice(s, mean[h], var[h], 0.0) for h, s in enumerate(row)] for row in x.tolist()]
    np.testing.assert_allclose(array(out), expected, rtol=1e-4)


def test_alpha_is_0_at_the_start_and_the_only_parameter():
    layer = Dice(4)
    assert [(name, value.tolist()) for name, value in layer.named_parameters()] == [("alpha", [0.0] * 4)]
    assert repr(layer) == "Dice(4, eps=1e-08, momentum=0.1)"
