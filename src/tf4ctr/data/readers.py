"""A raw layout -> polars LazyFrame of text columns, one short function a layout, nothing read until it is collected."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tf4ctr.errors import InputError, did_you_mean


class BadRow(NamedTuple):
    """A line of a raw file (counted from 1, header included) and what is wrong with it."""

    line: int
    reason: str


def csv(path: Path, columns: list[str]) -> pl.LazyFrame:
    """Read a comma separated file with a header; an empty cell is a missing value.

    Raises:
        InputError: the file is empty or lacks one of `columns`.
    """
    try:
        header = pl.scan_csv(path, infer_schema=False).collect_schema().names()
    except pl.exceptions.NoDataError:
        raise InputError(f"{path} is empty: expected a header with the columns {', '.join(columns)}") from None
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: no column '{column}' in its header ({did_you_mean(column, header)})")
    return pl.scan_csv(path, infer_schema=False).with_columns(pl.col(header[-1]).is_null().alias("__short")).select(*columns, "__short")


def csv_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines whose number of cells is not the header's (the first ten)."""
    cells = pl.col("line").str.replace_all('"[^"]*"', "").str.count_matches(",", literal=True) + 1
    lines = pl.scan_lines(path, row_index_name="row").filter(pl.col("line").str.strip_chars() != "").with_columns(cells.alias("cells"))
    expected = lines.head(1).collect()["cells"][0]
    bad = lines.filter(pl.col("cells") != expected).head(10).collect(engine="streaming")
    return [BadRow(row + 1, f"{cells} cells, the header has {expected}") for row, cells in bad.select("row", "cells").rows()]


def libsvm(path: Path, columns: list[str]) -> pl.LazyFrame:
    """Read `label id:1 id:1 ...`: the label, then one id a field in the order of `columns[1:]`."""
    parts = pl.col("line").str.strip_chars().str.split(" ")
    cells = [parts.list.get(0, null_on_oob=True)]
    cells += [parts.list.get(i, null_on_oob=True).str.extract(r"^(\d+):1(?:\.0*)?$") for i in range(1, len(columns))]
    short = (parts.list.len() != len(columns)) | pl.any_horizontal(cell.is_null() for cell in cells)
    rows = pl.scan_lines(path).filter(pl.col("line").str.strip_chars() != "")
    return rows.select(*(cell.alias(name) for name, cell in zip(columns, cells, strict=True)), short.alias("__short"))


def libsvm_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a label and one `id:1` a field (the first ten)."""
    line = pl.col("line").str.strip_chars()
    good = line.str.contains(rf"^\S+( \d+:1(\.0*)?){{{len(columns) - 1}}}$")
    bad = pl.scan_lines(path, row_index_name="row").filter((line != "") & ~good).head(10).collect(engine="streaming")
    expected = f"expected a label and {len(columns) - 1} times 'id:1'"
    return [BadRow(row + 1, f"'{text[:60]}', {expected}") for row, text in bad.select("row", "line").rows()]


def parquet(path: Path, columns: list[str]) -> pl.LazyFrame:
    """Read a parquet file, or every parquet file of a folder.

    Raises:
        InputError: no parquet file, or one that is cut short or lacks one of `columns`.
    """
    try:
        rows = pl.scan_parquet(path)
        names = rows.collect_schema().names()
    except (pl.exceptions.ComputeError, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}): write or download it again") from None
    for column in columns:
        if column not in names:
            raise InputError(f"{path}: no column '{column}' ({did_you_mean(column, names)})")
    return rows.select(*(pl.col(name).cast(pl.String) for name in columns), pl.lit(False).alias("__short"))


def parquet_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Parquet has no rows of another length."""
    return []


class Reader(NamedTuple):
    """How to read one raw layout: `rows(path, columns)` gives text columns and `__short`, true where the row may be cut short
    (a cheap sign, not a verdict); `bad_rows(path, columns)` names the lines that really are; the first row stands in line `first_line`."""

    rows: Callable[[Path, list[str]], pl.LazyFrame]
    bad_rows: Callable[[Path, list[str]], list[BadRow]]
    first_line: int = 1


READERS = {
    "csv": Reader(csv, csv_bad_rows, first_line=2),
    "libsvm": Reader(libsvm, libsvm_bad_rows),
    "parquet": Reader(parquet, parquet_bad_rows),
}
