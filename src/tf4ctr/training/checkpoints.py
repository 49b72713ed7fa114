"""Checkpoints: what they hold of the network and of each rank, and the one that a run resumes from."""

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
    """Put the weights of a checkpoint into the network that its config makes.

    Raises:
        InputError: weights of other names or shapes, as another version may have them: says which version wrote them and what to do.
    """
    prefix = "network."
    saved = {key.removeprefix(prefix): each for key, each in checkpoint["state_dict"].items() if key.startswith(prefix)}
    own = network.state_dict()
    differing = [
        name
        for name in {**own, **saved}
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    ]
    if differing:
        more = ", ..." if len(differing) > 3 else ""
        raise InputError(
            f"the checkpoint's network is another one ({', '.join(differing[:3])}{more}). {other_version(checkpoint)}"
        )
    network.load_state_dict(saved)


def other_version(checkpoint: Mapping[str, Any]) -> str:
    """What to do about a checkpoint that this version cannot take."""
    version = checkpoint.get("tf4ctr")
    if version == __version__:
        return "Use the config that it was trained with"
    if version is None:
        return f"It is older than version 0.1.0, this is {__version__}: train again, or use the code that it was trained with"
    return f"It was written by version {version}, this is {__version__}: train again, or use that version (git checkout v{version})"


def of_all_ranks(own: Any) -> list[Any]:
    """What each rank has, for a checkpoint, which the first of them writes: all must call it."""
    if not distributed.is_initialized():
        return [own]
    ranks: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, own)
    return ranks


def own_of(ranks: list[Any]) -> Any:
    """This rank's part of what `of_all_ranks` gathered, if need be with another number of ranks."""
    return ranks[(distributed.get_rank() if distributed.is_initialized() else 0) % len(ranks)]


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt` so that `ckpt=` goes on where the run stopped, to the same end.

    Written every `every_n_train_steps` steps, before the last step of an epoch, after every validation, and when training is
    interrupted. Never between the last step of an epoch and the end of its validation: Lightning resumes from there without
    validating, or validates only the rest. And never in the middle of a step, where some weights are already new and some
    random numbers already drawn: Ctrl-C, SIGTERM and SIGUSR1 (what a scheduler sends before it kills) wait for the step's end, and a
    second one doesn't.

    Args:
        dirpath: folder of the checkpoint.
        every_n_train_steps: steps between two checkpoints within an epoch.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._rng: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._stepping = False
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if self._rng["cuda"]:
                torch.cuda.set_rng_state_all(self._rng["cuda"])
            self._rng = None
        # a run that was killed after it had decided to stop (while testing, say) has nothing left to train
        trainer.should_stop = any(
            stopper.wait_count >= stopper.patience for stopper in trainer.early_stopping_callbacks
        )
        if threading.current_thread() is threading.main_thread():  # no other may set them
            self._handlers = {
                each: signal.signal(each, self._interrupt) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.train_dataloader.start_epoch(trainer.current_epoch)  # type: ignore[union-attr]
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.train_dataloader.position = batch_idx + 1  # type: ignore[union-attr]
        left = trainer.num_training_batches - (batch_idx + 1)
        self._stepping = left > 0
        # a signal reaches each rank at its own time: they agree on the step, as saving is done together
        interrupted = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if left == 1 or (left > 1 and (interrupted or trainer.global_step % self.every_n_train_steps == 0)):
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
            kept = "the one before is whole" if self.path.exists() else "there is none before it"
            raise InputError(
                f"the checkpoint {self.path} cannot be written ({error.strerror or error}), {kept}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        own = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }
        return {"ranks": of_all_ranks(own)}  # each draws its own dropout; Lightning asks all of them for their state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rng = own_of(state_dict["ranks"])
