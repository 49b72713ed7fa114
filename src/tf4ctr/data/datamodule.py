"""CTRDataModule: the three splits of a prepared dataset as streams of `Batch`."""

import logging
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import LightningDataModule

from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import SPLITS
from tf4ctr.data.stream import DiskStream, MemoryStream, Stream, count_rows
from tf4ctr.errors import InputError

log = logging.getLogger(__name__)

TIERS = ("auto", "device", "memory", "disk")
SHARE = 0.5  # of the free memory that a dataset may take, the rest is for the network, its optimiser and activations


class CTRDataModule(LightningDataModule):
    """Streams a prepared dataset, sharded over the trainer's ranks.

    Args:
        prepared_dir: what `prepare` returned.
        batch_size: rows a training step, shared equally by the ranks: however many there are, they take the same rows together.
        eval_batch_size: the same in validation and test; None for `batch_size`.
        tier: where the rows are held: `device`, `memory`, `disk`, or `auto`: the first of them whose free memory holds them twice.
        shuffle_rows: rows that are shuffled together in the disk tier.
        seed: of the training order.
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
        self.prepared_dir, self.batch_size, self.seed = prepared_dir, batch_size, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.tier, self.shuffle_rows = tier, shuffle_rows
        self.schema = Schema.load(prepared_dir)

    @property
    def bytes(self) -> int:
        """What all splits take in memory: int32 ids, float32 label, int64 group."""
        row = 4 * len(self.schema.columns) + 4 + (8 if self.schema.group else 0)
        return row * sum(count_rows(self.prepared_dir, split) for split in SPLITS)

    @property
    def device(self) -> torch.device:
        """The trainer's own device, the CPU without a trainer."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _overfits(self) -> bool:
        """Whether the same training batches are taken in every epoch, and validated on."""
        return bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Settle the tier where it is `auto`.

        Raises:
            InputError: ranks that cannot share a step's rows equally.
        """
        if self.batch_size % self._ranks or self.eval_batch_size < self._ranks:
            raise InputError(
                f"stream.batch_size is {self.batch_size}, shared by {self._ranks} ranks: take a multiple of them"
                f" (stream.eval_batch_size, {self.eval_batch_size}, must not be less than them)"
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
        return self._stream("train", self.batch_size, shuffle=not self._overfits)

    def val_dataloader(self) -> Stream:
        return self._stream("train", self.batch_size) if self._overfits else self._stream("valid", self.eval_batch_size)

    def test_dataloader(self) -> Stream:
        return self._stream("test", self.eval_batch_size)

    def _stream(self, split: str, batch_size: int, shuffle: bool = False) -> Stream:
        rank = self.trainer.global_rank if self.trainer else 0
        options: dict[str, Any] = {"shuffle": shuffle, "seed": self.seed, "rank": rank, "world_size": self._ranks}
        batch_size //= self._ranks
        if self.tier == "device":
            return MemoryStream(self.prepared_dir, split, batch_size, device=self.device, **options)
        options["pin"] = self.device.type == "cuda"
        if self.tier == "disk":
            return DiskStream(self.prepared_dir, split, batch_size, shuffle_rows=self.shuffle_rows, **options)
        return MemoryStream(self.prepared_dir, split, batch_size, **options)
