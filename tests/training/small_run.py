"""One small training with everything that conf/callbacks/default.yaml has, in this process."""

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor

from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.losses import TFLoss
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import Shared
from tf4ctr.training.checkpoints import LastCheckpoint
from tf4ctr.training.divergence import StopDiverged
from tf4ctr.training.module import CTRModule
from tf4ctr.training.plateau import LRPlateau
from tf4ctr.training.summary import RunSummary

MONITOR = "val/monitor"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Killed(Exception):
    """Ends a run as kill -9 does: nothing is saved."""


class KillAt(Callback):
    """Kills at the start of global step `step`, or in the middle of a validation."""

    def __init__(self, step=None, validation=None):
        self.step, self.validation, self.validations = step, validation, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.validations += batch_idx == 0
        if self.validations == self.validation and batch_idx == 1:
            raise Killed


class SignalAt(Callback):
    """Sends this process a signal in one hook of global step `step`."""

    def __init__(self, number, hook, step):
        self.number, self.step = number, step
        setattr(self, hook, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class Results(Callback):
    """Keeps the validation metrics and the learning rate of every epoch."""

    def __init__(self):
        self.metrics: list[dict[str, float]] = []
        self.rates: list[float] = []

    def on_train_epoch_end(self, trainer, module):
        self.metrics.append(dict(module.results))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class End(NamedTuple):
    """What a run ends with."""

    weights: Tensor
    learning_rate: float
    metrics: dict[str, Any]  # of the summary, without times
    train_loss: float
    train_rows: int


def run(
    prepared: Path,
    folder: Path,
    ckpt: Path | None = None,
    extra: Callback | None = None,
    every: int = 1000,
    epochs: int = 6,
    last: bool = True,
    patience: int = 2,
    batch_size: int = 90,
    minutes: float | None = None,
    **trainer_options: Any,
) -> End | None:
    """Train; returns None if the run was killed or interrupted.

    Args:
        extra: one more callback.
        every: steps between two checkpoints within an epoch.
        last: whether last.ckpt is written. Without it the run can resume from best.ckpt.
        patience: validations without improvement before the run stops.
        batch_size: with 90 there are 5 steps per epoch.
        minutes: between two checkpoints within an epoch.
        trainer_options: of Lightning's trainer.
    """
    torch.manual_seed(7)
    data = CTRDataModule(prepared, batch_size, seed=7)
    mlp = partial(MLP, hidden_units=[16], dropout=0.3)
    encoders = {"simple": mlp, "complex": mlp}
    network = Network(data.schema, partial(FieldEmbedding, init_std=0.1), 4, Shared, encoders, WeightedSum)
    module = CTRModule(data.schema, network, TFLoss(0.25, 1, 0.7), partial(torch.optim.Adam, lr=3e-2), 1e-3)
    summary = RunSummary(MONITOR)
    callbacks = [
        StopDiverged(50),
        summary,
        LRPlateau(MONITOR, 0.1, 0, 1e-6, 1e-6),
        EarlyStopping(MONITOR, mode="max", patience=patience, min_delta=1e-6, check_on_train_epoch_end=False),
        ModelCheckpoint(
            folder,
            "best",
            MONITOR,
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
            save_weights_only=last,
        ),
        *([LastCheckpoint(str(folder), minutes, every)] if last else []),
        *([extra] if extra else []),
    ]
    options = {"accelerator": "cpu", "max_epochs": epochs, "num_sanity_val_steps": 0, "default_root_dir": folder}
    trainer = Trainer(callbacks=callbacks, **{**QUIET, **options, **trainer_options})
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except (Killed, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        return None
    metrics = {key: value for key, value in summary.metrics().items() if "second" not in key}
    train_loss = float(trainer.callback_metrics.get("train/loss", torch.nan))
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return End(weights, trainer.optimizers[0].param_groups[0]["lr"], metrics, train_loss, summary.train_rows)


def assert_same(first: End, second: End) -> None:
    """Check that two runs end with the same weights and metrics, to the last digit."""
    assert torch.equal(first.weights, second.weights)
    assert first[1:] == second[1:]
