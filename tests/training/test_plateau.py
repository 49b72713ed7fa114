from types import SimpleNamespace

import pytest
import torch

from tf4ctr.errors import InputError
from tf4ctr.training.plateau import LRPlateau
from training.small_run import MONITOR, Results, run


def test_learning_rate_falls_after_each_validation_without_improvement(dataset, tmp_path):
    results = Results()
    run(dataset, tmp_path, extra=results, epochs=40)
    best, rate, without_improvement = float("-inf"), 3e-2, 0
    for metrics, measured in zip(results.metrics, results.rates, strict=True):
        if metrics[MONITOR] > best + 1e-6:
            best, without_improvement = metrics[MONITOR], 0
        else:
            rate, without_improvement = max(rate * 0.1, 1e-6), without_improvement + 1
        assert measured == pytest.approx(rate)
    assert without_improvement == 2  # two validations in a row without improvement end the run


@pytest.mark.parametrize("factor", [0, 1, 1.5])
def test_a_factor_that_does_not_lower_the_learning_rate_is_refused(factor):
    with pytest.raises(InputError, match=f"factor is {factor}: expected more than 0 and less than 1"):
        LRPlateau("val/auc", factor, 0, 1e-6, 1e-6)


def test_a_metric_that_is_not_measured_is_refused():
    callback = LRPlateau("val/acu", 0.1, 0, 1e-6, 1e-6)
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        callback_metrics={"val/auc": torch.tensor(0.5), "train/loss": torch.tensor(0.7)},
        optimizers=[torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)],
    )
    callback.on_train_start(trainer, None)
    with pytest.raises(InputError, match="monitor is val/acu, which is not measured: did you mean 'val/auc'"):
        callback.on_validation_end(trainer, None)
