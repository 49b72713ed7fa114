"""The last events of each user, which preparation keeps: histories for rows to predict.

Needs no torch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data import vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.histories import MOMENT, USER, history_columns
from tf4ctr.data.schema import Schema
from tf4ctr.data.transforms import moment
from tf4ctr.errors import InputError

FOLDER = "histories"  # in a prepared dataset, in a run's folder, in an export


def path_of(name: str, folder: Path) -> Path:
    """The file of a history in the folder of a prepared dataset, a run or an export."""
    return folder / FOLDER / f"{name}.parquet"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))


class HistoryState:
    """Joins the history of a user to rows that have none of their own.

    A row with a moment gets the events before it, a row without one gets all of them. The state has
    the last `width` events of each user: a row from the middle of the log gets those among them
    that are before it, which can be fewer than there were.

    Args:
        leader: the history.
        fields: all fields; those aligned with the history are joined with it.
        schema: of the network.
        folder: of the run or of the export.

    Raises:
        InputError: the state is missing.
    """

    def __init__(self, leader: FieldSpec, fields: Sequence[FieldSpec], schema: Schema, folder: Path) -> None:
        path = path_of(leader.name, folder)
        if not path.exists():
            raise InputError(f"{path} is missing: it has the histories of users. Train again, or export again")
        self.leader, self.schema = leader, schema
        self.members = leader.members(fields)
        state = pl.read_parquet(path)
        numbers = vocabulary.as_numbers(state[USER])
        self._as_numbers = numbers is not None
        users = state[USER] if numbers is None else numbers
        order = users.arg_sort().to_numpy()
        self.users = users[order]  # sorted, to be searched: a join would read all of them for each request
        self.moments = state[MOMENT].explode(empty_as_null=False).to_numpy()
        self.ids = {
            field.name: state[field.name].explode(empty_as_null=False).to_numpy()
            for field in self.members
            if not field.gaps
        }
        lengths = state[MOMENT].list.len().cast(pl.Int64).to_numpy()
        ends = np.cumsum(lengths)
        self._starts, self._ends = (ends - lengths)[order], ends[order]

    def is_given(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns have histories of their own.

        Raises:
            InputError: they have a part of a history only, or neither a history nor the user.
        """
        needed = [field.raw for field in self.members if not field.gaps]
        missing = [name for name in needed if name not in columns]
        if own := [field.raw for field in self.members if field.raw in columns]:
            if missing:
                raise InputError(
                    f"the rows have column '{own[0]}' of the history '{self.leader.name}', but not {_names(missing)}:"
                    f" give {_names(needed)}, or none of them"
                )
        elif self.leader.by not in columns:
            raise InputError(
                f"the history '{self.leader.name}' needs column '{self.leader.by}', whose history is kept, or the"
                f" history itself in column {_names(needed)}"
            )
        return bool(own)

    def columns(self, rows: pl.DataFrame) -> list[NDArray[np.int32]]:
        """The columns of the history and of those aligned with it, for rows with a user.

        Args:
            rows: texts of users in column `leader.by`; moments in `leader.order`, null where a row
                has none. The column may be absent.
        """
        starts_N, ends_N = self._pieces(rows)
        moments_N = self._moments(rows)
        lengths_N = self._before(starts_N, ends_N, moments_N)
        history = [self.schema[field.name] for field in self.members]
        return history_columns(
            history, self.schema, self.ids.__getitem__, lambda: (self.moments, moments_N), starts_N, lengths_N
        )

    def _pieces(self, rows: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the events of each row's user start and end; nothing for an unknown user."""
        user = rows[str(self.leader.by)]
        user = user.str.strip_suffix(vocabulary.FRACTION) if self._as_numbers else user
        starts_N, ends_N = np.zeros((2, len(rows)), np.int64)
        if len(self.users):
            places_N = self.users.search_sorted(user).to_numpy().clip(max=len(self.users) - 1)
            known_N = (self.users[places_N] == user).fill_null(False).to_numpy()
            starts_N[known_N], ends_N[known_N] = self._starts[places_N[known_N]], self._ends[places_N[known_N]]
        return starts_N, ends_N

    def _moments(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """The moment of each row, NaN where it has none."""
        if self.leader.order not in rows.columns:
            return np.full(len(rows), np.nan)
        moments = rows.select(moment(pl.col(str(self.leader.order)))).to_series()
        return moments.fill_null(np.nan).to_numpy()

    def _before(
        self, starts_N: NDArray[np.int64], ends_N: NDArray[np.int64], moments_N: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """How many events of each row's user are before its moment; all if it has none."""
        lengths_N = np.zeros(len(starts_N), np.int64)
        for place in range(self.leader.width):
            inside = np.flatnonzero(starts_N + place < ends_N)
            later = self.moments[starts_N[inside] + place] >= moments_N[inside]  # false for NaN
            lengths_N[inside[~later]] += 1
        return lengths_N
