"""Sequences of ids, each of its own length -> as many columns as the sequence is wide.

Columns instead of a list per row: a stream reads them three times as fast (docs/benchmarks.md).
Needs no torch.
"""

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data.schema import Field, Schema


def columns_of(
    ids: NDArray[np.int32], starts_N: NDArray[np.int64], lengths_N: NDArray[np.integer], width: int, padding: int
) -> list[NDArray[np.int32]]:
    """Pieces of one array -> `width` columns [N], filled with padding after each piece's end.

    Args:
        ids: all pieces, one after the other.
        starts_N: where the piece of each row starts.
        lengths_N: its length, at most `width`.
        width: number of columns.
        padding: the id that means no value.
    """
    return filled(lambda rows, places: ids[places], starts_N, lengths_N, width, padding)


def filled(
    ids_of: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int32]],
    starts_N: NDArray[np.int64],
    lengths_N: NDArray[np.integer],
    width: int,
    padding: int,
) -> list[NDArray[np.int32]]:
    """As `columns_of`, of ids that may depend on the row, too.

    Args:
        ids_of: rows, and the place of a value for each -> ids.
        starts_N, lengths_N, width, padding: see `columns_of`.
    """
    columns = []
    for place in range(width):
        column = np.full(len(starts_N), padding, np.int32)
        rows = np.flatnonzero(lengths_N > place)
        column[rows] = ids_of(rows, starts_N[rows] + place)
        columns.append(column)
    return columns


def spread(frame: pl.DataFrame, fields: Iterable[Field], schema: Schema) -> pl.DataFrame:
    """Replace the columns of sequences, lists of ids, by the columns of the prepared rows.

    Args:
        frame: has a column of lists for each of `fields`, beside any others.
        fields: the sequences.
        schema: of the dataset.
    """
    for field in fields:
        ids, starts_N, lengths_N = pieces(frame[field.name])
        columns = columns_of(ids, starts_N, lengths_N, field.width, schema.offset_of(field.name))
        frame = frame.drop(field.name).with_columns(
            pl.Series(name, column) for name, column in zip(field.columns, columns, strict=True)
        )
    return frame


def pieces(lists: pl.Series) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists of ids -> all ids, and where each row's begin and how many they are.

    A missing list is an empty one.
    """
    lengths_N = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    ids = lists.drop_nulls().explode(empty_as_null=False, keep_nulls=False).cast(pl.Int32).to_numpy()
    return ids, np.cumsum(lengths_N) - lengths_N, lengths_N
