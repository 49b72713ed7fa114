"""Raw rows -> ids, as preparation makes them: what prediction, export and serving share. Needs no torch."""

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


def value_names(field: str, folder: Path) -> pl.Series:
    """What a person reads for each table row of a field: `(none)` for padding, the known values, `(out of vocabulary)`."""
    return pl.concat(
        [pl.Series(["(none)"]), vocabulary.load(field, folder).cast(pl.String), pl.Series(["(out of vocabulary)"])]
    )


class RowEncoder:
    """Encodes raw rows of text with a vocabulary folder; unknown and missing values become their field's last table row.

    Attributes:
        columns: raw columns that the fields are made of.
        unknown_W: the id that says out of vocabulary, for each column of ids.
        values: the known values of each field, in table order.

    Args:
        schema: of the network.
        fields: how each of its fields is made of raw columns.
        folder: `vocabulary/`, with FIELD.parquet for each field.

    Raises:
        InputError: the vocabulary is not there, or of another size than the schema's.
    """

    def __init__(self, schema: Schema, fields: Sequence[FieldSpec], folder: Path) -> None:
        for field in schema.fields:
            if not (folder / f"{field.name}.parquet").exists():
                raise InputError(
                    f"{folder / field.name}.parquet is missing: without the vocabulary no raw value has an id. Train again"
                )
        self.values = {field.name: vocabulary.load(field.name, folder) for field in schema.fields}
        for field in schema.fields:
            if vocabulary.size(found := self.values[field.name]) != field.vocabulary_size:
                raise InputError(
                    f"{folder / field.name}.parquet has {len(found)} values, the network {field.vocabulary_size - 2}"
                )
        self.fields = tuple(fields)
        self.columns = list(dict.fromkeys(field.raw for field in fields))
        ends = [offset + field.vocabulary_size - 1 for field, offset in zip(schema.fields, schema.offsets, strict=True)]
        self.unknown_W = np.repeat(ends, [field.width for field in schema.fields])
        self._ids = [
            column
            for field, made, offset in zip(schema.fields, fields, schema.offsets, strict=True)
            for column in vocabulary.encode(field, made.value(), self.values[field.name], offset)
        ]

    def ids(self, rows: pl.DataFrame) -> NDArray[np.int32]:
        """Text columns, `columns` among them -> ids [N, W]."""
        return rows.select(self._ids).to_numpy(order="c", writable=True)

    def fault(self) -> pl.Expr:
        """What a row's first value is that its field's transform cannot take and what was expected; null for a good row."""
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
