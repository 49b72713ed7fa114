"""engine=ray: the two passes of preparation on a Ray cluster, one raw file per task.

The passes are those of passes.py. The results of the tasks are merged in the driver, whose memory
grows with the vocabularies. Every machine must see the raw files and the prepared folder under the
same paths. One worker reads a file: split large files.
"""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import polars as pl
import ray

from tf4ctr.data import faults
from tf4ctr.data.passes import PARQUET, SPLIT, Known, Moments, Step, Tally, Tick, open_rows, write_events, write_parts
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL, SPLITS
from tf4ctr.errors import InputError

TASKS_PER_CORE = 2  # that wait or run at a time
HELD_PER_TASK = 2  # results per such task that may wait for a slower one, so that they do not pile up


class Block(NamedTuple):
    """One raw file of a split, the number of its first row in it, and how many rows to take."""

    split: str
    path: Path
    first: int = 0
    limit: int | None = None

    def open(self, spec: DatasetSpec, raw: RawFiles) -> pl.LazyFrame:
        """Its rows, see `open_rows`."""
        return open_rows(spec, raw, self.split, [self.path], self.first, self.limit)


class Result(NamedTuple):
    """What a worker returns for a block: its rows and, in the first pass, the tally of them."""

    block: Block
    rows: int
    tally: Tally | Moments | None = None


class Failure(NamedTuple):
    """What a worker returns if it cannot read a file; `explained`: an InputError's message."""

    message: str
    explained: bool


class RayEngine:
    """An `Engine` over a Ray cluster: joins the one of RAY_ADDRESS, or starts one on this machine.

    Raises:
        InputError: a file without the columns that the dataset needs, or that cannot be read.
    """

    def __init__(self, spec: DatasetSpec, raw: RawFiles, step: Step) -> None:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        self.spec, self.raw = spec, raw
        for split in raw.files:  # reads the headers, and refuses files without a column
            open_rows(spec, raw, split)
        self.shared = {split: ray.put(_as_a_whole(raw, split, spec.columns)) for split in raw.files}
        self.blocks = {split: self._blocks(split, step) for split in raw.files}

    def _blocks(self, split: str, step: Step) -> list[Block]:
        """One block per file.

        Rows are counted first where their numbers matter: without splits, which are drawn by row
        number, with a limit, and with histories of the log.
        """
        blocks = [Block(split, path) for path in self.raw.files[split]]
        if split != ALL and self.spec.limit_rows is None and not self.spec.logs:
            return blocks
        with step(f"number {split}", None) as tick:
            rows = {result.block: result.rows for result in self._run(_number, blocks, tick)}
        first, numbered = 0, []
        for block in blocks:
            limit = rows[block] if self.spec.limit_rows is None else min(rows[block], self.spec.limit_rows - first)
            if limit > 0:
                numbered.append(block._replace(first=first, limit=limit))
            first += rows[block]
        return numbered

    def count(self, split: str, tally: Tally | Moments, tick: Tick) -> None:
        """First pass: every worker returns the tally of its file."""
        for result in self._run(_count, self.blocks[split], tick, type(tally)):
            tally.add(result.tally)  # type: ignore[arg-type]

    def events(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """The rows for the linking of histories, each block into files of its own."""
        shared = ray.put(known)
        for split, blocks in self.blocks.items():
            folders = {block: folder / split / str(number) for number, block in enumerate(blocks)}
            with step(f"order {split}", rows[split]) as tick:
                for _ in self._run(_events, blocks, tick, shared, sum(rows.values()), folders):
                    pass

    def encode(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """Second pass: a block is written into files of its own, which are then joined in order."""
        shared = ray.put(known)  # once per machine, not once per block
        parts = folder / "parts"
        for split, blocks in self.blocks.items():
            folders = {block: parts / split / str(number) for number, block in enumerate(blocks)}
            with step(f"write {split}", rows.get(split, sum(rows.values()))) as tick:
                for _ in self._run(_encode, blocks, tick, shared, folders):
                    pass
            for number, name in enumerate(SPLITS):
                pieces = [
                    path for part in folders.values() for path in sorted(part.glob(f"{SPLIT}={number}/*.parquet"))
                ]
                if pieces:
                    pl.scan_parquet(pieces).sink_parquet(folder / f"{name}.parquet", engine="streaming", **PARQUET)
        shutil.rmtree(parts)

    def _run(
        self, work: Callable[..., Result | Failure], blocks: list[Block], tick: Tick, *more: object
    ) -> Iterator[Result]:
        """The result of `work` for each block, in their order: sums of counts depend on it."""
        task = ray.remote(work)
        spec = ray.put(self.spec)
        at_a_time = TASKS_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running, held, place = deque(enumerate(blocks)), dict[Any, int](), dict[int, Result | Failure](), 0
        while waiting or running:
            while waiting and len(running) < at_a_time and len(running) + len(held) < HELD_PER_TASK * at_a_time:
                number, block = waiting.popleft()
                running[task.remote(spec, self.shared[block.split], block, *more)] = number
            (ready,), _ = ray.wait([*running])
            held[running.pop(ready)] = ray.get(ready)
            while place in held:
                result = held.pop(place)
                if isinstance(result, Failure):
                    self._refuse(blocks[place].split, result)
                place += 1
                tick(result.rows)
                yield result

    def _refuse(self, split: str, failure: Failure) -> NoReturn:
        if failure.explained:
            raise InputError(failure.message)
        faults.refuse_unreadable(self.spec, self.raw, split, OSError(failure.message))


def _as_a_whole(raw: RawFiles, split: str, columns: list[str]) -> RawFiles:
    """Raw files of which a worker reads one as this machine reads all of a split together."""
    same = READERS[raw.reader].same
    return raw if same is None else replace(raw, options={**raw.options, **same(raw.files[split], columns)})


# what follows runs on the workers


def _number(spec: DatasetSpec, raw: RawFiles, block: Block) -> Result | Failure:
    return _caught(lambda: Result(block, raw.rows([block.path], spec.columns).select(pl.len()).collect().item()))


def _count(spec: DatasetSpec, raw: RawFiles, block: Block, kind: type[Tally | Moments]) -> Result | Failure:
    def work() -> Result:
        rows: list[int] = []
        tally = kind(spec, block.split)
        tally.count(block.open(spec, raw), rows.append)
        return Result(block, sum(rows), tally)

    return _caught(work)


def _events(
    spec: DatasetSpec, raw: RawFiles, block: Block, known: Known, total: int, folders: Mapping[Block, Path]
) -> Result | Failure:
    def work() -> Result:
        shutil.rmtree(folders[block], ignore_errors=True)  # of a worker that was lost
        rows: list[int] = []
        write_events(spec, block.open(spec, raw), known, total, folders[block], rows.append)
        return Result(block, sum(rows))

    return _caught(work)


def _encode(
    spec: DatasetSpec, raw: RawFiles, block: Block, known: Known, folders: Mapping[Block, Path]
) -> Result | Failure:
    def work() -> Result:
        folder = folders[block]
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was lost
        write_parts(spec, block.open(spec, raw), known, block.split, folder)
        rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in folder.glob("*/*.parquet"))
        return Result(block, rows)

    return _caught(work)


def _caught(work: Callable[[], Result]) -> Result | Failure:
    """The result, or the failure to read a raw file, which the driver reports."""
    try:
        return work()
    except (pl.exceptions.PolarsError, OSError, InputError) as error:
        return Failure(str(error), isinstance(error, InputError))
