"""A raw layout -> polars LazyFrame of text columns, one short function a layout, nothing read until it is collected."""

import gzip
import os
from collections.abc import Callable, Sequence
from csv import reader as delimited
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tf4ctr.errors import InputError, did_you_mean

# polars reads csv files ahead piece by piece: with pieces of 2 MB a preparation holds a third less than with its own, larger ones
os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(2**21))


def gzipped(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class BadRow(NamedTuple):
    """A line of a raw file (counted from 1, header included) and what is wrong with it."""

    line: int
    reason: str


def csv(
    paths: list[Path], columns: list[str], separator: str = ",", header: Sequence[str] | None = None
) -> pl.LazyFrame:
    """Read delimited text files, plain or gzipped; an empty cell is a missing value.

    Args:
        paths: files with the same columns.
        columns: those to keep.
        separator: one character between two cells.
        header: names of the columns for files without a header line.

    Raises:
        InputError: a file is empty, lacks one of `columns`, names one twice, or has other columns than the first.
    """
    names = [_csv_header(path, separator) for path in paths] if header is None else [list(header)]
    for path, found in zip(paths, names, strict=False):
        for column in columns:
            if column not in found:
                raise InputError(f"{path}: no column '{column}' in its header ({did_you_mean(column, found)})")
            if found.count(column) > 1:
                raise InputError(
                    f"{path}: its header names column '{column}' {found.count(column)} times: rename or remove all but one"
                )
        if found != names[0]:
            raise InputError(
                f"{path} has other columns than {paths[0].name}: {', '.join(found)}, expected {', '.join(names[0])}"
            )
    # told the names, polars reads nothing yet; a name that comes twice is one that nobody asked for
    schema = {name if name not in names[0][:i] else f"{name}.{i}": pl.String for i, name in enumerate(names[0])}
    rows = pl.scan_csv(paths, separator=separator, has_header=header is None, schema=schema)
    rows = rows.filter(~pl.all_horizontal(pl.col(name).is_null() for name in columns))  # blank lines
    return rows.select(
        *columns, pl.col(next(reversed(schema))).is_null().alias("__short")
    )  # the last is null where a row is cut short


def _csv_header(path: Path, separator: str) -> list[str]:
    try:
        with gzip.open(path) if gzipped(path) else path.open("rb") as file:
            line = file.readline().decode(errors="replace").removeprefix("\ufeff")
    except (EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): download it again") from None
    if not line.strip():
        raise InputError(f"{path} is empty: expected a header line")
    if "\r" in line.rstrip():
        raise InputError(f"{path} ends its lines with carriage returns alone: convert it first (tr '\\r' '\\n')")
    return next(delimited([line], delimiter=separator))


def csv_lines(path: Path, separator: str = ",", header: Sequence[str] | None = None) -> tuple[list[str], pl.LazyFrame]:
    """The header, and of each line below it `row` (counted from 0, header and blank lines included), `line` and its number of `cells`."""
    unquoted = pl.when(pl.col("line").str.contains('"', literal=True))
    cells = unquoted.then(pl.col("line").str.replace_all('"[^"]*"', "")).otherwise(pl.col("line"))
    lines = _lines(path).with_columns((cells.str.count_matches(separator, literal=True) + 1).alias("cells"))
    return (_csv_header(path, separator), lines.slice(1)) if header is None else (list(header), lines)


def csv_bad_rows(
    path: Path, columns: list[str], separator: str = ",", header: Sequence[str] | None = None
) -> list[BadRow]:
    """Find the lines whose number of cells is not the header's (the first ten)."""
    names, lines = csv_lines(path, separator, header)
    bad = lines.filter(pl.col("cells") != len(names)).head(10).collect(engine="streaming")
    return [
        BadRow(row + 1, f"{cells} cells, the header has {len(names)}")
        for row, cells in bad.select("row", "cells").rows()
    ]


def libsvm(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read `label id:1 id:1 ...`: the label, then one id a field in the order of `columns[1:]`."""
    parts = pl.col("line").str.strip_chars().str.split(" ")
    cells = [parts.list.get(0, null_on_oob=True)]
    cells += [parts.list.get(i, null_on_oob=True).str.extract(r"^(\d+):1(?:\.0*)?$") for i in range(1, len(columns))]
    short = (parts.list.len() != len(columns)) | pl.any_horizontal(cell.is_null() for cell in cells)
    rows = pl.concat([_lines(path) for path in paths])
    return rows.select(*(cell.alias(name) for name, cell in zip(columns, cells, strict=True)), short.alias("__short"))


def libsvm_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a label and one `id:1` a field (the first ten)."""
    pattern = rf"^\S+( \d+:1(\.0*)?){{{len(columns) - 1}}}$"
    return _not_matching(path, pattern, f"expected a label and {len(columns) - 1} times 'id:1'")


def parquet(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read parquet files.

    Raises:
        InputError: one that is cut short, lacks one of `columns`, or has it nested.
    """
    for path in paths:
        try:
            schema = pl.scan_parquet(path).collect_schema()
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"{path} is not a readable parquet file ({error}): write or download it again") from None
        for column in columns:
            if column not in schema:
                raise InputError(f"{path}: no column '{column}' ({did_you_mean(column, schema)})")
            if schema[column].is_nested():
                raise InputError(
                    f"{path}: column '{column}' is {schema[column]}, expected text or numbers;"
                    " write several values as one text and set the field's separator and width"
                )
    texts = [pl.col(name).cast(pl.String) for name in columns]
    return pl.concat([pl.scan_parquet(path).select(*texts, pl.lit(False).alias("__short")) for path in paths])


def parquet_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Parquet has no rows of another length."""
    return []


def grouplens(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read MovieLens' ratings.dat (`UserID::MovieID::Rating::Timestamp`) with the users.dat beside it; label 1 for a rating of 4 or 5."""
    ratings = pl.concat([_cells(path, ("UserID", "MovieID", "Rating", "Timestamp")) for path in paths])
    users = _cells(paths[0].with_name("users.dat"), ("UserID", "Gender", "Age", "Occupation", "Zip-code")).drop(
        "Zip-code"
    )
    rating = pl.col("Rating").cast(pl.Int64, strict=False)
    rows = ratings.join(users, on="UserID", how="left", maintain_order="left")
    return rows.select(
        pl.when(rating.is_between(1, 5)).then((rating >= 4).cast(pl.Int8).cast(pl.String)).alias("label"), pl.all()
    ).select(*columns, pl.any_horizontal(pl.col("Timestamp").is_null(), rating.is_null()).alias("__short"))


def grouplens_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are no rating (the first ten)."""
    return _not_matching(path, r"^\d+::\d+::\d+::\d+$", "expected UserID::MovieID::Rating::Timestamp")


KKBOX_BESIDE = {  # file: (key, columns)
    "songs.csv": ("song_id", ["genre_ids", "artist_name", "language"]),
    "members.csv": ("msno", ["city", "gender", "registered_via", "bd"]),
    "song_extra_info.csv": ("song_id", ["isrc"]),
}


def kkbox(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read KKBox's train.csv joined with songs.csv, members.csv and song_extra_info.csv beside it; `target` is the label."""
    own = ["target", "msno", "song_id", "source_system_tab", "source_screen_name", "source_type"]
    rows = csv(paths, own).rename({"target": "label"})
    for name, (key, found) in KKBOX_BESIDE.items():
        beside = (
            csv([paths[0].with_name(name)], [key, *found])
            .drop("__short")
            .unique(key, keep="first", maintain_order=True)
        )
        rows = rows.join(beside, on=key, how="left", maintain_order="left")
    return rows.select(*columns, "__short")


def line_of(path: Path, number: int) -> int:
    """Where in a text file (from 1) the line is that comes as `number` (from 0) of those that are not blank."""
    return _lines(path).slice(number, 1).select("row").collect(engine="streaming").item() + 1


def _lines(path: Path) -> pl.LazyFrame:
    """`row` and `line`, blank lines left out."""
    return pl.scan_lines(path, row_index_name="row").filter(pl.col("line").str.strip_chars() != "")


def _cells(path: Path, names: Sequence[str]) -> pl.LazyFrame:
    """Cells between `::`; null where a line has too few."""
    parts = pl.col("line").str.strip_chars().str.split("::")
    return _lines(path).select(parts.list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(names))


def _not_matching(path: Path, pattern: str, expected: str) -> list[BadRow]:
    bad = (
        _lines(path)
        .filter(~pl.col("line").str.strip_chars().str.contains(pattern))
        .head(10)
        .collect(engine="streaming")
    )
    return [BadRow(row + 1, f"'{text[:60]}', {expected}") for row, text in bad.select("row", "line").rows()]


class Reader(NamedTuple):
    """How to read one raw layout.

    Attributes:
        rows: `rows(paths, columns, **options)` gives text columns and `__short`, true where the row may be cut short (a cheap sign,
            not a verdict).
        bad_rows: `bad_rows(path, columns, **options)` names the lines that really are.
        first_line: line of the first row.
        options: what a layout in conf/dataset may say beside the files.
        beside: files that must stand beside the named ones.
    """

    rows: Callable[..., pl.LazyFrame]
    bad_rows: Callable[..., list[BadRow]]
    first_line: int = 1
    options: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


READERS = {
    "csv": Reader(csv, csv_bad_rows, first_line=2, options=("separator", "header")),
    "libsvm": Reader(libsvm, libsvm_bad_rows),
    "parquet": Reader(parquet, parquet_bad_rows),
    "grouplens": Reader(grouplens, grouplens_bad_rows, beside=("users.dat",)),
    "kkbox": Reader(kkbox, csv_bad_rows, first_line=2, beside=tuple(KKBOX_BESIDE)),
}
