"""Value <-> table row, fitted on the training split only (row 0 padding, 1..n values in sorted order, n + 1 out of vocabulary)."""

from pathlib import Path

import polars as pl


def fit(rows: pl.LazyFrame, field: str, min_count: int) -> pl.LazyFrame:
    """Return the query for the values of `field` seen at least `min_count` times: one sorted text column, missing values left out."""
    counts = rows.select(field).drop_nulls().group_by(field).len()
    return counts.filter(pl.col("len") >= min_count).select(field).sort(field)


def size(values: pl.Series) -> int:
    """Table rows that `values` need: one each, one for padding and one for out of vocabulary."""
    return len(values) + 2


def encode(field: str, values: pl.Series, offset: int) -> pl.Expr:
    """Return the expression text -> int32 table row; an unknown or missing value becomes the field's last row."""
    known = pl.col(field).cast(pl.Enum(values), strict=False).to_physical().cast(pl.Int32) + 1
    return (known.fill_null(len(values) + 1) + offset).alias(field)


def save(values: pl.Series, folder: Path) -> None:
    """Write `folder/FIELD.parquet`, one text column in table order."""
    folder.mkdir(parents=True, exist_ok=True)
    values.to_frame().write_parquet(folder / f"{values.name}.parquet")


def load(field: str, folder: Path) -> pl.Series:
    """Read what `save` wrote: the values of table rows 1..n of `field`."""
    return pl.read_parquet(folder / f"{field}.parquet").to_series()
