"""What a run knows, and how a dataset that is prepared for its weights grows from it.

A dataset that grows keeps the run's known values and adds its own; it scales numbers as the run
does. So each weight of the run keeps its meaning.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data import vocabulary
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError


@dataclass(frozen=True)
class Base:
    """What a run knows of its data.

    Attributes:
        folder: of the run, with `vocabulary/`, and `histories/` if it has histories of the log.
        schema: of the run's network.
    """

    folder: Path
    schema: Schema

    @cached_property
    def values(self) -> dict[str, pl.Series]:
        """The known values of each field that has a vocabulary of its own.

        Raises:
            InputError: a vocabulary is missing, or has another size than the schema's.
        """
        values = {}
        for field in owners(self.schema):
            if field.hashed or field.gaps:
                continue
            path = self.folder / "vocabulary" / f"{field.name}.parquet"
            known = vocabulary.load(field.name, path.parent) if path.exists() else None
            if known is None or vocabulary.size(known) != field.vocabulary_size:
                found = "is missing" if known is None else f"has {len(known):,} values"
                raise InputError(
                    f"{path} {found}, and the run's table has rows for {field.vocabulary_size - 2:,}: without the"
                    " run's vocabulary its rows have no meaning"
                )
            values[field.name] = known
        return values

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a prepared dataset takes from the run."""
        digest = hashlib.blake2b(json.dumps(self.schema.to_dict()).encode(), digest_size=16)
        for folder in ("vocabulary", "histories"):
            for path in sorted((self.folder / folder).glob("*.parquet")):
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest()


def owners(schema: Schema) -> list[Field]:
    """The fields that own rows of the table, in the order of their rows."""
    return [field for field in schema.id_fields if field.of is None]


def kept_rows(base: Base, schema: Schema, values: Mapping[str, pl.Series]) -> dict[str, NDArray[np.int64]]:
    """For each field that owns rows: the run's row of each of its rows, both counted from 0; or -1.

    The run does not know the value of a row with -1. Padding, out of vocabulary, the rows of a
    hashed field and those of times are the same in both.

    Args:
        base: the run.
        schema: of the new dataset, with the same fields.
        values: its known values, of each field that has a vocabulary of its own.
    """
    rows = {}
    for field in owners(schema):
        last = base.schema[field.name].vocabulary_size - 1
        if field.name in base.values:
            known = values[field.name].cast(pl.Enum(base.values[field.name]), strict=False).to_physical()
            middle = (known.cast(pl.Int64) + 1).fill_null(-1).to_numpy()
        else:
            middle = np.arange(1, last)
        rows[field.name] = np.concatenate([[0], middle, [last]]).astype(np.int64)
    return rows
