"""End a trial of a search early where it falls behind the others."""

import optuna
from hydra.core.hydra_config import HydraConfig
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import Pruned

STUDY = "tf4ctr"  # the name of a search's study in its storage


class TrialPruning(Callback):
    """Tell the study every validation's metric, and end the job where the pruner sees no hope in it.

    Args:
        storage: URL of the study.
        monitor: the metric, larger is better.
        pruner: of Optuna.

    Raises:
        Pruned: in training, naming the epoch.
    """

    def __init__(self, storage: str, monitor: str, pruner: optuna.pruners.BasePruner) -> None:
        self.storage, self.monitor, self.pruner = storage, monitor, pruner
        self.trial: optuna.Trial | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        study = optuna.load_study(study_name=STUDY, storage=self.storage, pruner=self.pruner)
        number = HydraConfig.get().job.num  # the sweep's jobs are numbered as its trials are
        self.trial = optuna.Trial(study, study.trials[number]._trial_id)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = float(trainer.callback_metrics[self.monitor])
        self.trial.report(value, trainer.current_epoch)
        if self.trial.should_prune():
            raise Pruned(
                f"pruned after epoch {trainer.current_epoch + 1}: {self.monitor} {value:.5f} is too far behind the other trials"
            )
