"""The two passes over raw rows, as expressions that every engine runs.

The first pass counts values (`Tally`), the second writes rows as ids (`encoders`, `write_parts`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from tf4ctr.data import faults, histories, vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.histories import PART, ROW, Histories
from tf4ctr.data.numbers import Distribution, scaled
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.schema import GROUP, LABEL, NUMBERS, ROW_GROUP_SIZE, VECTORS, WEIGHT, Schema
from tf4ctr.data.sequences import spread
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL, SPLITS
from tf4ctr.data.transforms import finite, moment
from tf4ctr.data.vocabulary import Counts

MISSING = float("nan")  # a missing number in the prepared rows: a null would have to be filled in every batch
SPLIT = "__split"  # the number of a row's split in SPLITS
BATCH_ROWS = 100_000  # rows counted or encoded at a time
# integers are written with the bits that they need: lz4 would save another 3 % of the space and
# make the stream 7 % slower. Statistics are left out, as nobody filters prepared rows by value
PARQUET: dict[str, Any] = {"row_group_size": ROW_GROUP_SIZE, "compression": "uncompressed", "statistics": False}

Tick = Callable[[int], None]  # reports rows that are done


class Step(Protocol):
    """Begins a step of the preparation, which reports its rows to the `Tick`.

    `total` is the number of rows, None if unknown.
    """

    def __call__(self, description: str, total: int | None) -> AbstractContextManager[Tick]: ...


class Known(NamedTuple):
    """What the first pass has learned.

    Attributes:
        schema: of the dataset.
        values: the known values of each field that has a vocabulary of its own.
        groups: all groups; None if the dataset has no group.
        mean_weight: of the training rows; 1 without weights.
        histories: those that are made of the log, once they are linked.
    """

    schema: Schema
    values: Mapping[str, pl.Series]
    groups: pl.Series | None
    mean_weight: float = 1.0
    histories: Histories | None = None


class Engine(Protocol):
    """Where the two passes run. It is created with the dataset, its raw files and a `Step`."""

    def count(self, split: str, tally: "Tally | Moments", tick: Tick) -> None:
        """First pass: add the rows of a split's files to `tally`."""

    def events(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """Write the rows for the linking of histories: `folder/SOURCE/`, see histories.py.

        `rows` are those of each source: of each split, or of `all`.
        """

    def encode(self, known: Known, rows: Mapping[str, int], folder: Path, step: Step) -> None:
        """Second pass: write `folder/SPLIT.parquet`; `rows` are those of each split."""


class Tally:
    """What the first pass counts in the rows of one split's files, in any number of batches.

    Attributes:
        fields: how often each value of a field occurs in the training rows.
        numbers: the distribution of each number in the training rows.
        groups: the same of the groups, in all rows; None if the dataset has no group.
        checks: one row per split: `__split`, `rows`, `clicks` and counts of invalid rows.

    Args:
        spec: the dataset.
        split: whose files; only training rows count for the fields.
    """

    def __init__(self, spec: DatasetSpec, split: str) -> None:
        self.spec = spec
        fields = spec.fields if split in ("train", ALL) else ()
        self.fields = {field.name: Counts(field.name) for field in fields if field.counted}
        self.numbers = {field.name: Distribution(field.name) for field in fields if field.kind == NUMBERS}
        self.groups = Counts(spec.group) if spec.group else None
        self._checks: list[pl.DataFrame] = []

    @property
    def checks(self) -> pl.DataFrame:
        return pl.concat(self._checks).group_by(SPLIT).sum() if self._checks else pl.DataFrame()

    def count(self, rows: pl.LazyFrame, tick: Tick) -> None:
        """Add rows, as `open_rows` returns them.

        Batch by batch and not as one query: with many queries over one scan polars' streaming
        engine keeps rows without a bound. Two batches are counted at a time, because not every step
        of one keeps all cores busy. They are added in their order, so that the result is the same.
        """
        pending: deque[Future[list[pl.DataFrame]]] = deque()
        with ThreadPoolExecutor(2) as threads:
            for batch in rows.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
                pending.append(threads.submit(self._counted, batch))
                if len(pending) == 2:
                    tick(self._add(*pending.popleft().result()))
            while pending:
                tick(self._add(*pending.popleft().result()))

    def _counted(self, batch: pl.DataFrame) -> list[pl.DataFrame]:
        """What `_add` takes: the checks of a batch, and frames with a list of counts per column."""
        batch = _parsed(batch, self.spec)
        rows = batch.lazy()
        train = rows.filter(pl.col(SPLIT) == 0)
        totals = [pl.len().cast(pl.Int64).alias("rows"), faults.label(self.spec).sum().alias("clicks")]
        if self.spec.weight:
            totals.append(finite(pl.col(self.spec.weight)).sum().alias("weight_total"))
        checks = rows.group_by(SPLIT).agg(*totals, *faults.checks(self.spec, batch.schema))
        counts = [train.select(self._queries(batch.schema))]
        if self.groups is not None:
            counts.append(rows.select(self.groups.query(pl.col(self.groups.name))))
        return pl.collect_all([checks, *counts])

    def _add(self, checks: pl.DataFrame, *counts: pl.DataFrame) -> int:
        """Add the result of `_counted`, and return the number of its rows."""
        self._checks.append(checks)
        columns = [column for frame in counts for column in frame]
        for counter, column in zip(self._counters(), columns, strict=True):
            counter.add(column.item().struct.unnest())
        return int(checks["rows"].sum())

    def _queries(self, dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        """What is counted in the training rows: the values of the fields, then the numbers."""
        fields = {field.name: field for field in self.spec.fields}
        values = {name: fields[name].value(dtypes[fields[name].raw]) for name in (*self.fields, *self.numbers)}
        return [
            *(counts.query(values[name], fields[name].has_lists) for name, counts in self.fields.items()),
            *(distribution.query(values[name]) for name, distribution in self.numbers.items()),
        ]

    def add(self, other: "Tally") -> None:
        """Add what another process has counted."""
        self._checks += other._checks
        for own, its in zip(self._counters(), other._counters(), strict=True):
            own.join(its)  # type: ignore[arg-type]

    def _counters(self) -> list[Counts | Distribution]:
        groups = [self.groups] if self.groups is not None else []
        return [*self.fields.values(), *self.numbers.values(), *groups]


def _parsed(batch: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Texts of numbers that are all numbers become numbers, once for all that is asked of them.

    A column with another text stays as it is, so that its rows are found.
    """
    columns = spec.numbers & {field.raw for field in spec.fields if field.kind == NUMBERS}
    texts = [name for name, dtype in batch.schema.items() if name in columns and dtype == pl.String]
    # as `finite` does, but whether all are finite is asked only once for a column
    numbers = batch.select(pl.col(texts).cast(pl.Float64, strict=False))
    return batch.with_columns(
        values
        for values in numbers
        if values.null_count() == batch[values.name].null_count() and values.is_finite().all()
    )


class Moments:
    """The distribution of the column that splits the rows by time, as a tally of its own.

    Args:
        spec: the dataset.
        split: whose files.
    """

    def __init__(self, spec: DatasetSpec, split: str) -> None:
        assert spec.split is not None
        self.column = spec.split.by
        self.distribution = Distribution(self.column)

    def count(self, rows: pl.LazyFrame, tick: Tick) -> None:
        """Add rows; those without a moment are left out, and refused by the first pass."""
        moments = rows.select(moment(pl.col(self.column)).alias(self.column))
        # of a fixed size: what is joined beyond many moments depends on the batches
        for batch in moments.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
            counted = batch.select(self.distribution.query(pl.col(self.column)))
            self.distribution.add(counted.item().struct.unnest())
            tick(len(batch))

    def add(self, other: "Moments") -> None:
        """Add what another process has counted."""
        self.distribution.join(other.distribution)


def open_rows(
    spec: DatasetSpec,
    raw: RawFiles,
    split: str,
    paths: list[Path] | None = None,
    first: int = 0,
    limit: int | None = None,
) -> pl.LazyFrame:
    """Raw columns, `__short` and `__split` (a number in SPLITS) of the files of a split.

    If the dataset has histories of its log, also `__row`, the row's number.

    Args:
        spec: the dataset.
        raw: its raw files.
        split: a split, or ALL for files without splits.
        paths: some of the files; None for all.
        first: number of their first row among the split's.
        limit: rows to take; None for `spec.limit_rows`.
    """
    limit = spec.limit_rows if limit is None else limit
    rows = raw.rows(paths or raw.files[split], spec.columns, spec.numbers)
    faults.check_types(spec, rows.collect_schema())
    rows = rows if limit is None else rows.head(limit)
    drawn = split == ALL and not spec.split
    if spec.logs or drawn:
        rows = rows.with_row_index(ROW, first)
    if split != ALL:
        number = pl.lit(SPLITS.index(split), pl.Int8)
    elif spec.split:
        number = spec.split.number() if spec.split.ready else pl.lit(0, pl.Int8)
    else:
        number = split_of(pl.col(ROW), spec.split_seed)
    rows = rows.with_columns(number.alias(SPLIT))
    return rows if spec.logs or not drawn else rows.drop(ROW)


def split_of(row: pl.Expr, seed: int) -> pl.Expr:
    """Row number -> 0 train, 1 valid, 2 test, in 8:1:1 by a hash of (seed, row number).

    The result is the same on every machine. The hash is the finaliser of SplitMix64 (Steele et al.,
    OOPSLA 2014), on 64-bit integers that wrap around.
    """
    mixed = row.cast(pl.UInt64) + pl.lit(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]), pl.UInt64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed // 2**shift)) * pl.lit(factor, pl.UInt64)
    tenth = (mixed ^ (mixed // 2**31)) % 10
    return pl.when(tenth < 8).then(0).otherwise(tenth.cast(pl.Int8) - 7).cast(pl.Int8)


def encode_field(
    field: FieldSpec, schema: Schema, values: Mapping[str, pl.Series], dtype: pl.DataType, many: bool = False
) -> list[pl.Expr]:
    """Raw column of a field -> its prepared columns: ids (int32), or a scaled number (float32).

    A sequence becomes one column of lists of ids, see `sequences.spread`.

    Args:
        field: the field.
        schema: of the dataset.
        values: the known values of each field that has a vocabulary of its own.
        dtype: of the raw column.
        many: whether many rows are encoded at a time, which changes the time alone.
    """
    encoded, value = schema[field.name], field.value(dtype)
    if encoded.scaling is not None:
        return [scaled(value, encoded.scaling).fill_null(MISSING).alias(field.name)]
    if encoded.kind == VECTORS:
        parts = [value.list.get(number, null_on_oob=True) for number in range(encoded.width)]
        numbers = [part.cast(pl.Float32).fill_null(MISSING) for part in parts]
        return [number.alias(column) for number, column in zip(numbers, encoded.columns, strict=True)]
    offset = schema.offset_of(field.name)
    if encoded.hashed:
        return vocabulary.encode_hashed(encoded, value, offset)
    return vocabulary.encode(encoded, value, values[field.of or field.name], offset, many)


def encoders(spec: DatasetSpec, known: Known, dtypes: pl.Schema) -> list[pl.Expr]:
    """Raw columns -> the prepared ones: the ids, the label, the group.

    Args:
        spec: the dataset.
        known: the result of the first pass.
        dtypes: of the raw columns.
    """
    columns = [
        column
        for field in spec.fields
        if field.in_rows
        for column in encode_field(field, known.schema, known.values, dtypes[field.raw], many=True)
    ]
    columns.append(faults.label(spec).cast(pl.Int32).alias(LABEL))
    if spec.weight:
        columns.append((finite(pl.col(spec.weight)) / known.mean_weight).cast(pl.Float32).alias(WEIGHT))
    if known.groups is not None:
        # a group's code is its place among the groups of all splits, so that a user who does not
        # occur in training is still one user
        code = vocabulary.places(known.groups, many=True)(pl.col(str(spec.group))).cast(pl.Int64)
        columns.append(code.fill_null(len(known.groups)).alias(GROUP))
    return columns


def write_parts(
    spec: DatasetSpec, rows: pl.LazyFrame, known: Known, source: str, folder: Path, tick: Tick | None = None
) -> None:
    """Encode rows into `folder/__split=N/FILE.parquet`, one file per split that has rows.

    Args:
        spec: the dataset.
        rows: as `open_rows` returns them.
        known: the result of the first pass.
        source: the split that they were opened with, or `all`.
        folder: where to write.
        tick: reports rows.
    """
    number = [ROW] if known.histories else []
    columns = [pl.col(SPLIT), *map(pl.col, number), *encoders(spec, known, rows.collect_schema())]
    schema, names = known.schema, {field.name for field in spec.fields if field.in_rows}
    lists = [field for field in schema.sequence_fields if field.name in names]
    encoded = rows.select(columns).collect_schema()
    if schema.sequence_fields:
        encoded = _prepared_dtypes(schema, {key: dtype for key, dtype in encoded.items() if key not in {ROW, *names}})

    def encode(frame: pl.DataFrame) -> pl.DataFrame:
        frame = spread(_parsed(frame, spec).select(columns), lists, schema)
        return (known.histories.add_to(frame, source) if known.histories else frame).select(encoded.names())

    _sink_parts(_batches(rows, encode, encoded, tick), folder, SPLIT)


def _prepared_dtypes(schema: Schema, others: Mapping[str, pl.DataType]) -> pl.Schema:
    """The columns of prepared rows: those of all fields, then `others`."""
    ids = {column: pl.Int32() for field in schema.id_fields for column in field.columns}
    return pl.Schema({**ids, **dict.fromkeys(schema.number_columns, pl.Float32()), **others})


def write_events(
    spec: DatasetSpec, rows: pl.LazyFrame, known: Known, total: int, folder: Path, tick: Tick | None = None
) -> None:
    """Write the rows of each history of the log into `folder/HISTORY/`, by parts of users.

    Args:
        spec: the dataset.
        rows: as `open_rows` returns them.
        known: the result of the first pass.
        total: all rows of the dataset.
        folder: where to write.
        tick: reports rows.
    """
    dtypes = rows.collect_schema()
    fields = {field.name: field for field in spec.fields}
    for leader in spec.logs:
        ids = [
            encode_field(owner, known.schema, known.values, dtypes[owner.raw], many=True)[0].alias(member.name)
            for member in leader.members(spec.fields)
            if member.of is not None
            for owner in [fields[member.of]]
        ]
        columns = histories.events(spec, leader, ids, histories.parts_of(total))

        def linkable(frame: pl.DataFrame, columns: list[pl.Expr] = columns) -> pl.DataFrame:
            return frame.select(columns).filter(pl.col(PART).is_not_null())

        ticking = tick if leader is spec.logs[0] else None
        events = _batches(rows, linkable, rows.select(columns).collect_schema(), ticking)
        _sink_parts(events, folder / leader.name, PART)


def _sink_parts(rows: pl.LazyFrame, folder: Path, key: str) -> None:
    # one file of any size: by default polars begins another at some gigabytes
    parts = pl.PartitionBy(folder, key=key, include_key=False, approximate_bytes_per_file=None)
    rows.sink_parquet(parts, mkdir=True, engine="streaming", **PARQUET)


def _batches(
    rows: pl.LazyFrame, work: Callable[[pl.DataFrame], pl.DataFrame], schema: pl.Schema, tick: Tick | None
) -> pl.LazyFrame:
    """The result of `work` for all rows, batch by batch; `tick` is told the rows.

    `rows.select(...)` would be the same, but polars' streaming engine needs three times the memory
    for expressions that look up large vocabularies.
    """

    def frames(*_: object) -> Iterator[pl.DataFrame]:  # a sink asks for all columns and rows
        for frame in rows.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
            yield work(frame)
            if tick:
                tick(len(frame))

    return register_io_source(frames, schema=schema)
