"""Callbacks that let one rank of a run fail, for tests of several processes."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch.callbacks import Callback

from tf4ctr.data import datamodule


class Fault(Callback):
    """Fails once, at the start of global step `step`, on rank `rank`.

    Args:
        what: weights (one becomes NaN), or the name of a signal that this process gets.
        marker: a file that is written before, so that a restarted run does not fail again.
    """

    def __init__(self, what, rank, step, marker):
        self.what, self.rank, self.step, self.marker = what, rank, step, Path(marker)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank != self.rank or trainer.global_step != self.step or self.marker.exists():
            return
        self.marker.touch()
        if self.what == "weights":
            with torch.no_grad():
                module.network.encoders["complex"].layers[0].bias[0] = torch.nan
        else:
            os.kill(os.getpid(), signal.Signals[self.what])


class Poor(Callback):
    """Rank `rank` has no free memory for rows."""

    def __init__(self, rank):
        self.rank = rank

    def setup(self, trainer, module, stage):
        if trainer.global_rank == self.rank:
            datamodule.psutil.virtual_memory = lambda: SimpleNamespace(available=0)
