from types import SimpleNamespace

import optuna
import pytest
import torch

from tf4ctr.errors import InputError, Pruned
from tf4ctr.training.pruning import TrialPruning


class Trial:
    """A trial that is pruned at its second validation."""

    def __init__(self):
        self.values = {}

    def report(self, value, step):
        self.values[step] = value

    def should_prune(self):
        return len(self.values) == 2


def trainer_after(epochs, **metrics):
    metrics = {f"val/{name}": torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        callback_metrics=metrics,
        current_epoch=int(epochs),
        num_training_batches=4,
        fit_loop=SimpleNamespace(batch_idx=int(epochs % 1 * 4) - 1),
    )


def test_a_trial_reports_its_objective_and_is_pruned():
    callback = TrialPruning("", "val/monitor", optuna.pruners.NopPruner())
    callback.trial = Trial()
    callback.on_validation_end(trainer_after(0.5, monitor=1.5), None)
    resumed = TrialPruning("", "val/monitor", optuna.pruners.NopPruner())
    resumed.load_state_dict(callback.state_dict())
    resumed.trial = callback.trial
    with pytest.raises(Pruned, match=r"pruned after epoch 1.25: val/monitor 1.25000 is too far behind"):
        resumed.on_validation_end(trainer_after(1.25, monitor=1.25), None)
    assert callback.trial.values == {0: 1.5, 1: 1.25}  # by the number of the validation


def test_an_objective_that_validation_does_not_measure_is_refused():
    callback = TrialPruning("", "test/auc", optuna.pruners.NopPruner())
    callback.trial = Trial()
    with pytest.raises(InputError, match="objective is 'test/auc': .* choose one of val/auc, val/monitor"):
        callback.on_validation_end(trainer_after(0, auc=0.5, monitor=1.5), None)
