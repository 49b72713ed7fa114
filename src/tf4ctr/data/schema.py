"""What the columns of a prepared dataset mean: the one contract between preparation, stream, network and prediction."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from tf4ctr.errors import InputError


@dataclass(frozen=True)
class Field:
    """A categorical column. Its rows in the table: 0 padding, 1..n the known values, n + 1 out of vocabulary.

    A list field has up to `width` values a row, in so many columns of `ids`, the unused ones at padding.
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

    All fields share one table of `num_ids` rows; field f owns the rows from `offsets[f]` on, and `ids` are already offset into it.
    """

    dataset: str
    fields: tuple[Field, ...]
    label: str
    group: str | None = None

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each field (the padding row), [F]."""
        return (0, *accumulate(field.vocabulary_size for field in self.fields))[:-1]

    @property
    def num_fields(self) -> int:
        """F"""
        return len(self.fields)

    @property
    def columns(self) -> list[str]:
        """Columns of the prepared parquet, in the order of `ids`, [W]."""
        return [column for field in self.fields for column in field.columns]

    @property
    def num_ids(self) -> int:
        """Rows of the one table: the sum of the vocabulary sizes."""
        return sum(field.vocabulary_size for field in self.fields)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Schema":
        return cls(**{**data, "fields": tuple(Field(**field) for field in data["fields"])})

    def save(self, folder: Path) -> None:
        (folder / "schema.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Schema":
        """Read `folder/schema.json`.

        Raises:
            InputError: the folder holds no prepared dataset.
        """
        path = folder / "schema.json"
        if not path.exists():
            raise InputError(f"{folder} holds no prepared dataset (no schema.json): run python src/prepare.py first")
        return cls.from_dict(json.loads(path.read_text()))
