"""The losses of FCN, FinalNet and QNN."""

import math

import numpy as np
import pytest
import torch

from tf4ctr.errors import InputError
from tf4ctr.models.losses import DistillationLoss, SelfEnsembleLoss, TriBCELoss
from tf4ctr.models.network import Logits

LABEL = [0.0, 1, 1, 0, 1, 0]
WEIGHT = [1.0, 0.5, 2, 0, 1, 1.5]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def bce(probability, target):
    return -(target * math.log(probability) + (1 - target) * math.log(1 - probability))


def weighted_mean(values, weight):
    return np.mean([w * value for w, value in zip(weight, values, strict=True)])


def bce_of(logits, targets, weight):
    return weighted_mean([bce(sigmoid(z), y) for z, y in zip(logits, targets, strict=True)], weight)


def tri_bce(fused, *heads, weight):
    loss = bce_of(fused, LABEL, weight)
    terms = [bce_of(head, LABEL, weight) for head in heads]
    return loss + sum(max(0, term - loss) * term for term in terms)


def tensors(columns):
    return [torch.tensor(column).requires_grad_() for column in columns]


def logits_of(fused, simple, *others):
    *between, complex_ = others
    return Logits(fused, simple, complex_, {f"m{i}": z for i, z in enumerate(between)})


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("weight", [[1.0] * 6, WEIGHT])
def test_tri_bce_equals_its_formula_and_the_weights_take_part_in_the_gradient(heads, weight):
    columns = torch.randn(heads + 1, 6)
    columns[1] = -4 * (2 * torch.tensor(LABEL) - 1)  # worse than the fused logit
    columns[2] = 4 * (2 * torch.tensor(LABEL) - 1)  # better
    parts = tensors(columns.tolist())
    terms = TriBCELoss()(logits_of(*parts), torch.tensor(LABEL), torch.tensor(weight))
    terms["loss"].backward()
    values = [part.detach().double().tolist() for part in parts]
    assert float(terms["loss"].detach()) == pytest.approx(tri_bce(*values, weight=weight), rel=1e-5)
    assert float(terms["bce_simple"].detach()) == pytest.approx(bce_of(values[1], LABEL, weight), rel=1e-5)
    for number, part in enumerate(parts):
        for i in range(6):
            step = []
            for change in (1e-5, -1e-5):
                moved = [list(column) for column in values]
                moved[number][i] += change
                step.append(tri_bce(*moved, weight=weight))
            assert float(part.grad[i]) == pytest.approx((step[0] - step[1]) / 2e-5, rel=1e-3, abs=1e-6)
    assert not parts[2].grad.any()


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_distillation_teaches_every_head_the_fused_prediction(heads, weight):
    fused, *others = parts = tensors(torch.randn(heads + 1, 6).tolist())
    rows = [1.0] * 6 if weight is None else weight
    terms = DistillationLoss()(logits_of(*parts), torch.tensor(LABEL), None if weight is None else torch.tensor(weight))
    terms["loss"].backward()
    teacher = [sigmoid(z) for z in fused.tolist()]
    expected = bce_of(fused.tolist(), LABEL, rows) + sum(bce_of(head.tolist(), teacher, rows) for head in others)
    assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    # the fused logit's gradient is that of its BCE only: the teacher is a constant
    for part, targets in zip(parts, [LABEL, *[teacher] * heads], strict=True):
        wanted = [w * (sigmoid(z) - y) / 6 for w, z, y in zip(rows, part.tolist(), targets, strict=True)]
        np.testing.assert_allclose(part.grad, wanted, atol=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_self_ensemble_equals_its_formula(weight):
    first, second = tensors(torch.randn(2, 6).tolist())
    rows = [1.0] * 6 if weight is None else weight
    passes = [Logits(z, z, z) for z in (first, second)]
    terms = SelfEnsembleLoss()(*passes, torch.tensor(LABEL), None if weight is None else torch.tensor(weight))
    terms["loss"].backward()
    values = first.detach().double().tolist(), second.detach().double().tolist()
    middle = [(sigmoid(a) + sigmoid(b)) / 2 for a, b in zip(*values, strict=True)]
    own = weighted_mean([bce(p, y) for p, y in zip(middle, LABEL, strict=True)], rows)
    taught = sum(bce_of(column, middle, rows) for column in values)
    assert [float(terms[name].detach()) for name in ("bce", "taught", "loss")] == pytest.approx(
        [own, taught, own + taught]
    )
    for column, part in zip(values, (first, second), strict=True):
        for i, z in enumerate(column):
            slope = sigmoid(z) * (1 - sigmoid(z)) / 2 * (middle[i] - LABEL[i]) / (middle[i] * (1 - middle[i]))
            wanted = rows[i] * (slope + sigmoid(z) - middle[i]) / 6
            assert float(part.grad[i]) == pytest.approx(wanted, abs=1e-6)


def test_self_ensemble_is_finite_at_saturated_logits():
    z = torch.tensor([90.0, -90.0, 90.0, -90.0], requires_grad=True)
    terms = SelfEnsembleLoss()(Logits(z, z, z), Logits(z, z, z), torch.tensor([1.0, 0, 0, 1]))
    terms["loss"].backward()
    assert float(terms["bce"].detach()) == pytest.approx(45, rel=1e-5)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("loss", [TriBCELoss, DistillationLoss])
def test_one_head_is_refused(loss):
    with pytest.raises(InputError, match="one encoder: use loss=bce"):
        loss().check_heads(1)
