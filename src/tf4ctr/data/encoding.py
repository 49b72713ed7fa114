"""Raw rows -> ids, as preparation creates them. Prediction, export and serving share it.

Needs no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data import vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.passes import encode_field
from tf4ctr.data.readers import as_text
from tf4ctr.data.schema import IDS, Field, Schema
from tf4ctr.errors import InputError

FRACTION = ".0"  # the end of a whole number that was written as a float
NUMBER = r"^-?\d+(\.\d+)?$"


def value_names(field: Field, folder: Path) -> pl.Series:
    """Names of a field's table rows: `(none)`, the known values, `(out of vocabulary)`."""
    if field.hashed:
        known = pl.select(pl.format("(hash {})", pl.int_range(1, field.vocabulary_size - 1))).to_series()
    else:
        known = vocabulary.load(field.of or field.name, folder).cast(pl.String)
    return pl.concat([pl.Series(["(none)"]), known, pl.Series(["(out of vocabulary)"])])


class RowEncoder:
    """Encodes raw rows with a vocabulary folder.

    Unknown and missing values become their field's last table row.

    Fields whose known values are all numbers take 3 and 3.0 as the same value, whatever wrote them.

    Attributes:
        columns: raw columns that the fields are made of.
        unknown_W: the id that means out of vocabulary, for each column of ids.
        values: the known values of each field, in table order.

    Args:
        schema: of the network.
        fields: how each of its fields is made of raw columns.
        folder: `vocabulary/`, with FIELD.parquet for each field.

    Raises:
        InputError: the vocabulary is missing, or has another size than the schema's.
    """

    def __init__(self, schema: Schema, fields: Sequence[FieldSpec], folder: Path) -> None:
        self.schema, self.fields = schema, tuple(fields)
        owners = [field for field in schema.id_fields if field.of is None and not field.hashed]
        self.values = {field.name: _load(field.name, field.vocabulary_size, folder) for field in owners}
        self.columns = list(dict.fromkeys(field.raw for field in fields if field.file is None))
        self.unknown_W = np.concatenate(
            [np.repeat(schema.unknown_of(field.name), field.width) for field in schema.id_fields]
        )
        self._known = {name: _as_numbers(values) for name, values in self.values.items()}
        self._expressions: dict[tuple[str, ...], list[pl.Expr]] = {}

    def ids(self, rows: pl.DataFrame) -> NDArray[np.int32]:
        """Columns of text or lists of texts, `columns` among them -> ids [N, W].

        Raises:
            InputError: a list where a field takes one value, or the reverse.
        """
        ids = self._encoded(rows, [field for field in self.fields if field.kind == IDS])
        return ids.select(self.schema.columns).to_numpy(order="c", writable=True)

    def numbers(self, rows: pl.DataFrame) -> NDArray[np.float32]:
        """The same for the numbers -> scaled numbers [N, numbers], NaN where missing."""
        numbers = self._encoded(rows, [field for field in self.fields if field.kind != IDS and field.file is None])
        return numbers.select(self.schema.number_columns).to_numpy(order="c", writable=True)

    def _encoded(self, rows: pl.DataFrame, fields: Sequence[FieldSpec]) -> pl.DataFrame:
        dtypes = {field.raw: rows.schema[field.raw] for field in fields}
        key = (*(field.name for field in fields[:1]), *map(str, dtypes.values()))
        if key not in self._expressions:
            self._expressions[key] = [column for field in fields for column in self._encode(field, dtypes[field.raw])]
        return rows.select(self._expressions[key])

    def _encode(self, field: FieldSpec, dtype: pl.DataType) -> list[pl.Expr]:
        numbers = self._known.get(field.of or field.name)
        if field.kind != IDS or numbers is None:
            return encode_field(field, self.schema, self.values, dtype)
        value, encoded = field.value(dtype), self.schema[field.name]
        stripped = pl.element().str.strip_suffix(FRACTION)
        value = value.str.strip_suffix(FRACTION) if encoded.width == 1 else value.list.eval(stripped)
        return vocabulary.encode(encoded, value, numbers, self.schema.offset_of(field.name))

    def fault(self, dtypes: Mapping[str, pl.DataType] | None = None) -> pl.Expr:
        """The first invalid value of a row and what is expected instead; null for a valid row.

        A value is invalid if its field's transform does not accept it.
        """
        reasons = []
        for field in self.fields:
            dtype = (dtypes or {}).get(field.raw)
            if field.file is None and (bad := field.bad(dtype)) is not None:
                shown = _shown(pl.col(field.raw), dtype)
                reasons.append(
                    pl.when(bad).then(pl.format(f"column '{field.raw}' is '{{}}', expected {field.expected}", shown))
                )
        return pl.coalesce(*reasons, pl.lit(None, pl.String))


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


def _as_numbers(values: pl.Series) -> pl.Series | None:
    """Known values without `.0` at the end, if all are numbers and stay different; else None."""
    if not len(values) or not values.str.contains(NUMBER).all():
        return None
    numbers = values.str.strip_suffix(FRACTION)
    return numbers if numbers.n_unique() == len(numbers) else None
