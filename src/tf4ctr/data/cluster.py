"""engine=ray: the two passes of preparation over Ray Data's blocks, a raw file each, on as many machines as the cluster has.

Counting and encoding are the expressions of preparation.py; what a block gives is merged here, in the driver, whose memory grows with the
vocabularies. Raw files and the prepared folder lie where every machine sees them. A file is read by one worker: split large ones.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import ray
import ray.data

from tf4ctr.data import faults, preparation
from tf4ctr.data.preparation import PARQUET, SPLIT
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import ALL, SPLITS, DatasetSpec, RawFiles
from tf4ctr.data.vocabulary import Counts
from tf4ctr.errors import InputError

CHECKS, UNREADABLE = "__checks", "__unreadable"  # names beside the columns'; those of fields never begin so
COUNTED = pa.schema([("name", pa.large_string()), ("value", pa.large_string()), ("count", pa.int64())])


class Block(NamedTuple):
    """One raw file: number of its first row among the split's, and how many rows to take (-1 for all)."""

    split: str
    path: str
    first: int = 0
    limit: int = -1


def open_blocks(spec: DatasetSpec, raw: RawFiles, step: Callable[..., Any]) -> dict[str, list[Block]]:
    """Join or begin a cluster, and cut each split's raw files into blocks."""
    _start()
    sources = {}
    for split in raw.files:
        preparation.open_rows(spec, raw, split)  # reads the headers, and tells files of different columns
        sources[split] = _blocks(spec, raw, split, step)
    return sources


def count(
    spec: DatasetSpec,
    raw: RawFiles,
    split: str,
    blocks: list[Block],
    counts: dict[str, Counts],
    groups: Counts | None,
    tick: Callable[[int], None],
) -> pl.DataFrame:
    """Count a split in the first pass, as preparation.py does; return the checks, a row a split."""
    checks: dict[int, dict[str, int]] = {}
    for frame in _run(blocks, partial(_count, spec, raw)):
        _refuse_unreadable(spec, raw, split, frame)
        for (name,), part in frame.partition_by("name", as_dict=True, include_key=False).items():
            if name == CHECKS:
                for number, check, found in (
                    part.select(pl.col("value").str.splitn(" ", 2), "count").unnest("value").rows()
                ):
                    of_split = checks.setdefault(int(number), {})
                    of_split[check] = of_split.get(check, 0) + found
                    tick(found if check == "rows" else 0)
                continue
            counter = groups if groups is not None and name == _group(spec) else counts[str(name)]
            counter.add(part.select(pl.col("value").alias(counter.name), pl.col("count").cast(pl.UInt32)))
    return pl.DataFrame([{SPLIT: number, **found} for number, found in checks.items()])


def encode(
    spec: DatasetSpec,
    raw: RawFiles,
    sources: dict[str, list[Block]],
    known: tuple[Schema, dict[str, pl.Series], pl.Series | None],
    counts: dict[str, int],
    folder: Path,
    step: Callable[..., Any],
) -> None:
    """Second pass, as preparation.py's: each block into files of its own, then these one after the other."""
    shared = ray.put(known)  # once a machine, not once a block
    parts = folder / "parts"
    for source, blocks in sources.items():
        numbers = {block.path: number for number, block in enumerate(blocks)}
        with step(f"write {source}", counts.get(source, sum(counts.values()))) as tick:
            for frame in _run(blocks, partial(_encode, spec, raw, shared, numbers, parts / source)):
                _refuse_unreadable(spec, raw, source, frame)
                tick(frame["count"].sum())
        for number, split in enumerate(SPLITS):
            files = [
                path
                for n in range(len(blocks))
                for path in sorted((parts / source / str(n)).glob(f"{SPLIT}={number}/*.parquet"))
            ]
            if files:
                pl.scan_parquet(files).sink_parquet(folder / f"{split}.parquet", engine="streaming", **PARQUET)
    shutil.rmtree(parts)


def _start() -> None:
    """Join the cluster of RAY_ADDRESS, or begin one of this machine's cores."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the bar is preparation's


def _run(blocks: list[Block], work: Callable[[dict[str, Any]], pa.Table]) -> Iterator[pl.DataFrame]:
    """What `work` makes of each block, as it comes."""
    data = ray.data.from_items([block._asdict() for block in blocks], override_num_blocks=len(blocks))
    for table in data.map_batches(work, batch_size=1).iter_batches(batch_size=None, batch_format="pyarrow"):
        yield pl.DataFrame(pl.from_arrow(table.cast(COUNTED)))  # type: ignore[union-attr]


def _blocks(spec: DatasetSpec, raw: RawFiles, split: str, step: Callable[..., Any]) -> list[Block]:
    """A block a file; rows are counted first where a row's number matters: without splits (they are drawn by it), or with a limit."""
    blocks = [Block(split, str(path)) for path in raw.files[split]]
    if split != ALL and spec.limit_rows is None:
        return blocks
    rows: dict[str, int] = {}
    with step(f"number {split}", None) as tick:
        for frame in _run(blocks, partial(_rows, spec, raw)):
            _refuse_unreadable(spec, raw, split, frame)
            rows |= dict(frame.select("value", "count").rows())
            tick(frame["count"].sum())
    first, numbered = 0, []
    for block in blocks:
        left = rows[block.path] if spec.limit_rows is None else max(0, min(rows[block.path], spec.limit_rows - first))
        if left:
            numbered.append(block._replace(first=first, limit=left))
        first += rows[block.path]
    return numbered


def _group(spec: DatasetSpec) -> str:
    return f"__group {spec.group}"  # a group may be a field, too, whose values are the training rows' alone


# what follows runs on the workers


def _rows(spec: DatasetSpec, raw: RawFiles, batch: dict[str, Any]) -> pa.Table:
    block = _block(batch)
    return _answer(
        lambda: [(block.path, block.path, raw.rows([Path(block.path)], spec.columns).select(pl.len()).collect().item())]
    )


def _count(spec: DatasetSpec, raw: RawFiles, batch: dict[str, Any]) -> pa.Table:
    block = _block(batch)
    counters = {field.name: Counts(field.name) for field in spec.fields} if block.split in ("train", ALL) else {}
    groups = Counts(spec.group) if spec.group else None

    def work() -> pl.DataFrame:
        checks = preparation.count_batches(spec, _open(spec, raw, block), counters, groups, lambda rows: None)
        found = [
            (CHECKS, f"{row[SPLIT]} {check}", int(count))
            for row in checks.rows(named=True)
            for check, count in row.items()
            if check != SPLIT
        ]
        parts = [pl.DataFrame(found, ["name", "value", "count"], orient="row")]
        for name, counter in [*counters.items(), *([(_group(spec), groups)] if groups else [])]:
            parts.append(
                counter.seen(1).select(
                    pl.lit(name).alias("name"), pl.col(counter.name).alias("value"), pl.col("count").cast(pl.Int64)
                )
            )
        return pl.concat(parts)

    return _answer(work)


def _encode(
    spec: DatasetSpec, raw: RawFiles, shared: Any, numbers: dict[str, int], parts: Path, batch: dict[str, Any]
) -> pa.Table:
    block = _block(batch)

    def work() -> list[tuple[str, str, int]]:
        folder = parts / str(numbers[block.path])
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was lost
        preparation.write_parts(_open(spec, raw, block), preparation.make_encoders(spec, *ray.get(shared)), folder)
        rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in folder.glob("*/*.parquet"))
        return [(block.path, block.path, rows)]

    return _answer(work)


def _block(batch: dict[str, Any]) -> Block:
    (split,), (path,), (first,), (limit,) = (batch[name] for name in Block._fields)
    return Block(str(split), str(path), int(first), int(limit))


def _open(spec: DatasetSpec, raw: RawFiles, block: Block) -> pl.LazyFrame:
    return preparation.open_rows(
        spec, raw, block.split, [Path(block.path)], block.first, None if block.limit < 0 else block.limit
    )


def _answer(work: Callable[[], Any]) -> pa.Table:
    """What `work` found as a table, or the error that a raw file made it raise: the driver tells of it."""
    try:
        found = work()
    except (pl.exceptions.PolarsError, OSError, InputError) as error:
        found = [(UNREADABLE, str(error), int(isinstance(error, InputError)))]
    frame = found if isinstance(found, pl.DataFrame) else pl.DataFrame(found, ["name", "value", "count"], orient="row")
    return frame.to_arrow().cast(COUNTED)


def _refuse_unreadable(spec: DatasetSpec, raw: RawFiles, split: str, frame: pl.DataFrame) -> None:
    for message, told in frame.filter(name=UNREADABLE).select("value", "count").rows():
        if told:
            raise InputError(message)
        faults.refuse_unreadable(spec, raw, split, OSError(message))
