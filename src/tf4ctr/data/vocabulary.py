"""Value <-> table row, fitted on the training split only (row 0 padding, 1..n values in sorted order, n + 1 out of vocabulary)."""

import shutil
from pathlib import Path

import polars as pl

from tf4ctr.data.schema import Field

MERGE_ROWS = 1_000_000  # counts of batches that may wait beside the merged ones


class Counts:
    """How often each value of a text column comes up, over any number of batches; memory grows with the values, not with the rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._merged = pl.DataFrame(schema={name: pl.String, "count": pl.UInt32})
        self._pending: list[pl.DataFrame] = []

    def query(self, values: pl.LazyFrame) -> pl.LazyFrame:
        """Return the query for one batch's counts; `values` has one column, text or lists of text; missing values are left out."""
        if isinstance(values.collect_schema()[self.name], pl.List):
            values = values.explode(self.name)
        return values.drop_nulls().group_by(self.name).agg(count=pl.len())

    def add(self, counts: pl.DataFrame) -> None:
        """Add what `query` gave for one batch."""
        self._pending.append(counts)
        if sum(map(len, self._pending)) > MERGE_ROWS + len(self._merged) // 2:
            self._merge()

    def _merge(self) -> None:
        # the streaming engine adds as it goes; the other one lists the rows of every value first
        merged = pl.concat([self._merged, *self._pending]).lazy().group_by(self.name).agg(pl.col("count").sum())
        self._merged, self._pending = merged.collect(engine="streaming"), []

    def seen(self, min_count: int) -> pl.DataFrame:
        """Values seen at least `min_count` times and their counts, sorted by value: columns `name` and `count`."""
        self._merge()
        return self._merged.filter(pl.col("count") >= min_count).sort(self.name)


def size(values: pl.Series) -> int:
    """Table rows that `values` need: one each, one for padding and one for out of vocabulary."""
    return len(values) + 2


def encode(field: Field, value: pl.Expr, values: pl.Series, offset: int) -> list[pl.Expr]:
    """Return the expressions `value` (text, or a list of texts) -> int32 table row, one for each of the field's columns.

    An unknown value becomes the field's last row, and so does a missing one; a list's unused columns become its first, padding.
    """
    unknown = field.vocabulary_size - 1

    def known(text: pl.Expr) -> pl.Expr:
        return text.cast(pl.Enum(values), strict=False).to_physical().cast(pl.Int32) + 1

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
    """Write `folder/FIELD.parquet`, one text column in table order."""
    folder.mkdir(parents=True, exist_ok=True)
    values.to_frame().write_parquet(folder / f"{values.name}.parquet")


def load(field: str, folder: Path) -> pl.Series:
    """Read what `save` wrote: the values of table rows 1..n of `field`."""
    return pl.read_parquet(folder / f"{field}.parquet").to_series()


def keep(prepared_dir: Path, folder: Path) -> None:
    """Put the vocabulary of a prepared dataset into a run's folder, where prediction looks: as links, which take no room, or copies."""
    target = folder / "vocabulary"
    target.mkdir(exist_ok=True)
    for path in sorted((prepared_dir / "vocabulary").glob("*.parquet")):
        kept = target / path.name
        kept.unlink(missing_ok=True)
        try:
            kept.hardlink_to(path)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, kept)
