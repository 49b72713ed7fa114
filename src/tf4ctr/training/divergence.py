"""Stop a training whose loss is NaN or infinite."""

from typing import cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tf4ctr.errors import InputError
from tf4ctr.training.module import CTRModule


class StopDiverged(Callback):
    """Stop where the loss is no number any more, before a step makes every weight one of those; the last checkpoint stays.

    Looks at every step on a CPU, and every `every_n_train_steps` steps on an accelerator, which looking would make wait.

    Args:
        every_n_train_steps: steps between two looks.

    Raises:
        InputError: naming step, epoch, batch and tensor.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        self.every_n_train_steps = every_n_train_steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if loss.device.type != "cpu" and trainer.global_step % self.every_n_train_steps:
            return
        if torch.isfinite(loss):
            return
        module = cast(CTRModule, pl_module)
        tensors: dict[str, Tensor] = {f"parameter {name}": each for name, each in module.network.named_parameters()}
        tensors |= {f"loss term {name}": each for name, each in module.train_terms.items() if name != "loss"}
        name = next((name for name, each in tensors.items() if not torch.isfinite(each).all()), "loss")
        raise InputError(
            f"training diverged: the loss is {loss.item()} at step {trainer.global_step + 1}, epoch {trainer.current_epoch + 1}, batch"
            f" {trainer.fit_loop.epoch_loop.batch_idx + 1}; the first tensor that is no number: {name}. Try a smaller optimizer.lr"
        )
