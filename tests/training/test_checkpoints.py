"""Resuming is tested with dropout, plateau, early stopping and both checkpoints at work."""

import errno
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

import tf4ctr.training.module
from tf4ctr import __version__
from tf4ctr.errors import InputError
from tf4ctr.training.checkpoints import LastCheckpoint, random_state, saved_random_state, seed_rank
from training.small_run import QUIET, KillAt, SignalAt, assert_same, run


# 5 steps per epoch: in the middle of an epoch, in its last two steps, in the first and later ones
@pytest.mark.parametrize("step", [0, 2, 3, 4, 5, 7, 8, 9, 13])
@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad"]
)
def test_interrupted_in_a_step_finishes_it_and_resumes_to_the_same_end(dataset, unbroken, tmp_path, hook, step):
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1][step % 3]
    handlers = signal.getsignal(number)
    assert run(dataset, tmp_path, extra=SignalAt(number, hook, step), epochs=4) is None
    assert signal.getsignal(number) is handlers
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == (step if step % 5 == 4 else step + 1)
    assert_same(run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=4), unbroken)


def test_a_second_signal_does_not_wait(dataset, tmp_path):
    class Twice(SignalAt):
        def send(self, trainer, *args):
            super().send(trainer)
            super().send(trainer)

    assert run(dataset, tmp_path, extra=Twice(signal.SIGINT, "on_before_backward", 7)) is None
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize("validation", [1, 2, 3])
def test_killed_in_validation_and_resumed_ends_the_same(dataset, unbroken, tmp_path, validation):
    assert run(dataset, tmp_path, extra=KillAt(validation=validation), epochs=4) is None
    assert_same(run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=4), unbroken)


@pytest.mark.parametrize(("step", "every"), [(3, 2), (5, 1000), (9, 2), (10, 1000), (12, 1), (14, 3)])
def test_killed_in_training_and_resumed_ends_the_same(dataset, unbroken, tmp_path, step, every):
    assert run(dataset, tmp_path, extra=KillAt(step=step), every=every, epochs=4) is None
    assert_same(run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", every=every, epochs=4), unbroken)


@pytest.mark.parametrize("layout", ["of all ranks", "of one rank"])
def test_a_checkpoint_with_the_random_state_of_a_callback_resumes_to_the_same_end(dataset, unbroken, tmp_path, layout):
    """The layouts of earlier code; version 0.1.0 saved the state of one rank."""
    assert run(dataset, tmp_path, extra=KillAt(step=8), every=2, epochs=4) is None
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    ranks = state.pop("random_states")
    state["callbacks"]["LastCheckpoint"] = {"ranks": ranks} if layout == "of all ranks" else ranks[0]
    torch.save(state, tmp_path / "old.ckpt")
    assert_same(run(dataset, tmp_path, ckpt=tmp_path / "old.ckpt", epochs=4), unbroken)


class Orders(Callback):
    """Keeps the first column of every training batch, one list per epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.epochs[-1] += batch.ids[:, 0].tolist()


def test_sigterm_ends_the_test_at_once(tmp_path):
    class Terminated(LightningModule):
        def test_step(self, batch):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal has not interrupted the step")

    before = signal.getsignal(signal.SIGTERM)
    trainer = Trainer(accelerator="cpu", callbacks=LastCheckpoint(str(tmp_path)), **QUIET)
    with pytest.raises(SystemExit):  # Lightning turns Ctrl-C into SystemExit
        trainer.test(Terminated(), DataLoader(range(3)), verbose=False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_last_checkpoint_a_run_is_the_same(dataset, unbroken, tmp_path):
    """Also if it resumes from best.ckpt, the only one then: every epoch has an order of its own."""
    orders = Orders()
    assert_same(run(dataset, tmp_path, extra=orders, epochs=4, last=False), unbroken)
    assert not (tmp_path / "last.ckpt").exists()
    first, second = orders.epochs[:2]
    assert first != second
    assert sorted(first) == sorted(second)
    assert_same(run(dataset, tmp_path, ckpt=tmp_path / "best.ckpt", epochs=4, last=False), unbroken)


class Steps(Callback):
    """Steps of 60 seconds on a clock of its own, and the steps after which last.ckpt is newer."""

    def __init__(self, path):
        self.path, self.seconds, self.saved = path, 0.0, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.path.exists() and torch.load(self.path, weights_only=True)["global_step"] not in self.saved:
            self.saved.append(trainer.global_step)
        self.seconds += 60


def test_the_clock_decides_when_it_is_written_within_an_epoch(dataset, tmp_path, monkeypatch):
    steps = Steps(tmp_path / "last.ckpt")
    monkeypatch.setattr(tf4ctr.training.checkpoints.time, "monotonic", lambda: steps.seconds)
    assert run(dataset, tmp_path, extra=steps, minutes=3, batch_size=40, epochs=2)  # 10 steps per epoch
    # after 3 minutes, before the last step, after validation; then 3 minutes after that
    assert steps.saved == [3, 6, 9, 10, 13, 16, 19]


def test_training_cannot_resume_from_the_best_weights(dataset, unbroken, tmp_path):
    assert run(dataset, tmp_path, extra=KillAt(step=7), epochs=4) is None
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert not {"optimizer_states", "callbacks", "random_states"} & set(best)
    assert {"schema", "state_dict"} < set(best)
    with pytest.raises(InputError, match=r"best.ckpt contains weights only.*Use last.ckpt of its folder"):
        run(dataset, tmp_path, ckpt=tmp_path / "best.ckpt", epochs=4)


@pytest.mark.parametrize(
    "options",
    [{"minutes": -1}, {"every_n_train_steps": 0}, {"agree_every_n_train_steps": 0}, {"minutes": float("nan")}],
)
def test_a_wrong_option_of_the_last_checkpoint_is_refused(options):
    (name,) = options
    with pytest.raises(InputError, match=f"callbacks.checkpoint_last.{name} is .*: expected"):
        LastCheckpoint("", **options)


def test_a_run_that_had_decided_to_stop_trains_no_further(dataset, tmp_path):
    stopped = run(dataset, tmp_path, epochs=40)
    assert stopped.metrics["epochs"] < 40  # early stopping ended it
    again = run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=40)
    assert torch.equal(again.weights, stopped.weights)
    assert again.metrics == stopped.metrics


def test_a_resumed_run_has_the_patience_of_its_own_start(dataset, tmp_path):
    stopped = run(dataset, tmp_path, epochs=40, patience=1)
    again = run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=40, patience=4)
    assert again.metrics["epochs"] > stopped.metrics["epochs"]
    assert_same(again, run(dataset, tmp_path / "unbroken", epochs=40, patience=4))


def test_without_patience_a_run_ends_at_the_first_validation_that_is_no_better(dataset, tmp_path):
    ends = [run(dataset, tmp_path / str(patience), epochs=40, patience=patience) for patience in (0, 1)]
    assert_same(*ends)
    assert 1 < ends[0].metrics["epochs"] < 40


def linked(old, new):
    """Move a folder, and reach it by a link to it."""
    shutil.move(old, new.with_name("place"))
    new.symlink_to(new.with_name("place"))
    return new


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree, linked])
def test_a_run_that_resumes_in_a_moved_folder_keeps_its_best_checkpoint(dataset, tmp_path, monkeypatch, move):
    """Every validation is worse than the one before, so the first epoch is the best one."""
    falling = itertools.count(0, -1)
    monkeypatch.setattr(tf4ctr.training.module, "monitor_of", lambda *given: float(next(falling)))
    assert run(dataset, tmp_path / "old", extra=KillAt(step=7), epochs=3) is None
    new = Path(move(tmp_path / "old", tmp_path / "new"))
    end = run(dataset, new, ckpt=new / "last.ckpt", epochs=3)
    assert end.metrics["best_epoch"] == 1
    assert torch.load(new / "best.ckpt", weights_only=True)["epoch"] == 0


def test_a_checkpoint_of_another_network_is_refused_before_it_is_loaded(dataset, tmp_path):
    assert run(dataset, tmp_path, extra=KillAt(step=7), epochs=4) is None
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["tf4ctr"] == __version__
    state["tf4ctr"], state["state_dict"]["network.dfm.weight"] = "0.0.7", torch.ones(3)
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"another network: .*shape: dfm.weight\. It was written by version 0.0.7"):
        run(dataset, tmp_path, ckpt=tmp_path / "old.ckpt", epochs=4)


def test_a_checkpoint_of_other_rows_is_refused(dataset, tmp_path):
    assert run(dataset, tmp_path, extra=KillAt(step=7), epochs=4) is None
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["schema"]["digest"] = "that of another split"
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match="old.ckpt was trained on other rows than the prepared dataset has now"):
        run(dataset, tmp_path, ckpt=tmp_path / "old.ckpt", epochs=4)


def test_fewer_epochs_than_the_checkpoint_has_are_refused(dataset, tmp_path):
    assert run(dataset, tmp_path, extra=KillAt(step=12), every=1, epochs=4) is None
    with pytest.raises(InputError, match="written after 2 epochs, and trainer.max_epochs is 1: raise it"):
        run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=1)


def test_a_full_disk_keeps_the_earlier_checkpoint(dataset, tmp_path, monkeypatch):
    save, paths = Trainer.save_checkpoint, []

    def full_at_the_third(self, path, *args, **options):
        if str(path).endswith("last.partial"):
            paths.append(path)
        if len(paths) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, *args, **options)

    monkeypatch.setattr(Trainer, "save_checkpoint", full_at_the_third)
    with pytest.raises(
        InputError, match=r"last.ckpt cannot be written \(No space left on device\); the earlier one is intact"
    ):
        run(dataset, tmp_path, every=1)
    assert not (tmp_path / "last.partial").exists()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_the_same_seed_gives_the_same_run(dataset, unbroken, tmp_path):
    assert_same(run(dataset, tmp_path, epochs=4), unbroken)


@pytest.mark.parametrize("step", [5, 7, 10])
def test_a_resumed_run_keeps_the_best_checkpoint_of_the_epochs_before(dataset, tmp_path, step, monkeypatch):
    """Every validation is worse than the one before, so the first epoch is the best one."""
    falling = itertools.count(0, -1)
    monkeypatch.setattr(tf4ctr.training.module, "monitor_of", lambda *given: float(next(falling)))
    assert run(dataset, tmp_path, extra=KillAt(step=step), epochs=3) is None
    end = run(dataset, tmp_path, ckpt=tmp_path / "last.ckpt", epochs=3)
    assert end.metrics["best_epoch"] == 1
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 0


def test_ranks_draw_different_numbers_and_the_first_keeps_its_own():
    drawn = []
    for rank, step in ((0, 0), (0, 9), (1, 0), (2, 0), (1, 9), (1, 0)):
        torch.manual_seed(7)
        seed_rank(rank, step)
        drawn.append(torch.randint(2**62, ()).item())
    torch.manual_seed(7)
    assert drawn[0] == drawn[1] == torch.randint(2**62, ()).item()
    assert drawn[2] == drawn[5]
    assert len(set(drawn)) == 4


def test_a_rank_that_the_checkpoint_lacks_has_no_saved_random_state(monkeypatch):
    states = [random_state(), {"cpu": torch.Generator().manual_seed(1).get_state(), "cuda": []}]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank, expected in enumerate((*states, None)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert saved_random_state({"random_states": states}) is expected
        assert saved_random_state({"callbacks": {"LastCheckpoint": {"ranks": states}}}) is expected
    assert saved_random_state({}) is None
