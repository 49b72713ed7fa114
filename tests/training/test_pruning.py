from types import SimpleNamespace

import optuna
import pytest
import torch

from tf4ctr.errors import InputError, Pruned
from tf4ctr.training.pruning import TrialPruning


class Trial:
    """A trial that is pruned in its second epoch."""

    def __init__(self):
        self.values = {}

    def report(self, value, epoch):
        self.values[epoch] = value

    def should_prune(self):
        return len(self.values) == 2


def trainer_after(epoch, **metrics):
    metrics = {f"val/{name}": torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(
        sanity_checking=False, state=SimpleNamespace(fn="fit"), callback_metrics=metrics, current_epoch=epoch
    )


def test_a_trial_reports_its_objective_and_is_pruned():
    callback = TrialPruning("", "val/monitor", optuna.pruners.NopPruner())
    callback.trial = Trial()
    callback.on_validation_end(trainer_after(0, monitor=1.5), None)
    with pytest.raises(Pruned, match=r"pruned after epoch 2: val/monitor 1.25000 is too far behind"):
        callback.on_validation_end(trainer_after(1, monitor=1.25), None)
    assert callback.trial.values == {0: 1.5, 1: 1.25}


def test_an_objective_that_validation_does_not_measure_is_refused():
    callback = TrialPruning("", "test/auc", optuna.pruners.NopPruner())
    callback.trial = Trial()
    with pytest.raises(InputError, match="objective is 'test/auc': .* choose one of val/auc, val/monitor"):
        callback.on_validation_end(trainer_after(0, auc=0.5, monitor=1.5), None)
