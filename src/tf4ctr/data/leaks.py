"""Fields that give the label away: a warning after preparation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tf4ctr.data.schema import LABEL, ROW_GROUP_SIZE, SEQUENCES, Field, Schema

SAMPLE_GROUPS = 3  # row groups of the training split that are looked at, spread over the file
MIN_ROWS = 10  # a value counts if it has at least so many rows: rare ones agree with the label by chance
COVERED = 0.5  # share of the rows that such values must have
ERROR_LEFT = 0.05  # warn if at most this share of the majority class's errors remains


def find(folder: Path, schema: Schema) -> list[str]:
    """Warnings for fields whose value alone decides the label, or nearly does.

    A field is held for a leak if predicting each value's majority label makes at most 5 % of the
    errors of predicting the majority label of all rows, measured on a sample of training rows.

    Of a sequence, the latest value is looked at, and an empty sequence is a value, too: a sequence
    that contains the row's own click gives the label away there. The earlier values would count
    many times, because the rows of a user have nearly the same ones. Then the history of a user who
    always clicks would be held for a leak.

    Args:
        folder: the prepared dataset.
        schema: its schema.
    """
    path = folder / "train.parquet"
    if _sample(path, [])[LABEL].n_unique() == 1:
        return []
    warnings = []
    short = [field for field in schema.id_fields if field.kind != SEQUENCES]
    sample = _sample(path, [column for field in short for column in field.columns])
    for field in schema.id_fields:
        rows = sample if field in short else _sample(path, field.columns)  # long sequences have many columns
        error, base, covered = _errors(_values(rows, schema, field))
        if covered >= COVERED and error <= ERROR_LEFT * base:
            warnings.append(_warning(schema, field, 1 - error))
    return warnings


def _sample(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns and the label."""
    table = pl.scan_parquet(path).select(*columns, LABEL)
    rows = table.select(pl.len()).collect().item()
    groups = np.unique(np.linspace(0, (rows - 1) // ROW_GROUP_SIZE, SAMPLE_GROUPS).astype(int)).tolist()
    return pl.concat(pl.collect_all([table.slice(group * ROW_GROUP_SIZE, ROW_GROUP_SIZE) for group in groups]))


def _values(rows: pl.DataFrame, schema: Schema, field: Field) -> pl.DataFrame:
    """A field's values: columns `id` and the label."""
    padding = schema.offset_of(field.name)
    if field.kind != SEQUENCES:
        values = pl.concat([rows.select(pl.col(column).alias("id"), LABEL) for column in field.columns])
        return values.filter(pl.col("id") != padding)
    latest_N = np.full(len(rows), padding, np.int32)
    for column in field.columns:
        id_N = rows[column].to_numpy()
        latest_N = np.where(id_N == padding, latest_N, id_N)
    return rows.select(pl.Series("id", latest_N), LABEL)


def _warning(schema: Schema, field: Field, right: float) -> str:
    if field.kind == SEQUENCES:
        return (
            f"the latest value of the sequence '{field.name}' alone decides the label of {right:.1%} of the training"
            " rows: does it contain what happened in the row itself? If so, end it before the row"
        )
    return (
        f"field '{field.name}' alone decides the label of {right:.1%} of the training rows: is it a copy of"
        f" '{schema.label}', or known only after the click? If so, take it out of dataset.fields"
    )


def _errors(values: pl.DataFrame) -> tuple[float, float, float]:
    """Errors over the rows of frequent values, and the share of these rows.

    Returns:
        the error of each value's majority label, that of the majority label of these rows, and
        their share of all rows.
    """
    counts = values.group_by("id").agg(rows=pl.len().cast(pl.Int64), clicks=pl.col(LABEL).sum().cast(pl.Int64))
    counts = counts.filter(pl.col("rows") >= MIN_ROWS)
    rows, clicks = int(counts["rows"].sum()), int(counts["clicks"].sum())
    if not 0 < clicks < rows:
        return 1.0, 0.0, 0.0
    wrong = int(counts.select(pl.min_horizontal("clicks", pl.col("rows") - pl.col("clicks")).sum()).item())
    return wrong / rows, min(clicks, rows - clicks) / rows, rows / len(values)
