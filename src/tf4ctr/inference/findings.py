"""What a run does not know of the rows that it scores: unknown values, missing numbers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from tf4ctr.data.encoding import RowEncoder, given_rows
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import IDS, SEQUENCES

EXAMPLES = 2  # values of each side that a warning shows: enough to see a difference in form
SHOWN_CHARACTERS = 40  # of such a value


class AllUnknown(NamedTuple):
    """A field whose values are all out of vocabulary.

    Attributes:
        field: its name.
        values: examples of the input's values.
        known: examples of the vocabulary's values.
    """

    field: str
    values: list[str]
    known: list[str]


class AllMissing(NamedTuple):
    """A number that is missing in all rows.

    Attributes:
        field: its name.
        column: its raw column.
        values: examples of the input's values, none of which is a number.
    """

    field: str
    column: str
    values: list[str]


class EmptyHistory(NamedTuple):
    """A history that is empty in all rows where it is joined by the user.

    Attributes:
        history: its name.
        column: the raw column of users.
        users: examples of the input's users.
        known: examples of users who have a history.
    """

    history: str
    column: str
    users: list[str]
    known: list[str]


class UnknownTimes(NamedTuple):
    """A field of times that are all unknown.

    Attributes:
        field: its name.
        column: the raw column of moments.
    """

    field: str
    column: str


class Findings(NamedTuple):
    """What a run does not know of the rows.

    Attributes:
        out_of_vocabulary: share of unknown values of each column of ids, and of each sequence.
        all_unknown: the fields without one known value, although at least one row has a value.
        missing: share of missing values of each number.
        all_missing: the numbers without one value.
        empty_histories: the histories without one value in the rows where they are joined.
        unknown_times: the times of histories that are all unknown.
    """

    out_of_vocabulary: Mapping[str, float]
    all_unknown: Sequence[AllUnknown] = ()
    missing: Mapping[str, float] = MappingProxyType({})
    all_missing: Sequence[AllMissing] = ()
    empty_histories: Sequence[EmptyHistory] = ()
    unknown_times: Sequence[UnknownTimes] = ()


class FindingsCounter:
    """Counts the unknown values and missing numbers of a run, frame by frame.

    Args:
        encoder: of the run.
    """

    def __init__(self, encoder: RowEncoder) -> None:
        self.encoder, self.schema = encoder, encoder.schema
        self.fields = {field.name: field for field in encoder.fields}
        self.rows = 0
        self.counts = np.zeros((2, len(encoder.counted)), np.int64)  # unknown values, all values
        self.missing_N = np.zeros(len(self.schema.number_columns), np.int64)
        # the fields without a known value so far, with examples of their values; every text is
        # known to a hashed field
        self._unmatched: dict[str, list[str]] = {
            field.name: [] for field in self.schema.fields if field.columns and not field.hashed and not field.gaps
        }
        # the histories that were empty so far wherever they were joined, with examples of users
        self._empty: dict[str, list[str]] = {state.leader.name: [] for state in encoder.histories}

    def add(self, rows: pl.DataFrame, ids_NW: NDArray[np.int32], numbers_NM: NDArray[np.float32] | None) -> None:
        """Count a frame.

        Args:
            rows: its values as preparation has them.
            ids_NW: their ids.
            numbers_NM: their scaled numbers, NaN where missing; None for a dataset without numbers.
        """
        self.rows += len(rows)
        self.counts += self.encoder.count(ids_NW)
        if numbers_NM is not None:
            self.missing_N += np.isnan(numbers_NM).sum(0)
        self._match(rows, ids_NW, numbers_NM)
        self._match_users(rows, ids_NW)

    def findings(self) -> Findings:
        """The findings in all frames."""
        shares = (unknown / max(1, values) for unknown, values in self.counts.T.tolist())
        missing = {
            field.name: int(self.missing_N[self.schema.numbers_of(field.name).start]) / max(1, self.rows)
            for field in self.schema.fields
            if field.kind not in (IDS, SEQUENCES) and field.columns
        }
        return Findings(
            dict(zip(self.encoder.counted, shares, strict=True)),
            [
                AllUnknown(name, values, self._known_values(name))
                for name, values in self._unmatched.items()
                if values and name not in missing
            ],
            missing,
            [
                AllMissing(name, self.fields[name].raw, values)
                for name, values in self._unmatched.items()
                if self.rows and name in missing
            ],
            self._empty_histories(),
            self._unknown_times(),
        )

    def _match(self, rows: pl.DataFrame, ids_NW: NDArray[np.int32], numbers_NM: NDArray[np.float32] | None) -> None:
        """Remove the fields with a known value from `_unmatched`: mostly all in the first frame."""
        for name, examples in list(self._unmatched.items()):
            field = self.fields[name]
            if field.has_ids:
                ids = ids_NW[:, self.schema.ids_of(name)]
                if field.from_log:  # the joined values are those of the log
                    ids = ids[given_rows(field, rows)]
                known = (ids != self.schema.unknown_of(name)) & (ids != self.schema.offset_of(name))
            else:
                assert numbers_NM is not None
                known = ~np.isnan(numbers_NM[:, self.schema.numbers_of(name)])
            if known.any():
                del self._unmatched[name]
            elif len(examples) < EXAMPLES:
                values = [*examples, *self._examples(field, rows)]
                self._unmatched[name] = list(dict.fromkeys(values))[:EXAMPLES]

    def _match_users(self, rows: pl.DataFrame, ids_NW: NDArray[np.int32]) -> None:
        """Remove the histories from `_empty` that were joined to a row and are not empty in it."""
        for leader in (state.leader for state in self.encoder.histories):
            examples = self._empty.get(leader.name)
            if examples is None or leader.by not in rows.columns:
                continue
            joined_N = ~given_rows(leader, rows)
            first_N = ids_NW[joined_N, self.schema.ids_of(leader.name).start]
            if (first_N != self.schema.offset_of(leader.name)).any():
                del self._empty[leader.name]
            elif len(examples) < EXAMPLES:
                users = rows.filter(joined_N)[str(leader.by)].drop_nulls().unique(maintain_order=True)
                self._empty[leader.name] = list(dict.fromkeys([*examples, *users.head(EXAMPLES)]))[:EXAMPLES]

    def _examples(self, field: FieldSpec, rows: pl.DataFrame) -> list[str]:
        """Some values of a field; for a number, of its raw column."""
        if field.raw not in rows.columns:
            return []
        if not field.has_ids:
            return [str(value) for value in rows[field.raw].drop_nulls().head(EXAMPLES)]
        values = rows.select(field.value(rows.schema[field.raw])).to_series()
        values = (values.explode() if field.width > 1 else values).drop_nulls()
        return values.unique(maintain_order=True).head(EXAMPLES).to_list()

    def _empty_histories(self) -> list[EmptyHistory]:
        return [
            EmptyHistory(state.leader.name, str(state.leader.by), users, state.users.head(EXAMPLES).to_list())
            for state in self.encoder.histories
            if (users := self._empty.get(state.leader.name))
        ]

    def _unknown_times(self) -> list[UnknownTimes]:
        counts = dict(zip(self.encoder.counted, self.counts.T.tolist(), strict=True))
        fields = [field for field in self.encoder.fields if field.gaps]
        return [UnknownTimes(field.name, str(field.order)) for field in fields if _all(*counts[field.name])]

    def _known_values(self, name: str) -> list[str]:
        """Some values of a field's vocabulary."""
        return self.encoder.values[self.schema[name].of or name].head(EXAMPLES).to_list()


def _all(unknown: int, values: int) -> bool:
    return 0 < values == unknown


def shared_findings(findings: Sequence[Findings]) -> list[tuple[str, Findings]]:
    """Each different findings once, after the names of the runs that have them.

    There are no names if all runs have the same ones: those of runs with one vocabulary.
    """
    distinct: list[tuple[list[str], Findings]] = []
    for number, own in enumerate(findings, start=1):
        names = next((names for names, known in distinct if known == own), None)
        if names is None:
            distinct.append((names := [], own))
        names.append(f"run_{number}")
    if len(distinct) == 1:
        return [("", findings[0])]
    return [(", ".join(names), own) for names, own in distinct]


def unknown_table(findings: Findings, title: str = "") -> Table:
    """The shares of unknown values (of columns of ids, of sequences) and of missing numbers.

    The largest are first.
    """
    table = Table(title=title or None, title_justify="left")
    table.add_column("field")
    table.add_column("out of vocabulary", justify="right")
    if findings.missing:
        table.add_column("missing", justify="right")
    for name, share in _largest_first(findings.out_of_vocabulary):
        table.add_row(name, f"{share:.2%}")
    for name, share in _largest_first(findings.missing):
        table.add_row(name, "", f"{share:.2%}")
    return table


def _largest_first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def unknown_warnings(findings: Findings) -> list[str]:
    """A warning for each field whose values are all out of vocabulary, or all missing.

    Also for each history that is empty in all rows, and for times that are all unknown.
    """

    def shown(values: list[str]) -> str:
        return ", ".join(repr(value[:SHOWN_CHARACTERS]) for value in values) or "no values"

    unknown = [
        f"field '{field}': all its values are out of vocabulary. The input has {shown(values)}; the vocabulary has"
        f" {shown(known)}. Check that both write the values in the same form"
        for field, values, known in findings.all_unknown
    ]
    missing = [
        f"field '{field}': it is missing in all rows. The input has {shown(values)} in column '{column}'. Check that"
        " the column is the right one, and that its values are numbers"
        for field, column, values in findings.all_missing
    ]
    empty = [
        f"history '{history}': it is empty in all rows that have a user. The input has {shown(users)} in column"
        f" '{column}'; histories are kept of {shown(known)}. Check that both write the users in the same form, and that"
        " the rows are not before all events"
        for history, column, users, known in findings.empty_histories
    ]
    times = [
        f"field '{field}': all its times are unknown, and training has seen few of these or none. Give the rows their"
        f" moments in column '{column}', or times in column '{field}'"
        for field, column in findings.unknown_times
    ]
    return unknown + missing + empty + times
