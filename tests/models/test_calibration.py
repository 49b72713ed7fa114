import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from tf4ctr.metrics import LogitRows, auc
from tf4ctr.models.calibration import Calibration, platt


def drawn(rows=20_000, scale=0.6, shift=-0.3, seed=0):
    """Logits z, and labels of the probability sigmoid(scale z + shift)."""
    generator = torch.Generator().manual_seed(seed)
    logit = 3 * torch.randn(rows, generator=generator) - 2
    label = (torch.rand(rows, generator=generator) < torch.sigmoid(scale * logit + shift)).float()
    return logit, label


def test_scale_and_shift_are_those_of_a_logistic_regression():
    logit, label = drawn()
    scale, shift = platt(logit, label)
    regression = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None].numpy(), label.numpy())
    assert float(scale) == pytest.approx(regression.coef_.item(), abs=2e-3)  # Platt's targets are not quite 0 and 1
    assert float(shift) == pytest.approx(regression.intercept_.item(), abs=2e-3)
    assert float(scale) == pytest.approx(0.6, abs=0.03)
    assert float(shift) == pytest.approx(-0.3, abs=0.05)


@pytest.mark.parametrize(("mean", "spread"), [(-20, 1e-3), (1000, 1), (0, 1e4)])
def test_logits_of_any_mean_and_spread_are_fitted(mean, spread):
    logit, label = drawn()
    scale, shift = platt(logit, label)
    moved_scale, moved_shift = platt(logit.double() * spread + mean, label)
    assert float(moved_scale * spread) == pytest.approx(float(scale), rel=1e-4)
    assert float(moved_shift + moved_scale * mean) == pytest.approx(float(shift), abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000), st.booleans())
def test_no_scale_and_shift_have_a_smaller_loss(rows, seed, weighted):
    """Against scipy's minimum of Platt's formula in numpy, also where z separates the classes."""
    generator = np.random.default_rng(seed)
    z, y = generator.normal(size=rows), generator.integers(0, 2, rows).astype(float)
    w = generator.uniform(0.1, 3, rows) if weighted else np.ones(rows)
    w /= w.mean()
    positive, negative = (w * y).sum(), (w * (1 - y)).sum()
    target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(ab):
        x = ab[0] * z + ab[1]
        return (w * (np.logaddexp(0, x) - target * x)).sum() / w.sum()

    weight = torch.from_numpy(w) if weighted else None
    found = [float(value) for value in platt(torch.from_numpy(z), torch.from_numpy(y), weight)]
    assert np.isfinite(found).all()
    assert loss(found) <= minimize(loss, [1, 0], method="BFGS").fun + 1e-9


def test_a_weight_of_two_is_the_row_twice():
    """And the unit of the weights does not matter, nor do rows without weight."""
    logit, label = drawn()
    twice = torch.arange(len(logit)) % 3 == 0
    weighted = torch.stack(platt(logit, label, 1 + twice.float()))
    repeated = platt(torch.cat([logit, logit[twice]]), torch.cat([label, label[twice]]))
    assert weighted == pytest.approx(torch.stack(repeated), abs=1e-3)  # Platt's targets know how many rows there are
    with_others = [torch.cat([logit, -logit]), torch.cat([label, label])]
    small = torch.cat([1e-6 * (1 + twice.float()), torch.zeros_like(logit)])
    assert weighted == pytest.approx(torch.stack(platt(*with_others, small)), abs=1e-6)


def test_rare_clicks_that_are_counted_in_bins_are_fitted_as_the_rows_themselves():
    """Platt's targets know the number of rows: that of the bins would be far too small."""
    logit, label = drawn(300_000, shift=-8)
    assert 0 < label.mean() < 2e-3
    binned = LogitRows(exact_rows=1)
    binned.update(logit, label)
    rows = binned.compute()
    assert len(rows["logit_B"]) < 100_000
    assert torch.stack(platt(**rows)) == pytest.approx(torch.stack(platt(logit, label)), abs=2e-3)
    rows["weight_B"] = 7.5 * rows["weight_B"]  # a weight of 7.5 for each row
    assert torch.stack(platt(**rows)) == pytest.approx(torch.stack(platt(logit, label)), abs=2e-3)


def test_it_acts_in_evaluation_only_and_can_be_undone():
    logit, label = drawn()
    calibration = Calibration()
    assert calibration.fit(logit, label)
    assert calibration(logit) is logit  # a module is in training mode at first
    calibration.eval()
    expected = platt(logit, label)
    assert torch.allclose(calibration(logit).double(), expected[0] * logit.double() + expected[1], atol=1e-5)
    assert torch.allclose(calibration.undo(calibration(logit)), logit, atol=1e-5)
    assert (calibration(logit)[logit.argsort()].diff() >= 0).all()  # two may be equal now, in float32
    assert float(auc(calibration(logit), label)) == pytest.approx(float(auc(logit, label)), abs=1e-7)
    assert calibration(logit.bfloat16()).dtype == torch.float32
    assert calibration(logit.double()).dtype == torch.float64


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_one_label_do_not_calibrate(weighted):
    logit, label = drawn(100)
    weight = (label == 0).float() if weighted else None
    calibration = Calibration().eval()
    assert not calibration.fit(logit, label if weighted else torch.zeros_like(label), weight)
    assert torch.equal(calibration(logit), logit)


@pytest.mark.parametrize(
    "spoil",
    [lambda z: -z, lambda z: z * torch.nan],
    ids=["the order would be turned round", "NaN"],
)
def test_logits_that_do_not_order_the_rows_stay_as_they_are(spoil):
    logit, label = drawn()
    calibration = Calibration().eval()
    calibration.fit(logit, label)
    assert not calibration.fit(spoil(logit), label)
    assert (float(calibration.scale), float(calibration.shift)) == (1, 0)
