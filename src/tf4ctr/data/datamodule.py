"""CTRDataModule: the three splits of a prepared dataset as streams of `Batch`."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import LightningDataModule, Trainer

from tf4ctr.data.schema import Schema
from tf4ctr.data.splits import SPLITS
from tf4ctr.data.stream import DiskStream, MemoryStream, Stream, check_same_rows, count_rows
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.files import size_text

log = logging.getLogger(__name__)

TIERS = ("auto", "device", "memory", "disk")  # the last one needs least memory
# share of the free memory that a dataset may take; network, optimiser and activations need the rest
SHARE = 0.5


class CTRDataModule(LightningDataModule):
    """Streams a prepared dataset, sharded over the trainer's ranks.

    Args:
        prepared_dir: what `prepare` returns; it is read when the schema or a stream is asked for.
        batch_size: rows per training step, shared equally by the ranks. All ranks together take
            the same rows, however many ranks there are.
        eval_batch_size: rows per batch of each rank in validation and test; None for `batch_size`.
            A batch without gradients takes less memory than a training step of as many rows.
        tier: where the rows are stored: `device`, `memory` or `disk`; `auto` takes the first one
            with enough free memory for twice the rows on every rank, beside the network, its
            gradients and its moments.
        shuffle_rows: rows that are shuffled together in the disk tier.
        seed: of the training order.

    Raises:
        InputError: a batch size or `tier` is invalid.
    """

    def __init__(
        self,
        prepared_dir: Path,
        batch_size: int,
        eval_batch_size: int | None = None,
        tier: str = "auto",
        shuffle_rows: int = 500_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 2:
            raise InputError(
                f"stream.batch_size is {batch_size}: expected an integer; batch norm needs at least 2 rows"
            )
        if eval_batch_size is not None and (not isinstance(eval_batch_size, int) or eval_batch_size < 1):
            raise InputError(f"stream.eval_batch_size is {eval_batch_size}: expected an integer from 1 on, or null")
        if tier not in TIERS:
            raise InputError(f"stream.tier is '{tier}': {did_you_mean(str(tier), TIERS)}")
        self.prepared_dir, self.batch_size, self.seed = prepared_dir, batch_size, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.tier, self.shuffle_rows = tier, shuffle_rows

    @cached_property
    def schema(self) -> Schema:
        """The schema of the prepared dataset."""
        return Schema.load(self.prepared_dir)

    @property
    def bytes(self) -> int:
        """Memory of all splits in bytes: ids, numbers, label and weight in 32 bits, group in 64."""
        parts = len(self.schema.columns) + len(self.schema.number_columns) + 1 + bool(self.schema.weight)
        row = 4 * parts + (8 if self.schema.group else 0)
        return row * sum(count_rows(self.prepared_dir, split) for split in SPLITS)

    @property
    def device(self) -> torch.device:
        """The trainer's device; the CPU without a trainer."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _overfits(self) -> bool:
        """Whether every epoch trains and validates on the same training batches."""
        return bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Check that the ranks can share the rows of a step.

        Raises:
            InputError: they cannot share them equally.
        """
        if self.batch_size % self._ranks:
            raise InputError(
                f"stream.batch_size is {self.batch_size}, shared by {self._ranks} ranks: expected a multiple of"
                f" {self._ranks}"
            )

    def _choose_tier(self) -> str:
        """The first tier that every rank can afford.

        Called with the first stream: by then the network is on its device.
        """
        size, to_come = self.bytes, self._bytes_to_come
        ranks = self.trainer.num_devices if self.trainer else 1  # of this machine
        on_host = to_come if self.device.type == "cpu" else 0
        if self.device.type == "cuda" and size < SHARE * (torch.cuda.mem_get_info(self.device)[0] - to_come):
            tier = "device"
        elif size * ranks < SHARE * (psutil.virtual_memory().available - on_host * ranks):
            tier = "memory"
        else:
            tier = "disk"
        if self.trainer and self._ranks > 1:
            number = torch.tensor(TIERS.index(tier), device=self.device)
            tier = TIERS[int(self.trainer.strategy.reduce(number, reduce_op="max"))]
        log.info("stream: %s of rows, %s tier", size_text(size), tier)
        return tier

    @property
    def _bytes_to_come(self) -> int:
        """Memory that the first training step takes for gradients and moments, in bytes."""
        if self.trainer is None or self.trainer.state.fn != "fit":
            return 0
        return self.trainer.lightning_module.bytes_to_come()  # type: ignore[operator]

    def train_dataloader(self) -> Stream:
        stream = self._stream("train", self.batch_size // self._ranks, shuffle=not self._overfits)
        if self.trainer and isinstance(self.trainer.val_check_interval, int):
            _check_interval(self.trainer, len(stream))
        return stream

    def val_dataloader(self) -> Stream:
        if self._overfits:  # the batch of training
            return self._stream("train", self.batch_size // self._ranks)
        return self._stream("valid", self.eval_batch_size)

    def test_dataloader(self) -> Stream:
        return self._stream("test", self.eval_batch_size)

    def _stream(self, split: str, batch_size: int, shuffle: bool = False) -> Stream:
        check_same_rows(self.prepared_dir, self.schema)
        if self.tier == "auto":
            self.tier = self._choose_tier()
        rank = self.trainer.global_rank if self.trainer else 0
        options: dict[str, Any] = {"shuffle": shuffle, "seed": self.seed, "rank": rank, "world_size": self._ranks}
        if self.tier == "device":
            return MemoryStream(self.prepared_dir, split, batch_size, device=self.device, **options)
        options["pin"] = self.device.type == "cuda"
        if self.tier == "disk":
            return DiskStream(self.prepared_dir, split, batch_size, shuffle_rows=self.shuffle_rows, **options)
        return MemoryStream(self.prepared_dir, split, batch_size, **options)


def _check_interval(trainer: Trainer, batches: int) -> None:
    """Check that an epoch of so many batches has as many steps as trainer.val_check_interval.

    Raises:
        InputError: it has fewer.
    """
    limit, interval = trainer.limit_train_batches, trainer.val_check_interval
    steps = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if interval > steps and trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches:
        raise InputError(
            f"trainer.val_check_interval is {interval} steps, and an epoch has {steps}: give at most {steps}, or a"
            " fraction of an epoch; or set trainer.check_val_every_n_epoch=null, which counts the steps across epochs"
        )
