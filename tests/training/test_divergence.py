import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError
from training.small_run import run


class Poison(Callback):
    """Writes an infinite bias at the start of step `step`, or of the first validation."""

    def __init__(self, step=None):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.write(module)

    def on_validation_start(self, trainer, module):
        if self.step is None:
            self.write(module)

    def write(self, module):
        with torch.no_grad():
            module.network.encoders["complex"].layers[0].bias[3] = torch.inf


def test_an_infinite_loss_stops_before_the_step(dataset, tmp_path):
    with pytest.raises(InputError, match=r"at step 8, epoch 2, batch 3; .*: parameter encoders.complex.layers.0.bias"):
        run(dataset, tmp_path, extra=Poison(step=7), every=1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 7
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())


def test_a_nan_logloss_in_validation_stops_before_anything_monitors_it(dataset, tmp_path):
    with pytest.raises(InputError, match=r"diverged: the validation logloss is nan after epoch 1.*optimizer.lr"):
        run(dataset, tmp_path, extra=Poison())
    assert not (tmp_path / "best.ckpt").exists()
