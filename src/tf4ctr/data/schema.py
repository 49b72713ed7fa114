"""What the columns of a prepared dataset mean.

The one contract between preparation, stream, network and prediction.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from tf4ctr.errors import InputError
from tf4ctr.files import write_whole

# columns of the prepared parquet beside the ids
LABEL, GROUP = "__label", "__group"
ROW_GROUP_SIZE = 100_000  # rows per row group of the prepared parquet: what the disk stream shuffles


@dataclass(frozen=True)
class Field:
    """A categorical column.

    Its rows in the table: 0 padding, 1..n the known values, n + 1 out of vocabulary. A list field
    has up to `width` values per row, in as many columns of `ids`; unused ones contain padding.
    """

    name: str
    vocabulary_size: int
    width: int = 1

    @property
    def columns(self) -> list[str]:
        """Columns of the prepared parquet: the field's name, numbered for a list field."""
        return [self.name] if self.width == 1 else [f"{self.name}.{i}" for i in range(self.width)]


@dataclass(frozen=True)
class Schema:
    """The fields of a dataset, in the order of the columns of `ids`.

    All fields share one table of `num_ids` rows. Field f owns the rows from `offsets[f]` on, and
    `ids` already include this offset.
    """

    dataset: str
    fields: tuple[Field, ...]
    label: str
    group: str | None = None

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each field (its padding row), [F]."""
        return (0, *accumulate(field.vocabulary_size for field in self.fields))[:-1]

    @property
    def num_fields(self) -> int:
        """F"""
        return len(self.fields)

    @cached_property
    def columns(self) -> list[str]:
        """Columns of the prepared parquet, in the order of `ids`, [W]."""
        return [column for field in self.fields for column in field.columns]

    @property
    def num_ids(self) -> int:
        """Rows of the one table: the sum of the vocabulary sizes."""
        return sum(field.vocabulary_size for field in self.fields)

    def number_of(self, name: str) -> int:
        """The place of a field among `fields`."""
        return [field.name for field in self.fields].index(name)

    def ids_of(self, name: str) -> slice:
        """The columns of `ids` that belong to a field, a slice of W."""
        number = self.number_of(name)
        first = sum(field.width for field in self.fields[:number])
        return slice(first, first + self.fields[number].width)

    def offset_of(self, name: str) -> int:
        """First table row of a field, its padding row."""
        return self.offsets[self.number_of(name)]

    def unknown_of(self, name: str) -> int:
        """The table row of a field that means out of vocabulary, its last one."""
        number = self.number_of(name)
        return self.offsets[number] + self.fields[number].vocabulary_size - 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Schema":
        return cls(**{**data, "fields": tuple(Field(**field) for field in data["fields"])})

    def save(self, folder: Path) -> None:
        """Write `folder/schema.json`."""
        write_whole(folder / "schema.json", json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Schema":
        """Read `folder/schema.json`.

        Raises:
            InputError: the folder is not a prepared dataset.
        """
        path = folder / "schema.json"
        if not path.exists():
            raise InputError(f"{folder} is not a prepared dataset (no schema.json): run python src/prepare.py first")
        return cls.from_dict(json.loads(path.read_text()))
