"""What the columns of a prepared dataset mean.

The one contract between preparation, stream, network and prediction.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf4ctr.errors import InputError
from tf4ctr.files import write_whole

# columns of the prepared parquet beside the ids and numbers
LABEL, GROUP, WEIGHT = "__label", "__group", "__weight"
ROW_GROUP_SIZE = 100_000  # rows per row group of the prepared parquet: what the disk stream shuffles

# the kinds of a field
IDS, SEQUENCES, NUMBERS, VECTORS = "categorical", "sequence", "number", "vector"
GAP_BUCKETS = 64  # of the times in a history: [0, 1), [1, 3), [3, 7), ..., from 2^k - 1 to 2^(k+1) - 1


@dataclass(frozen=True)
class Scaling:
    """How a number is scaled, fitted on the training split: x -> (x - center) / spread.

    Attributes:
        kind: standard, minmax, none; or quantile: x -> its rank among the training values, 0 to 1.
        center, spread: of the formula; 0 and 1 for quantile and none.
        quantiles: the training values at ranks 0, 1/256, ..., 1, before scaling; empty if all are
            missing.
    """

    kind: str
    center: float = 0.0
    spread: float = 1.0
    quantiles: tuple[float, ...] = ()

    def __call__(self, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale numbers, [N]; a missing value (NaN) stays missing."""
        if self.kind != "quantile":
            return (values_N - self.center) / self.spread
        if not self.quantiles:
            return np.where(np.isnan(values_N), np.nan, 0.0)
        points, first = np.unique(self.quantiles, return_index=True)
        last = len(self.quantiles) - 1 - np.unique(self.quantiles[::-1], return_index=True)[1]
        ranks = (first + last) / 2 / max(1, len(self.quantiles) - 1)  # of a value that fills several quantiles
        return np.where(np.isnan(values_N), np.nan, np.interp(values_N, points, ranks))

    @property
    def scaled_quantiles(self) -> list[float]:
        """The quantiles after scaling: what bins are made of."""
        return self(np.array(self.quantiles, dtype=np.float64)).tolist() if self.quantiles else []


@dataclass(frozen=True)
class Field:
    """A field of a dataset.

    A categorical field owns rows of the table: 0 padding, 1..n the known values, n + 1 out of
    vocabulary; or it shares those of the field `of`. A list field has up to `width` values per row,
    in as many columns of `ids`; unused ones contain padding. A sequence is such a list in order:
    the latest value is the last one. Sequences with the same `aligned_with` are one history, whose
    positions belong together; `target` is the field that an attention compares it with. With `gaps`
    its values are times. A number has one column of `numbers`.
    A vector has `width` columns of `numbers`; or it belongs to the values of the field `of`, and
    the network keeps one for each, which is trained unless `frozen`.
    """

    name: str
    vocabulary_size: int
    width: int = 1
    kind: str = IDS
    of: str | None = None
    pooling: str = "sum"
    hashed: bool = False
    scaling: Scaling | None = None
    frozen: bool = True
    aligned_with: str | None = None
    target: str | None = None
    gaps: bool = False

    @property
    def columns(self) -> list[str]:
        """Columns of the prepared parquet: the field's name, numbered for lists and vectors."""
        if self.kind == VECTORS and self.of is not None:
            return []
        return [self.name] if self.width == 1 else [f"{self.name}.{i}" for i in range(self.width)]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Field":
        scaling = data.get("scaling")
        if scaling is not None:
            scaling = Scaling(**{**scaling, "quantiles": tuple(scaling["quantiles"])})
        return cls(**{**data, "scaling": scaling})

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from the defaults, and name, vocabulary size and width."""
        kept = {field.name: field.default for field in fields(self)}
        own = asdict(self)
        return {key: own[key] for key in own if key in ("name", "vocabulary_size", "width") or own[key] != kept[key]}


@dataclass(frozen=True)
class Schema:
    """The fields of a dataset, in the order in which an encoder meets them.

    All categorical fields share one table of `num_ids` rows, and `ids` are rows of this table.
    `digest` tells prepared datasets of one schema apart, see `manifest.digest_of`; it is empty in
    those of older versions. Two schemas are equal without it: a network fits both.
    """

    dataset: str
    fields: tuple[Field, ...]
    label: str
    group: str | None = None
    weight: str | None = None
    digest: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    @property
    def num_fields(self) -> int:
        """F"""
        return len(self.fields)

    @cached_property
    def id_fields(self) -> tuple[Field, ...]:
        """The fields with ids in the order of their columns: categorical ones, then sequences."""
        return (*(field for field in self.fields if field.kind == IDS), *self.sequence_fields)

    @cached_property
    def sequence_fields(self) -> tuple[Field, ...]:
        """The sequences, those of one history one after the other."""
        return tuple(field for history in self.histories for field in history)

    @cached_property
    def histories(self) -> tuple[tuple[Field, ...], ...]:
        """The sequences that belong together, position by position; the leading one is first."""
        fields = [field for field in self.fields if field.kind == SEQUENCES]
        leaders = [field for field in fields if field.aligned_with is None]
        return tuple((leader, *(field for field in fields if field.aligned_with == leader.name)) for leader in leaders)

    @cached_property
    def number_fields(self) -> tuple[Field, ...]:
        """The numbers, in the order of their columns of `numbers`."""
        return tuple(field for field in self.fields if field.kind == NUMBERS)

    @cached_property
    def columns(self) -> list[str]:
        """Columns of the prepared parquet, in the order of `ids`, [W]."""
        return [column for field in self.id_fields for column in field.columns]

    @cached_property
    def number_columns(self) -> list[str]:
        """Columns of the prepared parquet in the order of `numbers`: numbers, then vectors."""
        return [column for field in (*self.number_fields, *self.vector_fields) for column in field.columns]

    @cached_property
    def vector_fields(self) -> tuple[Field, ...]:
        """The vectors, those of rows and those of another field's values."""
        return tuple(field for field in self.fields if field.kind == VECTORS)

    def numbers_of(self, name: str) -> slice:
        """The columns of `numbers` that belong to a number or to a vector of the rows."""
        columns = self[name].columns
        first = self.number_columns.index(columns[0])
        return slice(first, first + len(columns))

    @cached_property
    def _owners(self) -> list[Field]:
        return [field for field in self.id_fields if field.of is None]

    @property
    def num_ids(self) -> int:
        """Rows of the one table: the sum of the vocabulary sizes of the fields that own rows."""
        return sum(field.vocabulary_size for field in self._owners)

    @cached_property
    def paddings(self) -> tuple[int, ...]:
        """The padding rows of the table, one per field that owns rows."""
        return (0, *accumulate(field.vocabulary_size for field in self._owners))[:-1]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each field with ids (its padding row)."""
        return tuple(self.offset_of(field.name) for field in self.id_fields)

    def ids_of(self, name: str) -> slice:
        """The columns of `ids` that belong to a field, a slice of W."""
        number = [field.name for field in self.id_fields].index(name)
        first = sum(field.width for field in self.id_fields[:number])
        return slice(first, first + self.id_fields[number].width)

    def offset_of(self, name: str) -> int:
        """First table row of a field, its padding row."""
        owner = self[name].of or name
        return self.paddings[[field.name for field in self._owners].index(owner)]

    def unknown_of(self, name: str) -> int:
        """The table row of a field that means out of vocabulary, its last one."""
        return self.offset_of(name) + self[name].vocabulary_size - 1

    def has_rows_of(self, other: "Schema") -> bool:
        """Whether two prepared datasets have the same schema and, if both have digests, rows."""
        known = bool(self.digest and other.digest)
        return self == other and (not known or self.digest == other.digest)

    def to_dict(self) -> dict[str, Any]:
        optional = {name: value for name in ("weight", "digest") if (value := getattr(self, name))}
        fields = [field.to_dict() for field in self.fields]
        return {"dataset": self.dataset, "fields": fields, "label": self.label, "group": self.group, **optional}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Schema":
        return cls(**{**data, "fields": tuple(Field.from_dict(field) for field in data["fields"])})

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
            raise InputError(
                f"{folder} is not a prepared dataset (no schema.json): run python src/prepare.py dataset=NAME"
                " first, with the dataset's options"
            )
        return cls.from_dict(json.loads(path.read_text()))
