"""Raw rows -> ids, as preparation creates them. Prediction, export and serving share it.

Needs no torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data import vocabulary
from tf4ctr.data.faults import bad_value
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import FieldSpec
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

FRACTION = ".0"  # the end of a whole number that was written as a float
NUMBER = r"^-?\d+(\.\d+)?$"


def value_names(field: str, folder: Path) -> pl.Series:
    """Names of a field's table rows: `(none)`, the known values, `(out of vocabulary)`."""
    known = vocabulary.load(field, folder).cast(pl.String)
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
        self.values = {field.name: _load(field.name, field.vocabulary_size, folder) for field in schema.fields}
        self.columns = list(dict.fromkeys(field.raw for field in fields))
        self.unknown_W = np.concatenate(
            [np.repeat(schema.unknown_of(field.name), field.width) for field in schema.fields]
        )
        self._known = {name: _as_numbers(values) for name, values in self.values.items()}
        self._expressions: dict[tuple[bool, ...], list[pl.Expr]] = {}

    def ids(self, rows: pl.DataFrame) -> NDArray[np.int32]:
        """Columns of text or lists of texts, `columns` among them -> ids [N, W].

        Raises:
            InputError: a list where a field takes one value, or the reverse.
        """
        lists = tuple(isinstance(rows.schema[column], pl.List) for column in self.columns)
        if lists not in self._expressions:
            self._expressions[lists] = self._encode(rows.schema)
        return rows.select(self._expressions[lists]).to_numpy(order="c", writable=True)

    def _encode(self, dtypes: pl.Schema) -> list[pl.Expr]:
        columns = []
        for field, encoded in zip(self.fields, self.schema.fields, strict=True):
            value, numbers = field.value(dtypes[field.raw]), self._known[encoded.name]
            if numbers is not None:
                stripped = pl.element().str.strip_suffix(FRACTION)
                value = value.str.strip_suffix(FRACTION) if encoded.width == 1 else value.list.eval(stripped)
            known = self.values[encoded.name] if numbers is None else numbers
            columns += vocabulary.encode(encoded, value, known, self.schema.offset_of(encoded.name))
        return columns

    def fault(self) -> pl.Expr:
        """The first invalid value of a row and what is expected instead; null for a valid row.

        A value is invalid if its field's transform does not accept it.
        """
        faults = [
            pl.when(bad_value(field.raw, field.transform)).then(
                pl.format(
                    f"column '{field.raw}' is '{{}}', expected {TRANSFORMS[field.transform].expected}",
                    pl.col(field.raw),
                )
            )
            for field in self.fields
            if field.transform
        ]
        return pl.coalesce(*faults, pl.lit(None, pl.String))


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
