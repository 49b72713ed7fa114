"""CTRDataModule: the three splits of a prepared dataset as streams of `Batch`."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import LightningDataModule

from tf4ctr.data.schema import Schema
from tf4ctr.data.splits import SPLITS
from tf4ctr.data.stream import DiskStream, MemoryStream, Stream, count_rows
from tf4ctr.errors import InputError, did_you_mean

log = logging.getLogger(__name__)

TIERS = ("auto", "device", "memory", "disk")
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
            with enough free memory for twice the rows.
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
        """Choose the tier if it is `auto`.

        Raises:
            InputError: the ranks cannot share the rows of a step equally.
        """
        if self.batch_size % self._ranks:
            raise InputError(
                f"stream.batch_size is {self.batch_size}, shared by {self._ranks} ranks: expected a multiple of"
                f" {self._ranks}"
            )
        if self.tier != "auto":
            return
        size = self.bytes
        ranks = self.trainer.num_devices if self.trainer else 1  # of this machine
        if self.device.type == "cuda" and size < SHARE * torch.cuda.mem_get_info(self.device)[0]:
            self.tier = "device"
        elif size * ranks < SHARE * psutil.virtual_memory().available:
            self.tier = "memory"
        else:
            self.tier = "disk"
        log.info("stream: %.1f GB of rows, %s tier", size / 1e9, self.tier)

    def train_dataloader(self) -> Stream:
        return self._stream("train", self.batch_size // self._ranks, shuffle=not self._overfits)

    def val_dataloader(self) -> Stream:
        if self._overfits:  # the batch of training
            return self._stream("train", self.batch_size // self._ranks)
        return self._stream("valid", self.eval_batch_size)

    def test_dataloader(self) -> Stream:
        return self._stream("test", self.eval_batch_size)

    def _stream(self, split: str, batch_size: int, shuffle: bool = False) -> Stream:
        rank = self.trainer.global_rank if self.trainer else 0
        options: dict[str, Any] = {"shuffle": shuffle, "seed": self.seed, "rank": rank, "world_size": self._ranks}
        if self.tier == "device":
            return MemoryStream(self.prepared_dir, split, batch_size, device=self.device, **options)
        options["pin"] = self.device.type == "cuda"
        if self.tier == "disk":
            return DiskStream(self.prepared_dir, split, batch_size, shuffle_rows=self.shuffle_rows, **options)
        return MemoryStream(self.prepared_dir, split, batch_size, **options)
