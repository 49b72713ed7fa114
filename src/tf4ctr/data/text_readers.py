"""Raw layouts of text lines: delimited cells, and libsvm; and the lines of any text file."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from csv import QUOTE_MINIMAL, QUOTE_NONE
from csv import reader as delimited
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from polars.io.plugins import register_io_source

from tf4ctr.errors import InputError, did_you_mean

# polars reads csv files ahead in pieces. With pieces of 4 MB a preparation needs a third less
# memory than with its own, larger ones, and 2 MB take a tenth more time to read.
os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(2**22))

SHORT = "__short"  # the column that marks rows which may be cut short
EMPTY = "__empty"  # the column that marks rows without a value
PIECE = 2**18  # bytes of a file that are looked at at a time, to stay in the processor's cache
UNPAIRED = (
    "(quote: null in the layout reads quotes as text; if a cell has a line break, write the rows as parquet or ndjson:"
    " a row of a csv file is one line)"
)
SHOWN_BAD_ROWS = 10  # invalid lines that an error lists
SEPARATORS = (",", ";", "\t", "|")  # one of them in a header of one column is its separator
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # how compressed files begin


class BadRow(NamedTuple):
    """A line of a raw file (counted from 1, header included) and what is wrong with it."""

    line: int
    reason: str


def compressed(path: Path) -> bool:
    """Whether a file is compressed by gzip or zstd, whatever its name says."""
    with path.open("rb") as file:
        return file.read(4).startswith((GZIP, ZSTD))


def csv(
    paths: list[Path],
    columns: list[str],
    separator: str = ",",
    header: Sequence[str] | None = None,
    quote: str | None = '"',
) -> pl.LazyFrame:
    """Read delimited text files, also compressed; an empty cell is a missing value.

    Columns are found by name: the files may have them in different orders. A line whose cells are
    all empty is skipped, in the columns that are not kept, too.

    Args:
        paths: the files.
        columns: those to keep.
        separator: one character between two cells.
        header: names of the columns for files without a header line.
        quote: the character around a cell that contains separators; None if quotes mean nothing.

    Raises:
        InputError: a file is empty, is not UTF-8, lacks one of `columns` or names one twice.
    """
    headers = {path: _csv_header(path, separator, quote) if header is None else list(header) for path in paths}
    for path, names in headers.items():
        for column in columns:
            if column not in names:
                other = next((sign for sign in SEPARATORS if sign in names[0]), None) if len(names) == 1 else None
                if other:
                    raise InputError(
                        f"{path}: its header has one column '{names[0]}': write separator: {other!r} in the layout,"
                        f" it has {separator!r}"
                    )
                raise InputError(f"{path}: no column '{column}' in its header ({did_you_mean(column, names)})")
            if names.count(column) > 1:
                raise InputError(
                    f"{path}: its header names column '{column}' {names.count(column)} times:"
                    " rename or remove all but one"
                )
    return pl.concat(
        [
            _csv_rows(list(same), columns, names, separator, header is None, quote)
            for names, same in groupby(paths, headers.__getitem__)
        ]
    )


def _csv_rows(
    paths: list[Path], columns: list[str], names: list[str], separator: str, has_header: bool, quote: str | None
) -> pl.LazyFrame:
    """Rows of files with the same header."""
    # with a given schema polars reads nothing yet; a repeated name is one that nobody asked for
    schema = {name if name not in names[:i] else f"{name}.{i}": pl.String for i, name in enumerate(names)}
    form: dict[str, Any] = {"separator": separator, "has_header": has_header, "quote_char": quote}
    # a quoted empty cell is a missing value, too
    rows = pl.scan_csv(paths, schema=schema, glob=False, null_values=[""], **form)
    # the last column is null where a row is cut short
    kept = [*map(pl.col, columns), pl.col(next(reversed(schema))).is_null().alias(SHORT)]
    empty, others = _all_null(columns), [name for name in schema if name not in columns]
    if not others:
        return rows.filter(~empty).select(kept)
    return _without_empty(rows.select(*kept, empty.alias(EMPTY)), rows.filter(empty).select(~_all_null(others)))


def _all_null(columns: Iterable[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).is_null() for name in columns)


def _without_empty(rows: pl.LazyFrame, have_data: pl.LazyFrame) -> pl.LazyFrame:
    """Leave out the rows of empty lines.

    Reading all columns of a wide file takes several times as long as reading a few. So the other
    columns are read only if a row is empty in those that are kept.

    Args:
        rows: the columns that are kept, and `__empty`, true where all of them are null.
        have_data: for each of those rows whether another column has a value.
    """
    schema = rows.drop(EMPTY).collect_schema()
    # once for both passes of a preparation
    have = cache(lambda: have_data.collect(engine="streaming").to_series())

    def frames(
        names: list[str] | None, condition: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        looked_at = 0
        for frame in rows.collect_batches(engine="streaming"):
            empty = frame[EMPTY].arg_true()
            if len(empty):
                kept = have()[looked_at : looked_at + len(empty)]
                frame = frame.filter((~frame[EMPTY]).scatter(empty, kept))
                looked_at += len(empty)
            frame = frame.select(names or schema.names())
            if limit is not None:
                frame = frame.head(limit)
                limit -= len(frame)
            yield frame if condition is None else frame.filter(condition)
            if limit == 0:
                return

    return register_io_source(frames, schema=schema)


def _csv_header(path: Path, separator: str, quote: str | None) -> list[str]:
    try:
        line = _first_line(path)
    except (EOFError, OSError, pl.exceptions.ComputeError) as error:
        raise InputError(f"{path} cannot be read ({error}): download it again") from None
    if line[:2] in UTF16 or b"\0" in line:
        raise InputError(
            f"{path} is encoded as UTF-16, expected UTF-8;"
            f" convert it: iconv -f utf-16 -t utf-8 {path.name} > utf8-{path.name}"
        )
    text = line.decode(errors="replace").removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"{path} is empty: expected a header line")
    if "\r" in text.rstrip():
        raise InputError(f"{path} ends its lines with carriage returns alone: convert it first (tr '\\r' '\\n')")
    return next(delimited([text], delimiter=separator, quotechar=quote, quoting=QUOTE_MINIMAL if quote else QUOTE_NONE))


def _first_line(path: Path) -> bytes:
    if compressed(path):
        lines = pl.scan_lines(path, glob=False).head(1).collect().to_series().to_list()
        return lines[0].encode() + b"\n" if lines else b""
    with path.open("rb") as file:
        return file.readline()


def csv_lines(
    path: Path, separator: str = ",", header: Sequence[str] | None = None, quote: str | None = '"'
) -> tuple[list[str], pl.LazyFrame]:
    """The header, and `row`, `line`, `cells` and `unclosed` of the lines below it.

    `row` counts from 0 and includes header and empty lines, `cells` is the number of cells, and a
    line is `unclosed` if it has an odd number of quotes. Empty lines are left out, but for those
    with more separators than the header.
    """
    line, quotes = pl.col("line"), pl.lit(0, pl.UInt32)
    if quote:
        quotes = line.str.count_matches(quote, literal=True)
        mark = re.escape(quote)
        without = line.str.replace_all(f"{mark}[^{mark}]*{mark}", "")
        line = pl.when(pl.col("line").str.contains(quote, literal=True)).then(without).otherwise(line)
    lines = _numbered_lines(path).with_columns(
        (line.str.count_matches(separator, literal=True) + 1).alias("cells"), (quotes % 2 == 1).alias("unclosed")
    )
    names = _csv_header(path, separator, quote) if header is None else list(header)
    lines = lines.slice(1 if header is None else 0)
    return names, lines.filter(~_is_empty(separator, quote) | (pl.col("cells") > len(names)))


def _is_empty(separator: str, quote: str | None) -> pl.Expr:
    """Whether a `line` has no value: no character, or separators and quoted empty cells alone."""
    cell = f"(?:{re.escape(quote * 2)})?" if quote else ""
    return pl.col("line").str.contains(f"^{cell}(?:{re.escape(separator)}{cell})*$")


def csv_bad_rows(
    path: Path,
    columns: list[str],
    separator: str = ",",
    header: Sequence[str] | None = None,
    quote: str | None = '"',
) -> list[BadRow]:
    """Find the lines with another number of cells than the header, or an unpaired quote."""
    names, lines = csv_lines(path, separator, header, quote)
    if _is_regular(path, len(names), separator, quote or ""):
        return []
    bad = lines.filter((pl.col("cells") != len(names)) | pl.col("unclosed")).head(SHOWN_BAD_ROWS)
    return [
        BadRow(row + 1, f"{cells} cells, the header has {len(names)}")
        if not unclosed
        else BadRow(row + 1, f"a quote without its pair: {line[:60]} {UNPAIRED}")
        for row, line, cells, unclosed in bad.select("row", "line", "cells", "unclosed")
        .collect(engine="streaming")
        .rows()
    ]


def _is_regular(path: Path, cells: int, separator: str, quote: str) -> bool:
    """Whether every line of a file has so many cells, in a file without quotes and blank lines.

    It takes a third of the time of looking at each line, and most files with empty last cells are
    like this. False says nothing.
    """
    ends = f"{separator}{quote}\n".encode()
    others, line = bytes(set(range(256)) - set(ends)), (separator * (cells - 1) + "\n").encode()
    found = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found += piece.translate(None, others)
            lines = len(found) // len(line)
            if not found.startswith(line * lines):
                return False
            found = found[lines * len(line) :]
    return found in (b"", line[:-1])


def libsvm(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read `label id:1 id:1 ...`: label, then one id per field in the order of `columns[1:]`."""
    parts = pl.col("line").str.strip_chars().str.split(" ")
    cells = [parts.list.get(0, null_on_oob=True)]
    cells += [parts.list.get(i, null_on_oob=True).str.extract(r"^(\d+):1(?:\.0*)?$") for i in range(1, len(columns))]
    short = (parts.list.len() != len(columns)) | pl.any_horizontal(cell.is_null() for cell in cells)
    rows = pl.concat([text_lines(path) for path in paths])
    return rows.select(*(cell.alias(name) for name, cell in zip(columns, cells, strict=True)), short.alias(SHORT))


def libsvm_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a label and one `id:1` per field."""
    pattern = rf"^\S+( \d+:1(\.0*)?){{{len(columns) - 1}}}$"
    return not_matching(path, pattern, f"expected a label and {len(columns) - 1} times 'id:1'")


def csv_line_of(
    path: Path, number: int, separator: str = ",", header: Sequence[str] | None = None, quote: str | None = '"'
) -> int:
    """The line (from 1) that is number `number` (from 0) of those that are not empty."""
    return _line_at(_numbered_lines(path).filter(~_is_empty(separator, quote)), number)


def line_of(path: Path, number: int) -> int:
    """The line (from 1) of a text file that is number `number` (from 0) of its non-blank lines."""
    return _line_at(text_lines(path), number)


def _line_at(lines: pl.LazyFrame, number: int) -> int:
    return lines.slice(number, 1).select("row").collect(engine="streaming").item() + 1


def text_of(path: Path, line: int) -> str:
    """The text of a line (from 1)."""
    return pl.scan_lines(path, glob=False).slice(line - 1, 1).collect(engine="streaming").item()


def text_lines(path: Path) -> pl.LazyFrame:
    """`row` and `line` of the lines that are not blank."""
    return _numbered_lines(path).filter(pl.col("line").str.strip_chars() != "")


def _numbered_lines(path: Path) -> pl.LazyFrame:
    """`row`, from 0, and `line` of all lines."""
    return pl.scan_lines(path, row_index_name="row", glob=False)


def cells(path: Path, names: Sequence[str], separator: str = "::") -> pl.LazyFrame:
    """The cells of lines without quotes and without a header; null where a line has too few."""
    parts = pl.col("line").str.strip_chars().str.split(separator)
    return text_lines(path).select(parts.list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(names))


def not_matching(path: Path, pattern: str, expected: str) -> list[BadRow]:
    """The first lines that do not match a pattern."""
    lines = text_lines(path).filter(~pl.col("line").str.strip_chars().str.contains(pattern)).head(SHOWN_BAD_ROWS)
    rows = lines.select("row", "line").collect(engine="streaming").rows()
    return [BadRow(row + 1, f"'{text[:60]}', {expected}") for row, text in rows]
