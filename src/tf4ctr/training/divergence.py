"""Stop a training whose loss is NaN or infinite."""

from typing import cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tf4ctr.errors import InputError
from tf4ctr.training.module import CTRModule


class StopDiverged(Callback):
    """Stops at a NaN or infinite loss, before the step. The last checkpoint stays.

    It checks every step on a CPU, and every `every_n_train_steps` steps on an accelerator, because
    each check waits for the accelerator.

    Args:
        every_n_train_steps: steps between two checks on an accelerator.

    Raises:
        InputError: names step, epoch, batch and tensor.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        self.every_n_train_steps = every_n_train_steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if loss.device.type != "cpu" and trainer.global_step % self.every_n_train_steps:
            return
        if torch.isfinite(loss):
            return
        module = cast(CTRModule, pl_module)
        tensors: dict[str, Tensor] = {f"parameter {name}": tensor for name, tensor in module.network.named_parameters()}
        tensors |= {f"loss term {name}": term for name, term in module.train_terms.items() if name != "loss"}
        first = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), "loss")
        raise InputError(
            f"training diverged: the loss is {loss.item()} at step {trainer.global_step + 1},"
            f" epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.epoch_loop.batch_idx + 1};"
            f" the first tensor with NaN or infinite values: {first}. Try a smaller optimizer.lr"
        )
