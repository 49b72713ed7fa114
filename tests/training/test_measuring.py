import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from tf4ctr.data.stream import Batch
from tf4ctr.models.calibration import Calibration, platt
from tf4ctr.training.measuring import SplitMetrics


def draw_rows(count, seed):
    """A batch, and the logits of two heads and of their fusion."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (count,), generator=generator).float()
    logits = {
        name: 4 * label - 2 + 3 * torch.randn(count, generator=generator) for name in ("fused", "simple", "complex")
    }
    group, weight = torch.randint(0, 3, (count,), generator=generator), torch.rand(count, generator=generator)
    return logits, Batch(torch.empty(count, 0), label, group, weight=weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_metrics_of_two_batches_are_those_of_all_rows_and_then_start_anew(weighted):
    metrics = SplitMetrics(["simple", "complex"], grouped=True, weighted=weighted, calibrated=False)
    for seeds in ([1, 2], [3, 4]):  # the second split must not see the rows of the first
        parts = [draw_rows(50, seed) for seed in seeds]
        for logits, batch in parts:
            metrics.update(logits, batch)
        results = metrics.results()
        label = torch.cat([batch.label for _, batch in parts])
        weight = torch.cat([batch.weight for _, batch in parts]) if weighted else None
        for head, prefix in (("fused", ""), ("simple", "simple/"), ("complex", "complex/")):
            p = torch.sigmoid(torch.cat([logits[head] for logits, _ in parts]).double())
            assert results.pop(f"{prefix}auc") == pytest.approx(roc_auc_score(label, p, sample_weight=weight), abs=1e-6)
            assert results.pop(f"{prefix}logloss") == pytest.approx(log_loss(label, p, sample_weight=weight), abs=1e-6)
        assert list(results) == ["gauc"]
        assert 0.5 < results["gauc"] < 1


@pytest.mark.parametrize("exact_rows", [400, 399])  # more rows are counted in bins
@pytest.mark.parametrize("weighted", [False, True])
def test_a_calibration_is_fitted_on_the_rows_that_were_kept(weighted, exact_rows):
    metrics = SplitMetrics([], grouped=False, weighted=weighted, calibrated=True)
    metrics.kept.exact_rows = exact_rows
    calibration = Calibration().eval()
    parts = [draw_rows(200, seed) for seed in (1, 2)]
    for logits, batch in parts:
        metrics.update({**logits, "uncalibrated": logits["fused"]}, batch, keep=True)
    assert metrics.calibrate(calibration)
    results = metrics.results()
    logit = torch.cat([logits["fused"] for logits, _ in parts])
    label = torch.cat([batch.label for _, batch in parts])
    weight = torch.cat([batch.weight for _, batch in parts]) if weighted else None

    def logloss(logit, error=1e-6):
        return pytest.approx(log_loss(label, torch.sigmoid(logit.double()), sample_weight=weight), abs=error)

    scale, shift = platt(logit, label, weight)
    assert (float(calibration.scale), float(calibration.shift)) == pytest.approx((float(scale), float(shift)), abs=1e-4)
    assert results["logloss"] == logloss(calibration(logit), 1e-6 if exact_rows == 400 else 1e-4)
    assert results["uncalibrated_logloss"] == logloss(logit)
    assert results["logloss"] < results["uncalibrated_logloss"] - 0.01
    assert sorted(results) == ["auc", "logloss", "uncalibrated_logloss"]

    # rows of one label, in the next validation: not those of the one before
    logits, batch = draw_rows(20, 3)
    metrics.update({**logits, "uncalibrated": logits["fused"]}, batch._replace(label=torch.ones(20)), keep=True)
    assert not metrics.calibrate(calibration)
