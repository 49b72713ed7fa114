"""Histories of the log that go on where those of an earlier run end.

A run keeps the last events of each user (history_state.py). A dataset that grows from it links them
as rows of one more source, before its own rows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from tf4ctr.data import history_state
from tf4ctr.data.growth import Base, kept_rows
from tf4ctr.data.histories import EARLIER, EVENT, MOMENT, PART, ROW, USER, parts_of
from tf4ctr.data.passes import Known
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError


def of_base(spec: DatasetSpec, known: Known) -> dict[str, pl.DataFrame]:
    """The events that the run of `spec.base` has kept, by the leading history.

    The columns are the user, the moment, and the ids of each sequence in the new table; a value
    that the new vocabulary does not have is out of vocabulary.

    Raises:
        InputError: the run has no such history.
    """
    if spec.base is None:
        return {}
    old, new = spec.base.schema, known.schema
    places = _new_ids(spec.base, known)
    frames = {}
    for leader in spec.logs:
        path = history_state.path_of(leader.name, spec.base.folder)
        if not path.exists():
            raise InputError(
                f"{path} is missing: it has the events from which the history goes on. Train that run again"
            )
        state = pl.read_parquet(path)
        names = [name for name in state.columns if name != USER]
        events = state.explode(names, empty_as_null=False)
        ids = [
            pl.Series(name, places[old[name].of or name][events[name].to_numpy() - old.offset_of(name)])
            + new.offset_of(name)
            for name in names
            if name != MOMENT
        ]
        frames[leader.name] = events.with_columns(pl.Series(column, dtype=pl.Int32) for column in ids)
    return frames


def _new_ids(base: Base, known: Known) -> dict[str, np.ndarray]:
    """For each field that owns rows: the new row of each of the run's rows, counted from 0."""
    places = {}
    for name, rows in kept_rows(base, known.schema, known.values).items():
        unknown = known.schema[name].vocabulary_size - 1
        new_rows = np.full(base.schema[name].vocabulary_size, unknown, np.int32)
        new_rows[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        places[name] = new_rows
    return places


def write(earlier: Mapping[str, pl.DataFrame], total: int, folder: Path) -> None:
    """Write what `histories.write_events` would write of these rows.

    Events from the log's own time on are left out: the log has them, too.

    Args:
        earlier: as `of_base` returns it.
        total: all rows, these and those of the dataset.
        folder: with the events of the dataset's own rows in SOURCE/.../HISTORY/__part=K/.
    """
    for name, events in earlier.items():
        own = sorted(folder.glob(f"**/{name}/{PART}=*/*.parquet"))
        first = pl.scan_parquet(own).select(pl.col(MOMENT).min()).collect().item() if own else None
        part = (pl.col(USER).nchash.xxhash64() % parts_of(total)).cast(pl.Int32)  # type: ignore[attr-defined]
        rows = events.with_row_index(ROW).select(  # in the order of `histories.events`
            pl.col(ROW).cast(pl.Int64),
            USER,
            MOMENT,
            pl.lit(True).alias(EVENT),
            pl.exclude(ROW, USER, MOMENT),
            part.alias(PART),
        )
        if first is not None:
            rows = rows.filter(pl.col(MOMENT) < first)
        for (part,), frame in rows.partition_by(PART, as_dict=True).items():
            path = folder / EARLIER / name / f"{PART}={part}" / "0.parquet"
            path.parent.mkdir(parents=True)
            frame.drop(PART).write_parquet(path)
