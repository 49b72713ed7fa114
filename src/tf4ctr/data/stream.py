"""Prepared parquet -> Batch. The data stays columnar; no Python code runs per row.

The order of an epoch depends on (seed, epoch) only. Three tiers have the same interface:

- *device*: the split is stored on the accelerator and fully shuffled;
- *memory*: the split is stored in the host's memory and fully shuffled;
- *disk*: row groups are read in a random order, and rows are shuffled within a pool.
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

from tf4ctr.data.schema import GROUP, LABEL, ROW_GROUP_SIZE, WEIGHT, Schema
from tf4ctr.errors import InputError

# pools of rows that are read before they are needed: with two, one is ready while the next is read
AHEAD = 2


class Batch(NamedTuple):
    """The tensors that move to the device.

    Attributes:
        ids: rows of the one table, int32 [B, W].
        label: float32 [B].
        group: int64 [B], or None for a dataset without groups.
        numbers: scaled, NaN where missing, float32 [B, N], or None for a dataset without numbers.
        weight: float32 [B], 1 on average over the training rows, or None for equal weights.
    """

    ids: Tensor
    label: Tensor
    group: Tensor | None = None
    numbers: Tensor | None = None
    weight: Tensor | None = None

    def take(self, rows: Tensor | slice) -> "Batch":
        """Some of the rows, at most B: row numbers [b] give a copy, a slice gives a view."""
        # index_select copies whole rows: it is several times as fast as indexing
        return self._map(lambda part: part[rows] if isinstance(rows, slice) else part.index_select(0, rows))

    def take_in_this_thread(self, rows: NDArray[np.int64]) -> "Batch":
        """Copy some rows (numbers [b]) of a batch in the host's memory, without torch's threads.

        After a copy by torch, its threads spin for some milliseconds. This takes half a core from
        the threads that read in the meantime.
        """
        return self._map(lambda part: torch.from_numpy(part.numpy().take(rows, axis=0)))

    def to(self, device: torch.device | None) -> "Batch":
        """The same rows on a device; None keeps them where they are.

        From page-locked memory the copy is asynchronous.
        """
        return self._map(lambda part: part.to(device, non_blocking=part.is_pinned()))

    def pin(self) -> "Batch":
        """The same rows in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(None if part is None else function(part) for part in self))  # type: ignore[arg-type]


class Stream(ABC):
    """One split, cut into batches and sharded over ranks. Subclasses yield the batches.

    Args:
        folder: the prepared dataset.
        split: train, valid or test.
        batch_size: rows per batch. The last batch has the remaining rows; in evaluation with
            several ranks it can be empty. In training a single remaining row joins the batch
            before it, because batch norm needs two rows.
        shuffle: True for training: a new order per epoch, from (seed, epoch), and the same number
            of rows on all ranks.
        seed: of the order.
        rank, world_size: this process, and the number of processes that share the rows.
        pin: yield batches in page-locked memory, for an accelerator that copies them from the
            host. A thread prepares the next batch while the current one is in use.

    `epoch` and `position` (batches of this epoch that are already trained on) define where
    iteration starts, and are the state that is saved. Iterating does not change them. The trainer
    calls `start_epoch`, and sets `position` once a batch has been used. So a batch that is in
    flight when the run is killed is not lost.
    """

    order = "full"  # how rows are shuffled; a checkpoint can only be resumed with the same order

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
        self.folder, self.schema = folder, Schema.load(folder)
        self.path = folder / f"{split}.parquet"
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size, self.pin = rank, world_size, pin
        self.epoch = 0
        self.position = 0
        self.split_rows = count_rows(folder, split)
        # rows of one epoch on this rank
        self.rows = self.split_rows // world_size if shuffle else len(range(rank, self.split_rows, world_size))

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
            pending = thread.submit(next, batches, None)
            while (batch := pending.result()) is not None:
                pending = thread.submit(next, batches, None)
                yield batch

    def _bounds(self) -> list[int]:
        """The first row of each batch, then the number of rows."""
        if not self.shuffle:
            # ranks need equally many batches for their collective operations; the last can be empty
            most_rows = -(-self.split_rows // self.world_size)
            return [*(min(start, self.rows) for start in range(0, most_rows, self.batch_size)), self.rows]
        starts = list(range(0, self.rows, self.batch_size))
        if len(starts) > 1 and self.rows - starts[-1] == 1:
            starts.pop()
        return [*starts, self.rows]

    def _tensors(self, table: pl.DataFrame) -> Batch:
        ids = torch.from_numpy(table.select(self.schema.columns).to_numpy(order="c", writable=True))
        label = table[LABEL].cast(pl.Float32).to_torch()
        group = table[GROUP].to_torch() if self.schema.group else None
        numbers = self._numbers(table) if self.schema.number_columns else None
        return Batch(ids, label, group, numbers, table[WEIGHT].to_torch() if self.schema.weight else None)

    def _numbers(self, table: pl.DataFrame) -> Tensor:
        return torch.from_numpy(table.select(self.schema.number_columns).to_numpy(order="c", writable=True))

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; if the stream is in this epoch, keep its `position`."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """`epoch`, `position` and `order`, for a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a stream with this state was.

        Raises:
            InputError: the state is of a stream with another order of rows.
        """
        if state["order"] != self.order:
            raise InputError(
                f"the checkpoint was saved with rows in the order '{state['order']}', this run has the order"
                f" '{self.order}': use the stream options of that run (for 'full' stream=memory, for 'pools of ...'"
                " stream=disk with the same stream.batch_size and stream.shuffle_rows, and as many ranks)"
            )
        self.epoch, self.position = state["epoch"], state["position"]


class MemoryStream(Stream):
    """A split that is stored in memory once, as int32 ids; in training it is fully shuffled.

    A rank takes every `world_size`-th row of the order, from row `rank` on.

    Args:
        device: where the split is stored; None for the host's memory.
    """

    def __init__(self, *args: Any, device: torch.device | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = self._tensors(pl.read_parquet(self.path)).to(device)
        check_same_rows(self.folder, self.schema)

    def _batches(self) -> Iterator[Batch]:
        order, bounds = self._order().to(self.held.label.device), self._bounds()
        for number in range(self.position, len(bounds) - 1):
            yield self.held.take(order[bounds[number] : bounds[number + 1]])

    def _order(self) -> Tensor:
        """Row numbers of this rank in the order of this epoch, int64 [rows]."""
        if not self.shuffle:
            return torch.arange(self.rank, self.split_rows, self.world_size)
        # seed + epoch would give (2019, 1) and (2020, 0) the same order, so the two are hashed
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint32)[0]
        order = torch.randperm(self.split_rows, generator=torch.Generator().manual_seed(int(mixed)))
        return order[self.rank :: self.world_size][: self.rows]


class DiskStream(Stream):
    """A split that is read from disk by a thread, some pools of rows ahead of use.

    Memory does not grow with the number of rows. In training the row groups are in a random order.
    Each rank takes an equal, contiguous part of it, in pools of `shuffle_rows` rows, which are
    fully shuffled. In evaluation the rows are in the file's order.

    Args:
        shuffle_rows: rows of a pool, rounded down to whole batches (at least one); up to three
            pools are in memory at a time.
    """

    def __init__(self, *args: Any, shuffle_rows: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool_batches = max(1, shuffle_rows // self.batch_size)
        on_ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
        self.order = f"pools of {self.pool_batches} batches of {self.batch_size}{on_ranks}"
        self._table = pl.scan_parquet(self.path)

    def _batches(self) -> Iterator[Batch]:
        row_groups, bounds = self._row_groups(), self._bounds()
        pools = range(self.position // self.pool_batches, -(-(len(bounds) - 1) // self.pool_batches))
        with ThreadPoolExecutor(1) as reader:
            pending = deque(reader.submit(self._read, row_groups, bounds, pool) for pool in pools[:AHEAD])
            for pool in pools:
                first, last = pool * self.pool_batches, min((pool + 1) * self.pool_batches, len(bounds) - 1)
                order = self._order(pool, bounds[last] - bounds[first])  # while the reader works
                pool_rows = pending.popleft().result()
                if pool + AHEAD in pools:
                    pending.append(reader.submit(self._read, row_groups, bounds, pool + AHEAD))
                for number in range(max(first, self.position), last):
                    rows = slice(bounds[number] - bounds[first], bounds[number + 1] - bounds[first])
                    yield pool_rows.take(rows) if order is None else pool_rows.take_in_this_thread(order[rows])

    def _row_groups(self) -> list[tuple[int, int]]:
        """(first row, number of rows) of the file's row groups, in this epoch's order."""
        starts = np.arange(0, self.split_rows, ROW_GROUP_SIZE)
        if self.shuffle:
            starts = np.random.default_rng([self.seed, self.epoch]).permutation(starts)
        return [(start, min(ROW_GROUP_SIZE, self.split_rows - start)) for start in starts.tolist()]

    def _order(self, pool: int, rows: int) -> NDArray[np.int64] | None:
        """The order of a pool's rows, int64 [rows]; None for the file's order."""
        if not self.shuffle:
            return None
        # torch.randperm is faster, but then torch's threads spin (see take_in_this_thread)
        return np.random.default_rng([self.seed, self.epoch, self.rank, pool]).permutation(rows)

    def _read(self, row_groups: list[tuple[int, int]], bounds: list[int], pool: int) -> Batch:
        """The rows of a pool, in the order of the row groups."""
        first, last = bounds[pool * self.pool_batches], bounds[min((pool + 1) * self.pool_batches, len(bounds) - 1)]
        start = self._rank_start()
        first, last = first + start, last + start
        ends = list(accumulate(rows for _, rows in row_groups))
        parts = []
        for (row, rows), end in zip(row_groups, ends, strict=True):
            begin = end - rows
            if begin < last and end > first:
                skip = max(0, first - begin)
                parts.append(self._table.slice(row + skip, min(end, last) - begin - skip))
        # in evaluation the last pool of a rank can have no rows, while that of another one has some
        batch = self._tensors(pl.concat(pl.collect_all(parts or [self._table.head(0)])))
        check_same_rows(self.folder, self.schema)
        return batch

    def _rank_start(self) -> int:
        """The place in the epoch's order at which this rank's rows start."""
        rows_per_rank, remainder = divmod(self.split_rows, self.world_size)
        # in evaluation the first `remainder` ranks have one more row
        return self.rank * rows_per_rank + (0 if self.shuffle else min(self.rank, remainder))


def check_same_rows(folder: Path, schema: Schema) -> None:
    """Check that a prepared dataset has the rows that it had when `schema` was loaded.

    Raises:
        InputError: it was prepared again, with other rows.
    """
    if not Schema.load(folder).has_rows_of(schema):
        raise InputError(
            f"{folder} was prepared again while this run used it, and its rows are others now: start the run again, and"
            " give datasets with other settings a folder each, dataset.prepared_dir=FOLDER"
        )


def count_rows(folder: Path, split: str) -> int:
    """The number of rows of a split, from the footer of its file."""
    return pl.scan_parquet(folder / f"{split}.parquet").select(pl.len()).collect().item()
