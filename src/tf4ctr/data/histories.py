"""Histories from the log itself: for each row, what the same user did before.

A row's history has the values of its user's last events before the row's moment: never of the row
itself, never of a later row, never of a row of the same moment. An event is a row where the
history's condition holds. The rule is the same in all splits.

No step holds all rows: the rows are first written by parts of users (`events`), each part is then
linked by itself (`link`), and `Histories` reads its results from disk while the rows are encoded.
Beside the prepared rows, `link` keeps each user's last events for prediction, see
`history_state.py`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars_hash  # noqa: F401, registers the expressions' `nchash`
from numpy.typing import NDArray

from tf4ctr.data.faults import label
from tf4ctr.data.fields import LABEL_CONDITION, FieldSpec
from tf4ctr.data.schema import GAP_BUCKETS, Field, Schema
from tf4ctr.data.sequences import columns_of, filled
from tf4ctr.data.spec import LABELS, DatasetSpec
from tf4ctr.data.transforms import moment

log = logging.getLogger(__name__)

ROW, PART = "__row", "__part"
USER, MOMENT, EVENT = "__user", "__moment", "__event"
EARLIER = "earlier"  # the source of events from before the log, see earlier_events.py
ROWS_PER_PART = 1_000_000  # of all users together, on average: some 100 MB are sorted at a time


def parts_of(rows: int) -> int:
    """The number of parts in which so many rows are linked."""
    return max(1, round(rows / ROWS_PER_PART))


def events(spec: DatasetSpec, leader: FieldSpec, ids: Iterable[pl.Expr], parts: int) -> list[pl.Expr]:
    """Numbered raw rows -> the columns that `link` needs of one history.

    Args:
        spec: the dataset.
        leader: the history; those aligned with it have the same events.
        ids: the values of the history, and of those aligned with it, as ids.
        parts: number of parts; a user's rows are in one of them.
    """
    user = pl.col(str(leader.by))
    return [
        pl.col(ROW).cast(pl.Int64),
        user.alias(USER),
        moment(pl.col(str(leader.order))).alias(MOMENT),
        _is_event(spec, leader).alias(EVENT),
        *ids,
        (user.nchash.xxhash64() % parts).cast(pl.Int32).alias(PART),  # type: ignore[attr-defined]
    ]


def _is_event(spec: DatasetSpec, leader: FieldSpec) -> pl.Expr:
    conditions = [pl.col(name).is_in(texts) for name, texts in spec.conditions(leader).items()]
    if leader.where and LABEL_CONDITION in leader.where:
        conditions.append(label(spec).is_in([LABELS[text] for text in leader.where[LABEL_CONDITION]]))
    return pl.all_horizontal(*conditions, pl.lit(True)).fill_null(False)


class Histories:
    """The linked histories of a dataset: row numbers -> prepared columns.

    Args:
        schema: of the dataset.
        folder: what `link` wrote for the preparation.
    """

    def __init__(self, schema: Schema, folder: Path) -> None:
        self.schema, self.folder = schema, folder

    def add_to(self, frame: pl.DataFrame, source: str) -> pl.DataFrame:
        """Add the columns of all histories.

        Args:
            frame: has the number of each row among the source's rows, `__row`.
            source: a split, or `all`.
        """
        rows_N = frame[ROW].to_numpy()
        for history in self.schema.histories:
            if (self.folder / history[0].name).exists():
                frame = frame.with_columns(self._columns(history, source, rows_N))
        return frame

    def _columns(self, history: tuple[Field, ...], source: str, rows_N: NDArray[np.int64]) -> list[pl.Series]:
        folder = self.folder / history[0].name
        starts_N, lengths_N = (_mapped(folder / f"__{source}.{name}")[rows_N] for name in ("starts", "lengths"))
        columns = history_columns(
            history,
            self.schema,
            lambda name: _mapped(folder / name),
            lambda: (_mapped(folder / "__moments"), _mapped(folder / f"__{source}.moments")[rows_N]),
            starts_N,
            lengths_N,
        )
        names = [name for field in history for name in field.columns]
        return list(map(pl.Series, names, columns))


def history_columns(
    history: Iterable[Field],
    schema: Schema,
    ids_of: Callable[[str], NDArray[np.int32]],
    moments: Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]],
    starts_N: NDArray[np.int64],
    lengths_N: NDArray[np.integer],
) -> list[NDArray[np.int32]]:
    """The prepared columns of a history and of those aligned with it, for some rows.

    Args:
        history: the sequences.
        schema: of the dataset.
        ids_of: name of a sequence -> its ids in all events.
        moments: the moments of all events, and of the rows; only asked for if there are times.
        starts_N, lengths_N: the events of each row.
    """
    columns = []
    for field in history:
        padding = schema.offset_of(field.name)
        if field.gaps:
            columns += gap_columns(*moments(), starts_N, lengths_N, field.width, padding)
        else:
            columns += columns_of(ids_of(field.name), starts_N, lengths_N, field.width, padding)
    return columns


def gap_columns(
    moments: NDArray[np.float64],
    moments_N: NDArray[np.float64],
    starts_N: NDArray[np.int64],
    lengths_N: NDArray[np.integer],
    width: int,
    padding: int,
) -> list[NDArray[np.int32]]:
    """As `columns_of`, of the times from the events to each row: bucket floor(log2(1 + gap)).

    Args:
        moments: of all events.
        moments_N: of the rows; NaN if the row has none, then its times are unknown.
        starts_N, lengths_N: the events of each row.
        width: number of columns.
        padding: the field's first table row. Row k + 1 is bucket k, the last one an unknown time.
    """

    def ids_of(rows: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int32]:
        gap = np.maximum(moments_N[rows] - moments[places], 0)
        bucket = np.minimum(np.floor(np.log2(1 + gap)), GAP_BUCKETS - 1)
        return padding + 1 + np.where(np.isnan(bucket), GAP_BUCKETS, bucket).astype(np.int32)

    return filled(ids_of, starts_N, lengths_N, width, padding)


def gap_ids(field: FieldSpec, padding: int, dtype: pl.DataType) -> pl.Expr:
    """A column of times, as lists of texts or as one text -> lists of ids, see `gap_columns`."""
    gap = pl.element().cast(pl.Float64, strict=False).clip(0)
    bucket = (gap + 1).log(2).floor().clip(None, GAP_BUCKETS - 1).fill_nan(None).fill_null(GAP_BUCKETS)
    return field.value(dtype).list.eval((bucket + padding + 1).cast(pl.Int32)).alias(field.name)


def _mapped(path: Path) -> NDArray[Any]:
    """An array on disk; an empty one has no file's pages to map."""
    return np.load(path.with_name(path.name + ".npy"), mmap_mode="r")


def link(
    spec: DatasetSpec,
    leader: FieldSpec,
    sources: Mapping[str, int],
    events_folder: Path,
    folder: Path,
    state: Path,
    tick: Callable[[int], None],
) -> None:
    """Find the history of every row, part by part of the users.

    Args:
        spec: the dataset.
        leader: the history, with those aligned with it.
        sources: the rows of each source of raw files.
        events_folder: what the first step wrote: SOURCE/.../HISTORY/__part=K/*.parquet, with
            the columns of `events`.
        folder: where `Histories` reads: where each row's events are, and all events by user.
        state: parquet file to write: each user's last events.
        tick: reports rows.
    """
    members = leader.members(spec.fields)
    names = [field.name for field in members if not field.gaps]
    folder.mkdir(parents=True)
    linker = _Linker(leader.width, names, any(field.gaps for field in members), sources, folder)
    states = folder / "states"
    states.mkdir()
    for part in range(parts_of(sum(sources.values()))):
        table = _part(events_folder, leader.name, list(sources), part)
        if len(table):
            linker.add(table).write_parquet(states / f"{part}.parquet")
        tick(len(table))
    linker.close()
    empty = pl.DataFrame(
        schema={USER: pl.String, MOMENT: pl.List(pl.Float64), **dict.fromkeys(names, pl.List(pl.Int32))}
    )
    parts = [pl.scan_parquet(path) for path in sorted(states.iterdir())] or [empty.lazy()]
    pl.concat(parts).sink_parquet(state, engine="streaming")
    _warn(spec, leader, linker, sum(rows for source, rows in sources.items() if source != EARLIER))


def _warn(spec: DatasetSpec, leader: FieldSpec, linker: "_Linker", total: int) -> None:
    """Log what may be a mistake in the history's options."""
    if missing := total - linker.rows:
        log.warning(
            "%s: %s of %s rows have no '%s' or no '%s': their history '%s' is empty",
            spec.name,
            f"{missing:,}",
            f"{total:,}",
            leader.by,
            leader.order,
            leader.name,
        )
    if leader.where and linker.rows and not linker.events:
        where = {column: list(texts) for column, texts in leader.where.items()}
        log.warning("%s: history '%s' is empty in all rows: none has %s", spec.name, leader.name, where)


def _part(folder: Path, history: str, sources: list[str], part: int) -> pl.DataFrame:
    """The rows of a part of the users, with the number of their source, in the order of time."""
    tables = [
        pl.scan_parquet(path).with_columns(pl.lit(number, pl.Int8).alias("__source"))
        for number, source in enumerate(sources)
        for path in sorted((folder / source).glob(f"**/{history}/{PART}={part}/*.parquet"))
    ]
    if not tables:
        return pl.DataFrame()
    table = pl.concat(tables).filter(pl.col(USER).is_not_null() & pl.col(MOMENT).is_not_null()).collect()
    users = pl.col(USER).rank("dense").alias("__code")  # numbers are sorted faster than texts
    return table.with_columns(users).sort("__code", MOMENT, "__source", ROW)


class _Linker:
    """Writes, part by part, where each row's events are, and the events themselves.

    `rows` counts the rows that it has linked, without those from before the log.

    Moments of rows and of events are only written if `gaps` needs them.
    """

    def __init__(self, width: int, names: list[str], gaps: bool, sources: Mapping[str, int], folder: Path) -> None:
        self.width, self.names, self.folder = width, names, folder
        self.rows = self.events = 0
        self._earlier = [source == EARLIER for source in sources]

        def array(name: str, dtype: str, rows: int) -> Any:
            return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (rows,))

        self.starts = [array(f"__{source}.starts", "int64", rows) for source, rows in sources.items()]
        self.lengths = [array(f"__{source}.lengths", "int32", rows) for source, rows in sources.items()]
        timed = sources if gaps else {}
        self.moments = [array(f"__{source}.moments", "float64", rows) for source, rows in timed.items()]
        for moments in self.moments:
            moments[:] = np.nan
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in (*(["__moments"] if gaps else []), *names)}

    def add(self, table: pl.DataFrame) -> pl.DataFrame:
        """Link the rows of some users; returns each user's last events."""
        code, moments = table["__code"].to_numpy(), table[MOMENT].to_numpy()
        is_event = table[EVENT].to_numpy()
        before = np.concatenate([[0], np.cumsum(is_event)])  # events before each row of the table
        new_user = np.flatnonzero(np.diff(code, prepend=-1))
        new_moment = np.diff(code, prepend=-1).astype(bool) | np.diff(moments, prepend=np.nan).astype(bool)
        first_of_moment = np.maximum.accumulate(np.where(new_moment, np.arange(len(table)), 0))
        rows_of_user = np.diff(new_user, append=len(table))
        begin, end = np.repeat(before[new_user], rows_of_user), before[first_of_moment]
        start = np.maximum(begin, end - self.width)
        sources, rows = table["__source"].to_numpy(), table[ROW].to_numpy()
        for number in range(len(self.starts)):
            own = sources == number
            self.starts[number][rows[own]] = self.events + start[own]
            self.lengths[number][rows[own]] = (end - start)[own]
            if self.moments:
                self.moments[number][rows[own]] = moments[own]
        happened = table.filter(pl.col(EVENT))
        for name, file in self._files.items():
            file.write(happened[MOMENT if name == "__moments" else name].to_numpy().tobytes())
        self.rows += len(table) - int(np.isin(sources, np.flatnonzero(self._earlier)).sum())
        self.events += len(happened)
        return (
            happened.group_by(USER, maintain_order=True)
            .agg(pl.col(MOMENT, *self.names).tail(self.width))
            .select(USER, MOMENT, *self.names)
        )

    def close(self) -> None:
        """Complete the files of the events."""
        for name, file in self._files.items():
            file.close()
            path = self.folder / f"{name}.bin"
            dtype = np.float64 if name == "__moments" else np.int32
            values = np.memmap(path, dtype, "r") if self.events else np.zeros(0, dtype)
            np.save(self.folder / f"{name}.npy", values)
            path.unlink()
        for array in (*self.starts, *self.lengths, *self.moments):
            array.flush()
