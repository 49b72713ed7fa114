"""Stop a training whose loss is NaN or infinite."""

from typing import cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tf4ctr.errors import InputError
from tf4ctr.training.finite import first_not_finite
from tf4ctr.training.module import CTRModule


class StopDiverged(Callback):
    """Stops at a NaN or infinite loss. The last checkpoint stays.

    It checks before each step on a CPU. Each check waits for an accelerator, so there it checks
    every `every_n_train_steps` steps and in the last step of an epoch, and finds any NaN of the
    epoch until then: the sum of an epoch's losses stays NaN. Checkpoints do not depend on it:
    `CTRModule` looks before each save.

    Args:
        every_n_train_steps: steps between two checks on an accelerator.

    Raises:
        InputError: names step, epoch, batch and tensor.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        self.every_n_train_steps = every_n_train_steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        module = cast(CTRModule, pl_module)
        due = trainer.global_step % self.every_n_train_steps == 0 or trainer.is_last_batch
        if not (due or self._reads_for_free(loss)) or torch.isfinite(module.train_terms["loss"]):
            return
        raise InputError(
            f"training diverged: the loss is {loss.item()} at step {trainer.global_step + 1},"
            f" epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.epoch_loop.batch_idx + 1};"
            f" the first tensor with NaN or infinite values: {first_not_finite(module.network, module.train_terms)}."
            " Try a smaller optimizer.lr"
        )

    @staticmethod
    def _reads_for_free(loss: Tensor) -> bool:
        return loss.device.type == "cpu"
