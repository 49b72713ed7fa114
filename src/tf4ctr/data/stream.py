"""Prepared parquet -> Batch: columns stay columnar, no Python per row; the order of an epoch is a function of (seed, epoch) alone.

Three tiers behind one interface: *device* (the split lives on the accelerator), *memory* (in the host's memory), both fully shuffled,
and *disk* (row groups in a random order, shuffled again within a pool of rows).
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tf4ctr.data.preparation import GROUP, LABEL, ROW_GROUP_SIZE
from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError

AHEAD = 2  # pools of rows that are read before they are needed


class Batch(NamedTuple):
    """What moves to the device: `ids` int32 [B, W] into the one table, `label` float32 [B], `group` int64 [B] or None."""

    ids: Tensor
    label: Tensor
    group: Tensor | None

    def take(self, rows: Tensor | slice) -> "Batch":
        """Some of the rows; a slice is a view."""

        # index_select copies whole rows: several times as fast as indexing
        return self._each(lambda part: part[rows] if isinstance(rows, slice) else part.index_select(0, rows))

    def take_alone(self, rows: NDArray[np.int64]) -> "Batch":
        """Some of the rows of a batch in the host's memory, copied by this thread alone.

        torch's other threads spin for some milliseconds after each of its copies, which costs threads that read meanwhile half a core.
        """
        return self._each(lambda part: torch.from_numpy(part.numpy().take(rows, axis=0)))

    def to(self, device: torch.device | None) -> "Batch":
        """The same rows on a device, None for where they are; from page-locked memory without waiting for the copy."""
        return self._each(lambda part: part.to(device, non_blocking=part.is_pinned()))

    def pin(self) -> "Batch":
        """The same rows in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, work: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(work(self.ids), work(self.label), None if self.group is None else work(self.group))


class Stream(ABC):
    """One split cut into batches, sharded over ranks. Subclasses yield them.

    Args:
        folder: prepared dataset.
        split: train, valid or test.
        batch_size: rows a batch; the last one has what is left, in evaluation with several ranks possibly nothing. In training a
            single left-over row joins the batch before it (batch norm needs two).
        shuffle: a new order each epoch, from (seed, epoch); that is training, where all ranks get the same number of rows.
        seed: of the order.
        rank, world_size: whose share of the rows this is.
        pin: batches come in page-locked memory, each made by a thread while the one before it is in use; for an accelerator that
            gets them from the host.

    `epoch` and `position` (batches already trained on in this epoch) say where iteration starts; they are the state that is saved.
    Iterating does not move them: whoever trains says `start_epoch` and sets `position` once a batch has really been used,
    so a batch in flight when the run is killed is not lost.
    """

    order = "full"  # how far rows are shuffled: a run can only go on in the order that it began in

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin: bool = False,
    ) -> None:
        self.schema = Schema.load(folder)
        self.path = folder / f"{split}.parquet"
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size, self.pin = rank, world_size, pin
        self.epoch = 0
        self.position = 0
        self.split_rows = count_rows(folder, split)
        self.rows = (
            self.split_rows // world_size if shuffle else len(range(rank, self.split_rows, world_size))
        )  # of one epoch, on this rank

    def __len__(self) -> int:
        return len(self._bounds()) - 1

    def __iter__(self) -> Iterator[Batch]:
        """Batches of this epoch, from `position` on."""
        return self._pinned() if self.pin else self._batches()

    @abstractmethod
    def _batches(self) -> Iterator[Batch]: ...

    def _pinned(self) -> Iterator[Batch]:
        batches = map(Batch.pin, self._batches())
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch

    def _bounds(self) -> list[int]:
        """Row at which each batch starts, and the end."""
        if not self.shuffle:  # as many batches on every rank, for what they do together; the last may be empty on some
            most = -(-self.split_rows // self.world_size)
            return [*(min(start, self.rows) for start in range(0, most, self.batch_size)), self.rows]
        starts = list(range(0, self.rows, self.batch_size))
        if len(starts) > 1 and self.rows - starts[-1] == 1:
            starts.pop()
        return [*starts, self.rows]

    def _tensors(self, table: pl.DataFrame) -> Batch:
        ids = torch.from_numpy(table.select(self.schema.columns).to_numpy(order="c", writable=True))
        return Batch(
            ids, table[LABEL].cast(pl.Float32).to_torch(), table[GROUP].to_torch() if self.schema.group else None
        )

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless that is where we are: then go on from `position`."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises:
        InputError: the state is of a stream with another order of rows.
        """
        if state["order"] != self.order:
            raise InputError(
                f"the run began with rows in the order '{state['order']}' and would go on in '{self.order}': name the same stream"
                " (stream=disk for 'pools of ...', stream=memory for 'full')"
            )
        self.epoch, self.position = state["epoch"], state["position"]


class MemoryStream(Stream):
    """The split held once, as int32, fully shuffled where `shuffle`; takes every `world_size`-th row of the order from `rank` on.

    Args:
        device: where it is held; None for the host's memory.
    """

    def __init__(self, *args: Any, device: torch.device | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = self._tensors(pl.read_parquet(self.path)).to(device)

    def _batches(self) -> Iterator[Batch]:
        order, bounds = self._order().to(self.held.label.device), self._bounds()
        for number in range(self.position, len(bounds) - 1):
            yield self.held.take(order[bounds[number] : bounds[number + 1]])

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.rank, self.split_rows, self.world_size)
        # seed + epoch would give (2019, 1) and (2020, 0) the same order: mix the numbers instead
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint32)[0]
        order = torch.randperm(self.split_rows, generator=torch.Generator().manual_seed(int(mixed)))
        return order[self.rank :: self.world_size][: self.rows]


class DiskStream(Stream):
    """The split read from disk as it is needed, by a thread that is ahead by pools of rows; memory does not grow with the rows.

    In training the row groups come in a random order; each rank takes an equal stretch of it, in pools of `shuffle_rows` rows that
    are fully shuffled. In evaluation the rows come in the file's order.

    Args:
        shuffle_rows: rows of a pool, rounded to whole batches; three pools are held at a time.
    """

    def __init__(self, *args: Any, shuffle_rows: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool_batches = max(1, shuffle_rows // self.batch_size)
        self.order = f"pools of {self.pool_batches} batches of {self.batch_size}"
        self._table = pl.scan_parquet(self.path)

    def _batches(self) -> Iterator[Batch]:
        stretches, bounds = self._stretches(), self._bounds()
        pools = range(self.position // self.pool_batches, -(-(len(bounds) - 1) // self.pool_batches))
        with ThreadPoolExecutor(1) as reader:
            coming = deque(reader.submit(self._read, stretches, bounds, pool) for pool in pools[:AHEAD])
            for pool in pools:
                first, last = pool * self.pool_batches, min((pool + 1) * self.pool_batches, len(bounds) - 1)
                order = self._order(pool, bounds[last] - bounds[first])  # while the reader is at it
                held = coming.popleft().result()
                if pool + AHEAD in pools:
                    coming.append(reader.submit(self._read, stretches, bounds, pool + AHEAD))
                for number in range(max(first, self.position), last):
                    rows = slice(bounds[number] - bounds[first], bounds[number + 1] - bounds[first])
                    yield held.take(rows) if order is None else held.take_alone(order[rows])

    def _stretches(self) -> list[tuple[int, int]]:
        """(first row, rows) of the file's row groups in this epoch's order."""
        starts = np.arange(0, self.split_rows, ROW_GROUP_SIZE)
        if self.shuffle:
            starts = np.random.default_rng([self.seed, self.epoch]).permutation(starts)
        return [(start, min(ROW_GROUP_SIZE, self.split_rows - start)) for start in starts.tolist()]

    def _order(self, pool: int, rows: int) -> NDArray[np.int64] | None:
        """The order to take a pool's rows in; None for the file's."""
        # torch's randperm is quicker, but leaves its threads spinning as its copies do
        return (
            np.random.default_rng([self.seed, self.epoch, self.rank, pool]).permutation(rows) if self.shuffle else None
        )

    def _read(self, stretches: list[tuple[int, int]], bounds: list[int], pool: int) -> Batch:
        """The rows of a pool in the file's order."""
        first, last = bounds[pool * self.pool_batches], bounds[min((pool + 1) * self.pool_batches, len(bounds) - 1)]
        each, left = divmod(self.split_rows, self.world_size)
        share = self.rank * each + (
            0 if self.shuffle else min(self.rank, left)
        )  # in evaluation the first `left` ranks have one more
        first, last = first + share, last + share
        ends = list(accumulate(rows for _, rows in stretches))
        parts = []
        for (start, rows), end in zip(stretches, ends, strict=True):
            begin = end - rows
            if begin < last and end > first:
                skip = max(0, first - begin)
                parts.append(self._table.slice(start + skip, min(end, last) - begin - skip))
        return self._tensors(pl.concat(pl.collect_all(parts)))


def count_rows(folder: Path, split: str) -> int:
    """Rows of a split, from the file's footer."""
    return pl.scan_parquet(folder / f"{split}.parquet").select(pl.len()).collect().item()
