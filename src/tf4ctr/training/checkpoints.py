"""Checkpoints: the network and the ranks' states in them, and the one that a run resumes from."""

import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from tf4ctr import __version__
from tf4ctr.errors import InputError
from tf4ctr.models.network import Network


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
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def saved_random_state(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """This rank's random state in a checkpoint; None if the checkpoint has none."""
    if "random_states" in checkpoint:
        return own_of(checkpoint["random_states"])
    # earlier code kept it as this callback's state, and version 0.1.0 that of one rank only
    state = checkpoint.get("callbacks", {}).get("LastCheckpoint")
    return own_of(state.get("ranks", [state])) if state else None


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`. A run that resumes from it ends exactly as the unbroken run.

    It is written every `every_n_train_steps` steps, before the last step of an epoch, after every
    validation, and when training is interrupted. It is never written at these times:

    - Between the last step of an epoch and the end of its validation. Lightning would resume there
      without validation, or validate only the remaining batches.
    - In the middle of a step, when some weights are already new and some random numbers are already
      drawn. Ctrl-C, SIGTERM and SIGUSR1 (what a scheduler sends before it kills) wait for the end
      of the step. A second signal does not wait.

    Args:
        dirpath: folder of the checkpoint.
        every_n_train_steps: steps between two checkpoints within an epoch.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int) -> None:
        self.dirpath = dirpath
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._handlers: dict[int, Any] = {}
        self._stepping = False
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._handlers = {
                number: signal.signal(number, self._interrupt)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        remaining = trainer.num_training_batches - (batch_idx + 1)
        self._stepping = remaining > 0
        # a signal reaches each rank at another time: they agree on the step, as they save together
        interrupted = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if remaining == 1 or (remaining > 1 and (interrupted or trainer.global_step % self.every_n_train_steps == 0)):
            self._save(trainer)
        if interrupted:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

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
        except OSError as error:
            partial.unlink(missing_ok=True)
            kept = "the earlier one is intact" if self.path.exists() else "there is no earlier one"
            raise InputError(
                f"the checkpoint {self.path} cannot be written ({error.strerror or error}); {kept}"
            ) from error
