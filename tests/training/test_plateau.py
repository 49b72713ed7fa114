import pytest

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
