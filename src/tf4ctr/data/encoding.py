"""Raw rows -> ids, as preparation creates them. Prediction, export and serving share it.

Needs no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data import history_state, vocabulary
from tf4ctr.data.faults import EXPECTED_MOMENT, bad_moment, misaligned_sequences
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.histories import gap_ids
from tf4ctr.data.history_state import HistoryState
from tf4ctr.data.passes import encode_field
from tf4ctr.data.readers import as_text
from tf4ctr.data.schema import GAP_BUCKETS, SEQUENCES, Field, Schema
from tf4ctr.data.sequences import spread
from tf4ctr.data.transforms import finite
from tf4ctr.errors import InputError
from tf4ctr.files import link_files


def value_names(field: Field, folder: Path) -> pl.Series:
    """Names of a field's table rows: `(none)`, the known values, `(out of vocabulary)`."""
    if field.gaps:
        known = pl.Series([f"below {2 ** (bucket + 1) - 1}" for bucket in range(GAP_BUCKETS)])
    elif field.hashed:
        known = pl.select(pl.format("(hash {})", pl.int_range(1, field.vocabulary_size - 1))).to_series()
    else:
        known = vocabulary.load(field.of or field.name, folder).cast(pl.String)
    return pl.concat([pl.Series(["(none)"]), known, pl.Series(["(out of vocabulary)"])])


class RowEncoder:
    """Encodes raw rows with a vocabulary folder.

    Unknown and missing values become their field's last table row.

    Fields whose known values are all numbers take 3 and 3.0 as the same value, see
    `vocabulary.places`; so do the users of histories.

    A history of the log is taken from the column of its name, a list or one text, where a row has
    one. Otherwise it is joined by the user, from what preparation has kept. A list without values
    is an empty history, null is none. The values are those of the history's field, after its
    transform.

    Attributes:
        columns: raw columns that the fields are made of.
        optional: columns that rows may have for the histories of the log: the user, the moment, and
            the histories themselves.
        unknown_W: the id that means out of vocabulary, for each column of ids.
        values: the known values of each field, in table order.
        counted: what `count` counts: the columns of categorical fields, and the sequences.

    Args:
        schema: of the network.
        fields: how each of its fields is made of raw columns.
        folder: `vocabulary/`, with FIELD.parquet for each field. Beside it is `histories/`, if the
            dataset has histories of its log.

    Raises:
        InputError: the vocabulary is missing, or has another size than the schema's; the histories
            are missing.
    """

    def __init__(self, schema: Schema, fields: Sequence[FieldSpec], folder: Path) -> None:
        self.schema, self.fields = schema, tuple(fields)
        owners = [field for field in schema.id_fields if field.of is None and not field.hashed and not field.gaps]
        self.values = {field.name: _load(field.name, field.vocabulary_size, folder) for field in owners}
        self.columns = list(dict.fromkeys(field.raw for field in fields if field.in_rows))
        self.histories = [HistoryState(field, fields, schema, folder.parent) for field in fields if field.leads_log]
        self.optional = [name for name in dict.fromkeys(self._of_histories()) if name not in self.columns]
        self.unknown_W = np.concatenate(
            [np.repeat(schema.unknown_of(field.name), field.width) for field in schema.id_fields]
        )
        self._prepare_counts()
        self._expressions: dict[tuple[str, ...], list[pl.Expr]] = {}

    def _prepare_counts(self) -> None:
        self.counted: list[str] = []
        widths, paddings = [], []
        for field in self.schema.id_fields:
            is_sequence = field.kind == SEQUENCES
            self.counted += [field.name] if is_sequence else field.columns
            widths += [field.width] if is_sequence else [1] * field.width
            paddings += [self.schema.offset_of(field.name) if is_sequence else -1] * field.width
        self._first_C, self._padding_W = np.cumsum([0, *widths[:-1]]), np.array(paddings)

    def _of_histories(self) -> Iterator[str]:
        for state in self.histories:
            yield from (str(state.leader.by), str(state.leader.order))
            yield from (field.raw for field in state.members)

    def check(self, dtypes: Mapping[str, pl.DataType]) -> None:
        """Check the columns of rows before any row is encoded.

        Args:
            dtypes: of `columns`, and of those of `optional` that the rows have.

        Raises:
            InputError: a list where one value is needed, or the reverse; a part of a history, or a
                history that is neither given nor can be joined.
        """
        for field in self.fields:
            if (field.in_rows or field.from_log) and field.raw in dtypes:
                field.value(dtypes[field.raw])
        for state in self.histories:
            state.is_given(dtypes)
            for name in (str(state.leader.by), str(state.leader.order)):
                if isinstance(dtypes.get(name), pl.List):
                    raise InputError(
                        f"the history '{state.leader.name}': its column '{name}' is a list, expected one value per row"
                    )

    def ids(self, rows: pl.DataFrame) -> NDArray[np.int32]:
        """Columns of text or lists of texts -> ids [N, W].

        Args:
            rows: has all of `columns`, and those of `optional` that the input has.

        Raises:
            InputError: see `check`.
        """
        ids = self._encoded(rows, [field for field in self.fields if field.has_ids and field.in_rows])
        for state in self.histories:
            ids = ids.with_columns(self._history(state, rows))
        return ids.select(self.schema.columns).to_numpy(order="c", writable=True)

    def count(self, ids_NW: NDArray[np.int32]) -> NDArray[np.int64]:
        """Unknown values and all values of each of `counted`, [2, C].

        A categorical column has a value in each row, a sequence has those of all rows.
        """
        unknown_W, values_W = (ids_NW == self.unknown_W).sum(0), (ids_NW != self._padding_W).sum(0)
        return np.add.reduceat(np.stack([unknown_W, values_W]), self._first_C, axis=1)

    def numbers(self, rows: pl.DataFrame) -> NDArray[np.float32]:
        """The same for the numbers -> scaled numbers [N, numbers], NaN where missing."""
        numbers = self._encoded(rows, [field for field in self.fields if not field.has_ids and field.in_rows])
        return numbers.select(self.schema.number_columns).to_numpy(order="c", writable=True)

    def _history(self, state: HistoryState, rows: pl.DataFrame) -> list[pl.Series]:
        """The columns of a history of the log and of those aligned with it."""
        names = [column for field in state.members for column in self.schema[field.name].columns]
        is_given, joins = state.is_given(rows.columns), state.leader.by in rows.columns
        joined = state.columns(rows) if joins else []
        if not is_given:
            return list(map(pl.Series, names, joined))
        given = self._given(state, rows).select(names)
        if not joins:
            return given.get_columns()
        own_N = given_rows(state.leader, rows)
        return [
            pl.Series(column.name, np.where(own_N, column.to_numpy(), other))
            for column, other in zip(given, joined, strict=True)
        ]

    def _given(self, state: HistoryState, rows: pl.DataFrame) -> pl.DataFrame:
        """The same from the rows' own columns; times that are not given are unknown."""
        absent = [field.raw for field in state.members if field.raw not in rows.columns]
        rows = rows.with_columns(pl.lit(None, pl.List(pl.String)).alias(name) for name in absent)
        frame, leader = self._encoded(rows, state.members), self.schema[state.leader.name]
        for field in state.members:
            if field.gaps:
                unknown = pl.lit(self.schema.unknown_of(field.name), pl.Int32)
                has_none = pl.lit(rows[field.raw].is_null())
                frame = frame.with_columns(
                    pl.when(has_none & (pl.col(value) != self.schema.offset_of(leader.name)))
                    .then(unknown)
                    .otherwise(column)
                    .alias(column)
                    for value, column in zip(leader.columns, self.schema[field.name].columns, strict=True)
                )
        return frame

    def _encoded(self, rows: pl.DataFrame, fields: Sequence[FieldSpec]) -> pl.DataFrame:
        dtypes = {field.raw: rows.schema[field.raw] for field in fields}
        key = (*(field.name for field in fields), *map(str, dtypes.values()))
        if key not in self._expressions:
            self._expressions[key] = [column for field in fields for column in self._encode(field, dtypes[field.raw])]
        sequences = [self.schema[field.name] for field in fields if field.kind == SEQUENCES]
        return spread(rows.select(self._expressions[key]), sequences, self.schema)

    def _encode(self, field: FieldSpec, dtype: pl.DataType) -> list[pl.Expr]:
        if field.gaps:
            return [gap_ids(field, self.schema.offset_of(field.name), dtype)]
        return encode_field(field, self.schema, self.values, dtype)

    def fault(self, dtypes: Mapping[str, pl.DataType] | None = None) -> pl.Expr:
        """The first invalid value of a row and what is expected instead; null for a valid row.

        A value is invalid if its field's transform does not accept it, a moment if it is neither a
        number nor a date. So is a row whose aligned sequences have different lengths.
        """
        reasons: list[pl.Expr] = []
        for order in dict.fromkeys(str(state.leader.order) for state in self.histories):
            if order in (dtypes or {}):
                shown = pl.format(f"column '{order}' is '{{}}', expected {EXPECTED_MOMENT}", pl.col(order))
                reasons.append(pl.when(bad_moment(order)).then(shown))
        for field in self.fields:
            dtype = (dtypes or {}).get(field.raw)
            if field.in_rows and (bad := field.bad(dtype)) is not None:
                shown = _shown(pl.col(field.raw), dtype)
                reasons.append(
                    pl.when(bad).then(pl.format(f"column '{field.raw}' is '{{}}', expected {field.expected}", shown))
                )
        reasons += self._bad_gaps(dtypes or {})
        return pl.coalesce(*reasons, *self._misaligned(dtypes or {}), pl.lit(None, pl.String))

    def _misaligned(self, dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        """A reason for each row in which two sequences of one history have different lengths."""
        fields = [field for field in self.fields if field.in_rows or (field.from_log and field.raw in dtypes)]
        optional = {field.raw for field in fields if field.gaps}  # without them the times are unknown
        return [
            pl.when(wrong & pl.col(column).is_not_null() if column in optional else wrong).then(
                pl.lit(f"column '{column}' has another number of values than '{leader}', to which it is aligned")
            )
            for column, wrong, leader in misaligned_sequences(fields, dtypes)
        ]

    def _bad_gaps(self, dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        """A reason for each row with a time that is not a number."""
        reasons: list[pl.Expr] = []
        for field in self.fields:
            if field.gaps and field.raw in dtypes:
                gap, dtype = pl.element(), dtypes[field.raw]
                wrong = finite(gap).is_null() & (gap.cast(pl.String) != "").fill_null(False)
                shown = pl.format(f"column '{field.raw}' is '{{}}', expected numbers", _shown(pl.col(field.raw), dtype))
                reasons.append(pl.when(field.value(dtype).list.eval(wrong).list.any()).then(shown))
        return reasons


def given_rows(field: FieldSpec, rows: pl.DataFrame) -> NDArray[np.bool_]:
    """Which rows have a history of the log in a column of their own, [N]."""
    if field.raw not in rows.columns:
        return np.zeros(len(rows), np.bool_)
    return rows[field.raw].is_not_null().to_numpy()


def keep(source: Path, folder: Path) -> None:
    """Put what a `RowEncoder` reads into the folder of a run or of an export.

    Args:
        source: a prepared dataset, or the folder of a run.
        folder: where to put it.
    """
    for name in ("vocabulary", history_state.FOLDER):
        if (source / name).exists():
            link_files(source / name, folder / name)


def _shown(value: pl.Expr, dtype: pl.DataType | None) -> pl.Expr:
    """A raw value as text; a list in brackets."""
    if dtype is None or not dtype.is_nested():
        return value
    texts = as_text(value, dtype).list.eval(pl.element().fill_null("null"))
    return pl.format("[{}]", texts.list.join(", "))


def _load(name: str, size: int, folder: Path) -> pl.Series:
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise InputError(f"{path} is missing: without the vocabulary no raw value has an id. Train again")
    values = vocabulary.load(name, folder)
    if vocabulary.size(values) != size:
        raise InputError(f"{path} has {len(values)} values, the network {size - 2}")
    return values
