"""End an unpromising trial of a search early."""

from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError, Pruned
from tf4ctr.training.schedule import epochs_trained

STUDY = "tf4ctr"  # the study's name in the storage of a search


class TrialPruning(Callback):
    """Reports the metric of every validation to the study, and ends the job if the pruner says so.

    Args:
        storage: URL of the study.
        monitor: the search's objective, a validation metric. The study knows whether more or less
            of it is better.
        pruner: Optuna's pruner.

    Raises:
        Pruned: the trial is unpromising; names the epoch.
        InputError: `monitor` is not a validation metric.
    """

    def __init__(self, storage: str, monitor: str, pruner: optuna.pruners.BasePruner) -> None:
        self.storage, self.monitor, self.pruner = storage, monitor, pruner
        self.trial: optuna.Trial | None = None
        self.validations = 0  # that are reported

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        study = optuna.load_study(study_name=STUDY, storage=self.storage, pruner=self.pruner)
        number = HydraConfig.get().job.num  # jobs and trials have the same numbers
        self.trial = optuna.Trial(study, study.trials[number]._trial_id)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(
                f"hydra.sweeper.objective is '{self.monitor}': pruning compares validation metrics;"
                f" choose one of {known}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        self.trial.report(value, self.validations)
        self.validations += 1
        if self.trial.should_prune():
            raise Pruned(
                f"pruned after epoch {epochs_trained(trainer)}: {self.monitor} {value:.5f} is too far behind the"
                " other trials"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
