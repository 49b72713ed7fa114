"""Prepared parquet -> Batch: columns stay columnar, no Python per row; the order of an epoch is a function of (seed, epoch) alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tf4ctr.data.preparation import GROUP, LABEL
from tf4ctr.data.schema import Schema


class Batch(NamedTuple):
    """What moves to the device: `ids` int32 [B, W] into the one table, `label` float32 [B], `group` int64 [B] or None."""

    ids: Tensor
    label: Tensor
    group: Tensor | None


class MemoryStream:
    """One split held in memory as int32, cut into batches, fully shuffled where `shuffle`.

    Args:
        folder: prepared dataset.
        split: train, valid or test.
        batch_size: rows a batch; the last one has what is left. In training a single left-over row joins the batch before it
            (batch norm needs two).
        shuffle: a new order each epoch, from (seed, epoch).
        seed: of the order.
        rank, world_size: take every `world_size`-th row of the order from `rank` on; in training all ranks get the same number.

    `epoch` and `position` (batches already trained on in this epoch) say where iteration starts; they are the state that is saved.
    Iterating does not move them: whoever trains says `start_epoch` and sets `position` once a batch has really been used,
    so a batch in flight when the run is killed is not lost.
    """

    def __init__(
        self, folder: Path, split: str, batch_size: int, shuffle: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        schema = Schema.load(folder)
        table = pl.read_parquet(folder / f"{split}.parquet")
        self.ids = torch.empty((len(table), len(schema.columns)), dtype=torch.int32)
        for number, column in enumerate(schema.columns):
            self.ids[:, number] = table[column].to_torch()
        self.label = table[LABEL].to_torch()
        self.group = table[GROUP].to_torch() if schema.group else None
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0
        rows = len(table)
        self._rows = rows // world_size if shuffle else len(range(rank, rows, world_size))

    @property
    def rows(self) -> int:
        """Rows of one epoch on this rank."""
        return self._rows

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        starts = self._starts()
        ends = [*starts[1:], self.rows]
        for number in range(self.position, len(starts)):
            chosen = order[starts[number] : ends[number]]
            yield Batch(self.ids[chosen], self.label[chosen], None if self.group is None else self.group[chosen])

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.rank, len(self.label), self.world_size)
        # seed + epoch would give (2019, 1) and (2020, 0) the same order: mix the pair instead
        mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint32)[0])
        generator = torch.Generator().manual_seed(mixed)
        return torch.randperm(len(self.label), generator=generator)[self.rank :: self.world_size][: self.rows]

    def _starts(self) -> list[int]:
        starts = list(range(0, self.rows, self.batch_size))
        if self.shuffle and len(starts) > 1 and self.rows - starts[-1] == 1:
            starts.pop()
        return starts

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless that is where we are: then go on from `position`."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
