"""Value <-> table row of a field, fitted on the training split only.

Row 0 is padding, rows 1..n are the known values in sorted order, row n + 1 is out of vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import polars_hash  # noqa: F401, registers the expressions' `nchash`

from tf4ctr.data.schema import SEQUENCES, Field
from tf4ctr.data.transforms import occurrences

# Rows of unmerged counts that are kept before they are merged. Fewer would merge more often, more
# would take more memory.
MERGE_ROWS = 1_000_000
FRACTION = ".0"  # the end of a whole number that was written as a float
NUMBER = r"^-?\d+(\.\d+)?$"


class Counts:
    """The number of occurrences of each value of a text column, over any number of batches.

    Memory grows with the number of values, not with the number of rows.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._merged = pl.DataFrame(schema={name: pl.String, "count": pl.UInt64})
        self._pending: list[pl.DataFrame] = []

    def query(self, value: pl.Expr, are_lists: bool = False) -> pl.Expr:
        """The expression that counts one batch, see `occurrences`; `count` is UInt64.

        Args:
            value: a text or a list of texts.
            are_lists: whether it is a list.
        """
        return occurrences(value.explode() if are_lists else value, pl.UInt64)

    def add(self, counts: pl.DataFrame) -> None:
        """Add one batch: its values, and their `count`."""
        self._pending.append(counts)
        if sum(map(len, self._pending)) > MERGE_ROWS + len(self._merged) // 2:
            self._merge()

    def join(self, other: "Counts") -> None:
        """Add what another process has counted."""
        other._merge()
        self.add(other._merged)  # not `seen`: whether all values are numbers is known at the end

    def _merge(self) -> None:
        # the streaming engine sums while it reads; the other one first lists the rows of each value
        merged = pl.concat([self._merged, *self._pending]).lazy().group_by(self.name).agg(pl.col("count").sum())
        self._merged, self._pending = merged.collect(engine="streaming"), []

    def seen(self, min_count: int, max_values: int | None = None, kept: pl.Series | None = None) -> pl.DataFrame:
        """The values that occur at least `min_count` times, sorted, and their `count` (UInt64).

        Args:
            min_count: occurrences that a value needs.
            max_values: values at most, the most frequent ones, among equals the first in sorted
                order; None for all.
            kept: values that need no occurrences, from an earlier vocabulary; `max_values` counts
                them, too.
        """
        self._merge()
        counted = _one_spelling(self._merged, kept)
        frequent = counted.filter(pl.col("count") >= min_count)
        if kept is not None:
            earlier = kept.alias(self.name).to_frame().join(counted, self.name, "left", maintain_order="left")
            earlier = earlier.with_columns(pl.col("count").fill_null(0))
            frequent = pl.concat([frequent, earlier]).unique(self.name)
        frequent = frequent.sort(self.name)
        if max_values is None or len(frequent) <= max_values:
            return frequent
        return frequent.sort("count", descending=True, maintain_order=True).head(max_values).sort(self.name)


def _one_spelling(counts: pl.DataFrame, kept: pl.Series | None) -> pl.DataFrame:
    """Counts with those of 3 and 3.0 added up if all values are numbers, see `places`.

    The value is spelled as the kept one, else as 3 if that occurs.
    """
    name = counts.columns[0]
    earlier = pl.Series(name, [], pl.String) if kept is None else kept.alias(name)
    values = pl.concat([counts[name], earlier])
    if not values.str.ends_with(FRACTION).any() or not _are_numbers(values):
        return counts
    if len(earlier) and as_numbers(earlier) is None:
        return counts  # 3 and 3.0 are two rows of the earlier table, and stay it
    number = pl.col(name).str.strip_suffix(FRACTION).alias("__number")
    spelled = earlier.to_frame().select(number, pl.col(name).alias("__kept"))
    added = counts.group_by(number).agg(pl.col(name).min(), pl.col("count").sum())
    return added.join(spelled, "__number", "left").select(pl.coalesce("__kept", name).alias(name), "count")


def size(values: pl.Series) -> int:
    """The number of table rows for `values`: one per value, padding, and out of vocabulary."""
    return len(values) + 2


def as_numbers(values: pl.Series) -> pl.Series | None:
    """Known values without `.0` at the end, if all are numbers and stay different; else None."""
    if not _are_numbers(values):
        return None
    numbers = values.str.strip_suffix(FRACTION)
    return numbers if numbers.n_unique() == len(numbers) else None


def _are_numbers(values: pl.Series) -> bool:
    # the first or the last of sorted texts is most often no number, and there may be millions
    return bool(len(values)) and all(values[[0, -1]].str.contains(NUMBER)) and values.str.contains(NUMBER).all()


def without_fraction(text: pl.Expr, many: bool = False) -> pl.Expr:
    """A text without `.0` at the end.

    Args:
        text: the text.
        many: whether many rows are computed at a time. Then it is first looked whether any has a
            `.0`, which takes a sixth of the time of cutting it off; in few rows it would take more.
    """
    if not many:
        return text.str.strip_suffix(FRACTION)

    def stripped(texts: pl.Series) -> pl.Series:
        return texts.str.strip_suffix(FRACTION) if texts.str.ends_with(FRACTION).any() else texts

    return text.map_batches(stripped, pl.String, is_elementwise=True)


def places(values: pl.Series, many: bool = False) -> Callable[[pl.Expr], pl.Expr]:
    """The expression text -> its place among `values`, from 0; null for another text.

    If all values are numbers, 3 and 3.0 are the same value, whatever wrote them: pandas writes 3.0
    if another value of the column is missing.

    Args:
        values: the known ones.
        many: see `without_fraction`.
    """
    numbers = as_numbers(values)
    known = pl.Enum(values if numbers is None else numbers)

    def place(text: pl.Expr) -> pl.Expr:
        text = text if numbers is None else without_fraction(text, many)
        return text.cast(known, strict=False).to_physical()

    return place


def encode(field: Field, value: pl.Expr, values: pl.Series, offset: int, many: bool = False) -> list[pl.Expr]:
    """Return the expressions `value` -> table row (int32), one per column of the field.

    An unknown value, a missing value and an empty list become the field's last row, out of
    vocabulary. The unused columns of a list become its first row, padding. A sequence becomes one
    column of lists, without padding.

    Args:
        field: the field; its `width` columns are the names of the expressions.
        value: a text, or a list of texts for a field with a width above 1.
        values: the known values in table order, of rows 1..n.
        offset: the field's first table row.
        many: whether many rows are encoded at a time, see `without_fraction`.
    """
    place = places(values, many)

    def known(text: pl.Expr) -> pl.Expr:
        return place(text).cast(pl.Int32) + 1

    return _columns(field, value, known, offset)


def encode_hashed(field: Field, value: pl.Expr, offset: int) -> list[pl.Expr]:
    """As `encode`, for a field without a vocabulary: rows 1..n by xxHash64 of the text.

    The hash is the same on every machine. A missing value becomes the field's last row. 3.0 is the
    value 3, whatever wrote it.
    """

    def known(text: pl.Expr) -> pl.Expr:
        text = text.str.strip_suffix(FRACTION)
        return (text.nchash.xxhash64() % (field.vocabulary_size - 2)).cast(pl.Int32) + 1  # type: ignore[attr-defined]

    return _columns(field, value, known, offset)


def _columns(field: Field, value: pl.Expr, known: Callable[[pl.Expr], pl.Expr], offset: int) -> list[pl.Expr]:
    """The columns of a field; `known` maps a text to its row, null if it has none."""
    unknown = field.vocabulary_size - 1
    if field.kind == SEQUENCES:
        return [value.list.eval(known(pl.element()).fill_null(unknown) + offset).alias(field.name)]
    if field.width == 1:
        return [(known(value).fill_null(unknown) + offset).alias(field.name)]
    parts = [value.list.get(i, null_on_oob=True) for i in range(field.width)]
    unused = [0 if i else unknown for i in range(field.width)]
    return [
        (pl.when(part.is_null()).then(pl.lit(rest, pl.Int32)).otherwise(known(part).fill_null(unknown)) + offset).alias(
            column
        )
        for part, rest, column in zip(parts, unused, field.columns, strict=True)
    ]


def save(values: pl.Series, folder: Path) -> None:
    """Write `folder/FIELD.parquet`, a text column in table order; FIELD is the name of `values`."""
    folder.mkdir(parents=True, exist_ok=True)
    values.to_frame().write_parquet(folder / f"{values.name}.parquet")


def load(field: str, folder: Path) -> pl.Series:
    """Read the file of `save`: the values of table rows 1..n of `field`."""
    return pl.read_parquet(folder / f"{field}.parquet").to_series()
