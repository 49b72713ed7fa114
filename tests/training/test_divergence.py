import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tf4ctr.errors import InputError
from tf4ctr.training.divergence import StopDiverged
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


def last_step(folder):
    """The step of last.ckpt, whose weights are finite."""
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())
    return state["global_step"]


@pytest.fixture
def accelerator(monkeypatch):
    """Checks are as rare as on an accelerator: at step 1, 51, ... and the last one of an epoch."""
    monkeypatch.setattr(StopDiverged, "_reads_for_free", lambda self, loss: False)


def test_on_an_accelerator_nan_is_found_in_the_last_step_of_the_epoch(dataset, tmp_path, accelerator):
    with pytest.raises(InputError, match=r"the loss is nan at step 10, epoch 2, batch 5"):
        run(dataset, tmp_path, extra=Poison(step=9))
    assert last_step(tmp_path) == 9


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step"])
def test_nan_is_never_saved(dataset, tmp_path, accelerator, hook):
    """Before the next check: in a loss, and in the gradient of a finite loss."""
    with pytest.raises(InputError, match=r"diverged before step 9, epoch 2; .* NaN .*: parameter .* is not written"):
        run(dataset, tmp_path, extra=PoisonGradient(7) if "optimizer" in hook else Poison(step=7), every=2)
    assert last_step(tmp_path) == 6


class PoisonGradient(Callback):
    """Writes NaN into a gradient of step `step`."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == self.step:
            module.network.encoders["complex"].layers[0].weight.grad[0, 0] = torch.nan
