"""Resuming is tried here with everything at work: dropout, learning-rate plateau, early stopping, both checkpoints."""

import errno
import os
import signal
from functools import partial

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from rich.progress import Progress

from conftest import make_spec, write_raw
from tf4ctr import __version__
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.preparation import prepare
from tf4ctr.errors import InputError
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
from tf4ctr.training.progress import ProgressBar, RowsPerSecond
from tf4ctr.training.summary import RunSummary

MONITOR = "val/monitor"


class Killed(Exception):
    pass


class KillAt(Callback):
    """Stop at the start of global step `step`, or in the middle of validation number `validation`, as kill -9 does."""

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
    """Send this process a signal at one moment of global step `step`."""

    def __init__(self, number, moment, step):
        self.number, self.step = number, step
        setattr(self, moment, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def run(prepared, folder, ckpt=None, kill=None, every=1000, epochs=6):
    """Train as conf/callbacks/default.yaml does; return the weights, the learning rate and the summary at the end."""
    torch.manual_seed(7)
    data = CTRDataModule(prepared, batch_size=90, seed=7)  # 5 steps an epoch
    mlp = partial(MLP, hidden_units=[16], dropout=0.3)
    network = Network(
        data.schema, partial(FieldEmbedding, init_std=0.1), 4, Shared, {"simple": mlp, "complex": mlp}, WeightedSum
    )
    module = CTRModule(data.schema, network, TFLoss(0.25, 1, 0.7), partial(torch.optim.Adam, lr=3e-2), 1e-3)
    last = LastCheckpoint(str(folder), every)
    summary = RunSummary(MONITOR)
    callbacks = [
        StopDiverged(50),
        summary,
        LRPlateau(MONITOR, 0.1, 0, 1e-6, 1e-6),
        EarlyStopping(MONITOR, mode="max", patience=2, min_delta=1e-6, check_on_train_epoch_end=False),
        ModelCheckpoint(folder, "best", MONITOR, mode="max", enable_version_counter=False),
        last,
        *([kill] if kill else []),
    ]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        default_root_dir=folder,
        **quiet,
    )
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except (Killed, SystemExit):  # Lightning makes that of Ctrl-C
        return None
    kept = {key: value for key, value in summary.metrics().items() if "second" not in key}
    train_loss = float(trainer.callback_metrics.get("train/loss", torch.nan))
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return weights, trainer.optimizers[0].param_groups[0]["lr"], kept, train_loss, summary.train_rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One prepared dataset for all runs of this file."""
    return prepare(make_spec(write_raw(tmp_path_factory.mktemp("toy") / "raw")))


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """An unbroken run of four epochs."""
    return run(prepared, tmp_path_factory.mktemp("whole"), epochs=4)


def same(first, second):
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]


# 5 steps an epoch: within an epoch, in its last two steps, in the first epoch and later ones
@pytest.mark.parametrize("step", [0, 2, 3, 4, 5, 7, 8, 9, 13])
@pytest.mark.parametrize(
    "moment", ["on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad"]
)
def test_interrupted_in_a_step_finishes_it_and_resumes_to_the_same_end(prepared, whole, tmp_path, moment, step):
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1][step % 3]
    handlers = signal.getsignal(number)
    assert run(prepared, tmp_path, kill=SignalAt(number, moment, step), epochs=4) is None
    assert signal.getsignal(number) is handlers
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == (step if step % 5 == 4 else step + 1)
    same(run(prepared, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=4), whole)


def test_a_second_signal_does_not_wait(prepared, tmp_path):
    class Twice(SignalAt):
        def send(self, trainer, *args):
            super().send(trainer)
            super().send(trainer)

    assert run(prepared, tmp_path, kill=Twice(signal.SIGINT, "on_before_backward", 7)) is None
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize("validation", [1, 2, 3])
def test_interrupted_in_validation_and_resumed_ends_the_same(prepared, whole, tmp_path, validation):
    assert run(prepared, tmp_path, kill=KillAt(validation=validation), epochs=4) is None
    same(run(prepared, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=4), whole)


@pytest.mark.parametrize(("step", "every"), [(3, 2), (5, 1000), (9, 2), (10, 1000), (12, 1), (14, 3)])
def test_killed_without_warning_and_resumed_ends_the_same(prepared, whole, tmp_path, step, every):
    assert run(prepared, tmp_path, kill=KillAt(step=step), every=every, epochs=4) is None
    same(run(prepared, tmp_path, ckpt=tmp_path / "last.ckpt", every=every, epochs=4), whole)


def test_a_run_that_had_decided_to_stop_trains_no_further(prepared, tmp_path):
    stopped = run(prepared, tmp_path, epochs=40)
    assert stopped[2]["epochs"] < 40  # early stopping had its say
    again = run(prepared, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=40)
    assert torch.equal(again[0], stopped[0])
    assert again[2] == stopped[2]


def test_a_checkpoint_of_another_network_is_told_before_anything_is_loaded(prepared, tmp_path):
    assert run(prepared, tmp_path, kill=KillAt(step=7), epochs=4) is None
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["tf4ctr"] == __version__
    state["tf4ctr"], state["state_dict"]["network.dfm.weight"] = "0.0.7", torch.ones(3)
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"another one \(dfm.weight\)\. It was written by version 0.0.7"):
        run(prepared, tmp_path, ckpt=tmp_path / "old.ckpt", epochs=4)


def test_a_full_disk_keeps_the_checkpoint_before(prepared, tmp_path, monkeypatch):
    save, saved = Trainer.save_checkpoint, []

    def full_at_the_third(self, path, *args, **options):
        if str(path).endswith("last.partial"):
            saved.append(path)
        if len(saved) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, *args, **options)

    monkeypatch.setattr(Trainer, "save_checkpoint", full_at_the_third)
    with pytest.raises(
        InputError, match=r"last.ckpt cannot be written \(No space left on device\), the one before is whole"
    ):
        run(prepared, tmp_path, every=1)
    assert not (tmp_path / "last.partial").exists()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_loss_that_is_no_number_stops_before_the_step(prepared, tmp_path):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 7:
                with torch.no_grad():
                    module.network.encoders["complex"].layers[0].bias[3] = torch.inf

    with pytest.raises(InputError, match=r"at step 8, epoch 2, batch 3; .*: parameter encoders.complex.layers.0.bias"):
        run(prepared, tmp_path, kill=Poison(), every=1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 7
    assert all(torch.isfinite(each).all() for each in state["state_dict"].values())


def test_the_same_seed_gives_the_same_run(prepared, whole, tmp_path):
    same(run(prepared, tmp_path, epochs=4), whole)


def test_learning_rate_falls_after_each_validation_without_improvement(prepared, tmp_path):
    class Watch(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, module):
            self.seen.append((module.results[MONITOR], trainer.optimizers[0].param_groups[0]["lr"]))

    watch = Watch()
    run(prepared, tmp_path, kill=watch, epochs=40)
    best, rate, bad = float("-inf"), 3e-2, 0
    for score, found in watch.seen:
        if score > best + 1e-6:
            best, bad = score, 0
        else:
            rate, bad = max(rate * 0.1, 1e-6), bad + 1
        assert found == pytest.approx(rate)
    assert bad == 2  # two checks in a row without improvement end the run


def test_summary_tells_the_best_epoch(prepared, tmp_path):
    class Watch(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, module):
            self.seen.append(dict(module.results))

    watch = Watch()
    _, _, metrics, _, rows = run(prepared, tmp_path, kill=watch, epochs=40)
    scores = [results[MONITOR] for results in watch.seen]
    assert metrics["best_epoch"] == scores.index(max(scores)) + 1
    assert metrics["epochs"] == len(scores)
    assert {key: metrics[key] for key in watch.seen[0]} == watch.seen[metrics["best_epoch"] - 1]
    assert rows == 400 * len(scores)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == metrics["best_epoch"]


def test_the_bar_shows_rows_a_second(prepared):
    progress = Progress(RowsPerSecond(500))
    task = progress.add_task("", total=10)
    assert "-- rows/s" in RowsPerSecond(500).render(progress.tasks[task]).plain
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[ProgressBar(10)])
    trainer.datamodule = CTRDataModule(prepared, batch_size=500)
    assert any(isinstance(column, RowsPerSecond) for column in trainer.callbacks[0].configure_columns(trainer))
