"""Checkpoints: the network and the ranks' states in them, and the one that a run resumes from."""

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import distributed

from tf4ctr import __version__
from tf4ctr.errors import InputError
from tf4ctr.models.network import Network
from tf4ctr.training.schedule import steps_to_pause


def load_network(network: Network, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into the network that its config builds.

    Raises:
        InputError: the weights have other names or shapes, for example because another version
            wrote them. The message names that version and says what to do.
    """
    prefix = "network."
    saved = {
        key.removeprefix(prefix): tensor for key, tensor in checkpoint["state_dict"].items() if key.startswith(prefix)
    }
    own = network.state_dict()
    differing = [
        name
        for name in {**own, **saved}
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    ]
    if differing:
        more = ", ..." if len(differing) > 3 else ""
        raise InputError(
            f"the checkpoint belongs to another network: these weights differ in name or shape:"
            f" {', '.join(differing[:3])}{more}. {other_version(checkpoint)}"
        )
    network.load_state_dict(saved)


def other_version(checkpoint: Mapping[str, Any]) -> str:
    """What to do about a checkpoint that this version cannot load."""
    version = checkpoint.get("tf4ctr")
    if version == __version__:
        return "Use the config that it was trained with"
    if version is None:
        return (
            f"It is older than version 0.1.0, this is {__version__}: train again, or use the code that it was"
            " trained with"
        )
    return (
        f"It was written by version {version}, this is {__version__}: train again, or use that version"
        f" (git checkout v{version})"
    )


def adapt_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let the callbacks' states in a checkpoint fit the run that resumes from it.

    Lightning would restore the patience of the earlier start, and not the best checkpoint of a
    folder that was moved or copied: then the next validation, even a worse one, would replace it.

    Args:
        trainer: of the run, with its callbacks and `ckpt_path`.
        checkpoint: changed in place, before the callbacks load their states.
    """
    states = checkpoint.get("callbacks", {})
    for stopper in trainer.early_stopping_callbacks:
        if stopper.state_key in states:
            states[stopper.state_key]["patience"] = stopper.patience
    here = Path(str(trainer.ckpt_path)).resolve().parent
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not state or not isinstance(callback, ModelCheckpoint) or here != Path(callback.dirpath or "").resolve():
            continue
        if (here / Path(state["best_model_path"]).name).is_file():
            state["dirpath"] = callback.dirpath
            for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[key] = _moved(state[key], here)
            state["best_k_models"] = {_moved(path, here): score for path, score in state["best_k_models"].items()}


def _moved(path: str, folder: Path) -> str:
    """The path of the same file in another folder; empty if there is no file."""
    return str(folder / Path(path).name) if path else path


def of_all_ranks(own: Any) -> list[Any]:
    """Gather one value per rank for a checkpoint, which rank 0 writes. Every rank must call it."""
    if not distributed.is_initialized():
        return [own]
    ranks: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, own)
    return ranks


def own_of(ranks: list[Any]) -> Any:
    """This rank's value of what `of_all_ranks` gathered, possibly from another number of ranks."""
    return ranks[(distributed.get_rank() if distributed.is_initialized() else 0) % len(ranks)]


def random_state() -> dict[str, Any]:
    """The state of this rank's random generators, on the CPU and on all GPUs."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    # the run may go on with fewer GPUs
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def saved_random_state(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """This rank's random state in a checkpoint; None if fewer ranks saved theirs."""
    # earlier code kept it as this callback's state, and version 0.1.0 that of one rank only
    earlier = checkpoint.get("callbacks", {}).get("LastCheckpoint") or {}
    ranks = checkpoint.get("random_states") or earlier.get("ranks") or ([earlier] if earlier else [])
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    return ranks[rank] if rank < len(ranks) else None


def seed_rank(rank: int, step: int) -> None:
    """Seed this rank's random generators: its dropout and noise differ from those of other ranks.

    The first rank keeps the state that building the network has left, as a run of one rank does.

    Args:
        rank: this one.
        step: at which the run starts, or goes on with more ranks than before.
    """
    if rank:
        torch.manual_seed(
            int(np.random.SeedSequence([torch.initial_seed(), rank, step]).generate_state(1, np.uint64)[0])
        )


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`. A run that resumes from it ends exactly as the unbroken run.

    It is written every few minutes, before the last step of an epoch or of a validation's interval,
    after every validation, and when training is interrupted. It is never written at these times:

    - Between such a last step and the end of the validation, or of the epoch. Lightning would
      resume there without validation, or validate only the remaining batches.
    - In the middle of a step, when some weights are already new and some random numbers are already
      drawn. Ctrl-C, SIGTERM and SIGUSR1 (what a scheduler sends before it kills) wait for the end
      of the step. A second signal does not wait.

    Several ranks save in the same step, as they save together. So they have to agree on the time
    and on a signal, which reaches each rank in another step. To agree they wait for each other;
    they do it every `agree_every_n_train_steps` steps. A signal waits as long.

    Training waits until the file is written. A thread could write it (Lightning's
    `AsyncCheckpointIO`), but it needs a copy of weights and moments before the next step changes
    them. This would double the memory of large tables, to save the seconds of one write in minutes.

    Args:
        dirpath: folder of the checkpoint.
        minutes: between two checkpoints within an epoch, by the clock of rank 0; None for none.
        every_n_train_steps: it is also written every so many steps; None for not.
        agree_every_n_train_steps: steps between two agreements of several ranks.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        dirpath: str,
        minutes: float | None = 5,
        every_n_train_steps: int | None = None,
        agree_every_n_train_steps: int = 10,
    ) -> None:
        if minutes is not None and not minutes >= 0:
            raise InputError(f"callbacks.checkpoint_last.minutes is {minutes}: expected 0 or more, or null")
        steps = {"every_n_train_steps": every_n_train_steps, "agree_every_n_train_steps": agree_every_n_train_steps}
        for name, number in steps.items():
            if number is not None and number < 1:
                raise InputError(f"callbacks.checkpoint_last.{name} is {number}: expected at least 1")
        self.dirpath = dirpath
        self.path = Path(dirpath) / "last.ckpt"
        self.minutes, self.every_n_train_steps = minutes, every_n_train_steps
        self.agree_every_n_train_steps = agree_every_n_train_steps
        self._handlers: dict[int, Any] = {}
        self._stepping = False
        self._interrupted = False
        self._saved_at = 0.0  # time.monotonic() of the latest save or of the start, in seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._handlers = {
                number: signal.signal(number, self._interrupt)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            }
            # Before each step Lightning sends the other ranks whether rank 0 got SIGTERM, and they
            # wait for it. Its handler has just been replaced: the answer would always be no.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        remaining = steps_to_pause(trainer, batch_idx)
        self._stepping = remaining > 0
        counted = self.every_n_train_steps is not None and trainer.global_step % self.every_n_train_steps == 0
        if not (counted or remaining <= 1 or self._agrees(trainer)):
            return
        interrupted = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if remaining > 0 and (counted or remaining == 1 or interrupted or self._is_time(trainer)):
            self._save(trainer)
        if interrupted:
            raise KeyboardInterrupt

    def _agrees(self, trainer: Trainer) -> bool:
        """Whether the ranks agree after this step; one rank alone does not wait for others."""
        return trainer.world_size == 1 or trainer.global_step % self.agree_every_n_train_steps == 0

    def _is_time(self, trainer: Trainer) -> bool:
        """Whether `minutes` are over on rank 0. Every rank must call it."""
        if self.minutes is None:
            return False
        over = trainer.is_global_zero and time.monotonic() - self._saved_at >= 60 * self.minutes
        return trainer.strategy.reduce_boolean_decision(over, all=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)
            self._stepping = trainer.fit_loop.batch_idx + 1 < trainer.num_training_batches and not trainer.should_stop

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's handler waits there for the other ranks, which can be in another exchange: all
        # would wait for ever. It restores this one after the test.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers, self._stepping, self._interrupted = {}, False, False

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted or not self._stepping:
            raise KeyboardInterrupt
        self._interrupted = True

    def _save(self, trainer: Trainer) -> None:
        partial = self.path.with_suffix(".partial")
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(self.path)
            self._saved_at = time.monotonic()
        except OSError as error:
            partial.unlink(missing_ok=True)
            kept = "the earlier one is intact" if self.path.exists() else "there is no earlier one"
            raise InputError(
                f"the checkpoint {self.path} cannot be written ({error.strerror or error}); {kept}"
            ) from error
