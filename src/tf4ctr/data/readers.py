"""A raw layout -> polars LazyFrame of text columns, one short function per layout.

Nothing is read until the frame is collected. A column is text, or a list of texts where the file
itself has lists (parquet).
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from csv import reader as delimited
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.errors import InputError, did_you_mean

# polars reads csv files ahead in pieces. With pieces of 2 MB a preparation needs a third less
# memory than with its own, larger ones.
os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(2**21))

SHORT = "__short"  # the column that marks rows which may be cut short
SHOWN_BAD_ROWS = 10  # invalid lines that an error lists
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
INTEGERS = 2.0**53  # floats below this hold whole numbers exactly


GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # how compressed files begin


def compressed(path: Path) -> bool:
    """Whether a file is compressed by gzip or zstd, whatever its name says."""
    with path.open("rb") as file:
        return file.read(4).startswith((GZIP, ZSTD))


def as_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert a raw column of any type to the text that names its value, a list to a list of texts.

    Whole numbers of a float column become integers (3.0 -> "3"), so that a column has the same
    values whether a missing one made it a float or not. NaN is a missing value.
    """
    if isinstance(dtype, pl.Array):
        return as_text(value.arr.to_list(), pl.List(dtype.inner))
    if isinstance(dtype, pl.List):
        return value.list.eval(as_text(pl.element(), dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Decimal):
        return as_text(value.cast(pl.Float64), pl.Float64())
    if dtype.is_float():
        whole = (value == value.floor()) & (value.abs() < INTEGERS)
        integer = pl.when(whole).then(value).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.coalesce(integer, value.fill_nan(None).cast(pl.String))
    return value.cast(pl.String)


class BadRow(NamedTuple):
    """A line of a raw file (counted from 1, header included) and what is wrong with it."""

    line: int
    reason: str


def csv(
    paths: list[Path],
    columns: list[str],
    separator: str = ",",
    header: Sequence[str] | None = None,
    quote: str | None = '"',
) -> pl.LazyFrame:
    """Read delimited text files, also compressed; an empty cell is a missing value.

    Columns are found by name: the files may have them in different orders.

    Args:
        paths: the files.
        columns: those to keep.
        separator: one character between two cells.
        header: names of the columns for files without a header line.
        quote: the character around a cell that contains separators; None if quotes mean nothing.

    Raises:
        InputError: a file is empty, is not UTF-8, lacks one of `columns` or names one twice.
    """
    headers = {path: _csv_header(path, separator) if header is None else list(header) for path in paths}
    for path, names in headers.items():
        for column in columns:
            if column not in names:
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
    rows = pl.scan_csv(paths, separator=separator, has_header=has_header, schema=schema, quote_char=quote)
    rows = rows.filter(~pl.all_horizontal(pl.col(name).is_null() for name in columns))  # blank lines
    # the last column is null where a row is cut short
    return rows.select(*columns, pl.col(next(reversed(schema))).is_null().alias(SHORT))


def _csv_header(path: Path, separator: str) -> list[str]:
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
    return next(delimited([text], delimiter=separator))


def _first_line(path: Path) -> bytes:
    if compressed(path):
        lines = pl.scan_lines(path).head(1).collect().to_series().to_list()
        return lines[0].encode() + b"\n" if lines else b""
    with path.open("rb") as file:
        return file.readline()


def csv_lines(
    path: Path, separator: str = ",", header: Sequence[str] | None = None, quote: str | None = '"'
) -> tuple[list[str], pl.LazyFrame]:
    """The header, and `row`, `line`, `cells` and `unclosed` of each line below it.

    `row` counts from 0 and includes header and blank lines, `cells` is the number of cells, and a
    line is `unclosed` if it has an odd number of quotes.
    """
    line, quotes = pl.col("line"), pl.lit(0, pl.UInt32)
    if quote:
        quotes = line.str.count_matches(quote, literal=True)
        mark = re.escape(quote)
        without = line.str.replace_all(f"{mark}[^{mark}]*{mark}", "")
        line = pl.when(pl.col("line").str.contains(quote, literal=True)).then(without).otherwise(line)
    lines = _lines(path).with_columns(
        (line.str.count_matches(separator, literal=True) + 1).alias("cells"), (quotes % 2 == 1).alias("unclosed")
    )
    return (_csv_header(path, separator), lines.slice(1)) if header is None else (list(header), lines)


def csv_bad_rows(
    path: Path,
    columns: list[str],
    separator: str = ",",
    header: Sequence[str] | None = None,
    quote: str | None = '"',
) -> list[BadRow]:
    """Find the lines with another number of cells than the header, or an unpaired quote."""
    names, lines = csv_lines(path, separator, header, quote)
    bad = lines.filter((pl.col("cells") != len(names)) | pl.col("unclosed")).head(SHOWN_BAD_ROWS)
    return [
        BadRow(row + 1, f"{cells} cells, the header has {len(names)}")
        if not unclosed
        else BadRow(row + 1, f"a quote without its pair: {line[:60]} (quote: null in the layout reads quotes as text)")
        for row, line, cells, unclosed in bad.select("row", "line", "cells", "unclosed")
        .collect(engine="streaming")
        .rows()
    ]


def libsvm(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read `label id:1 id:1 ...`: label, then one id per field in the order of `columns[1:]`."""
    parts = pl.col("line").str.strip_chars().str.split(" ")
    cells = [parts.list.get(0, null_on_oob=True)]
    cells += [parts.list.get(i, null_on_oob=True).str.extract(r"^(\d+):1(?:\.0*)?$") for i in range(1, len(columns))]
    short = (parts.list.len() != len(columns)) | pl.any_horizontal(cell.is_null() for cell in cells)
    rows = pl.concat([_lines(path) for path in paths])
    return rows.select(*(cell.alias(name) for name, cell in zip(columns, cells, strict=True)), short.alias(SHORT))


def libsvm_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a label and one `id:1` per field."""
    pattern = rf"^\S+( \d+:1(\.0*)?){{{len(columns) - 1}}}$"
    return _not_matching(path, pattern, f"expected a label and {len(columns) - 1} times 'id:1'")


def parquet(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read parquet files; their columns keep their types, see `as_text`.

    Raises:
        InputError: a file is cut short, lacks one of `columns`, has a type that holds no values, or
            has a list where the first file has none.
    """
    return _typed(pl.scan_parquet, "parquet", paths, columns)


def arrow(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read Arrow IPC files (Feather), as `parquet` does."""
    return _typed(pl.scan_ipc, "Arrow IPC", paths, columns)


def _typed(scan: Callable[[Path], pl.LazyFrame], kind: str, paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    frames = []
    for path in paths:
        try:
            dtypes = scan(path).collect_schema()
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"{path} is not a readable {kind} file ({error}): write or download it again") from None
        for column in columns:
            if column not in dtypes:
                raise InputError(f"{path}: no column '{column}' ({did_you_mean(column, dtypes)})")
            _check_type(path, column, dtypes[column])
        frames.append(scan(path).select(*columns, pl.lit(False).alias(SHORT)))
    return _alike(frames, paths)


def no_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Return nothing: all rows of a typed file have the same columns."""
    return []


def _alike(frames: list[pl.LazyFrame], paths: list[Path]) -> pl.LazyFrame:
    """Join files; a column whose type differs becomes text in all of them.

    Raises:
        InputError: a column is a list in some of them only.
    """
    dtypes = [frame.collect_schema() for frame in frames]
    differing = [name for name in dtypes[0] if any(other[name] != dtypes[0][name] for other in dtypes)]
    for name in differing:
        for path, other in zip(paths, dtypes, strict=True):
            if _is_list(other[name]) != _is_list(dtypes[0][name]):
                first = f"in {paths[0].name} it is {dtypes[0][name]}"
                raise InputError(f"{path}: column '{name}' is {other[name]}, {first}: write both alike")
    texts = [[as_text(pl.col(name), other[name]).alias(name) for name in differing] for other in dtypes]
    return pl.concat([frame.with_columns(text) for frame, text in zip(frames, texts, strict=True)])


def _is_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array)


def _check_type(path: Path, column: str, dtype: pl.DataType) -> None:
    value = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if value.is_nested() or value in (pl.Binary, pl.Object):
        raise InputError(f"{path}: column '{column}' is {dtype}, expected text, numbers, or a list of them")


def ndjson(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read files of one JSON object per line, also compressed; `a.b` is the key b of an object a.

    A value becomes its text; a key that holds a list in the first lines is a list.

    Raises:
        InputError: a key that the first lines do not have.
    """
    samples = [record for path in paths for record in _records(path)]
    schema: dict[str, Any] = {}
    values = {}
    for column in columns:
        keys = [column] if any(column in record for record in samples) else column.split(".")
        found = [_at(record, keys) for record in samples]
        if all(value is MISSING for value in found):
            known = sorted({key for record in samples for key in record})
            names = ", ".join(str(path) for path in paths)
            raise InputError(f"{names}: no key '{column}' in the first lines ({did_you_mean(column, known)})")
        level = schema
        for key in keys[:-1]:
            level = level.setdefault(key, {})
        level[keys[-1]] = pl.List(pl.String) if any(isinstance(value, list) for value in found) else pl.String
        value = pl.col(keys[0])
        for key in keys[1:]:
            value = value.struct.field(key)
        values[column] = value
    rows = pl.scan_ndjson(paths, schema={name: _struct(kind) for name, kind in schema.items()})
    return rows.select(**values, **{SHORT: pl.lit(False)})


def ndjson_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a JSON object."""
    bad: list[BadRow] = []
    for batch in _lines(path).collect_batches(engine="streaming"):
        for row, line in batch.select("row", "line").rows():
            if len(bad) < SHOWN_BAD_ROWS and _record(line) is None:
                bad.append(BadRow(row + 1, f"expected a JSON object, found {line[:60]}"))
    return bad


MISSING = object()  # the value of a key that an object does not have
SAMPLE_LINES = 1000  # whose keys say what a file has


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = _lines(path).head(SAMPLE_LINES).select("line").collect().to_series().to_list()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): download it again") from None
    return [record for line in lines if (record := _record(line)) is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _at(record: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(record, dict) or key not in record:
            return MISSING
        record = record[key]
    return record


def _struct(kind: Any) -> Any:
    return pl.Struct({key: _struct(value) for key, value in kind.items()}) if isinstance(kind, dict) else kind


def grouplens(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read MovieLens' ratings.dat joined with users.dat beside it.

    The label is 1 for a rating of 4 or 5, else 0.
    """
    ratings = pl.concat([_cells(path, ("UserID", "MovieID", "Rating", "Timestamp")) for path in paths])
    users = _cells(paths[0].with_name("users.dat"), ("UserID", "Gender", "Age", "Occupation", "Zip-code"))
    rating = pl.col("Rating").cast(pl.Int64, strict=False)
    label = pl.when(rating.is_between(1, 5)).then((rating >= 4).cast(pl.Int8).cast(pl.String)).alias("label")
    rows = ratings.join(users.drop("Zip-code"), on="UserID", how="left", maintain_order="left").select(label, pl.all())
    return rows.select(*columns, pl.any_horizontal(pl.col("Timestamp").is_null(), rating.is_null()).alias(SHORT))


def grouplens_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a rating."""
    return _not_matching(path, r"^\d+::\d+::\d+::\d+$", "expected UserID::MovieID::Rating::Timestamp")


KKBOX_BESIDE = {  # file: (key, columns)
    "songs.csv": ("song_id", ["genre_ids", "artist_name", "language"]),
    "members.csv": ("msno", ["city", "gender", "registered_via", "bd"]),
    "song_extra_info.csv": ("song_id", ["isrc"]),
}


def kkbox(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read KKBox's train.csv joined with songs.csv, members.csv and song_extra_info.csv beside it.

    The label is the column `target`.
    """
    own = ["target", "msno", "song_id", "source_system_tab", "source_screen_name", "source_type"]
    rows = csv(paths, own).rename({"target": "label"})
    for name, (key, values) in KKBOX_BESIDE.items():
        beside = csv([paths[0].with_name(name)], [key, *values]).drop(SHORT)
        beside = beside.unique(key, keep="first", maintain_order=True)
        rows = rows.join(beside, on=key, how="left", maintain_order="left")
    return rows.select(*columns, SHORT)


def line_of(path: Path, number: int) -> int:
    """The line (from 1) of a text file that is number `number` (from 0) of its non-blank lines."""
    return _lines(path).slice(number, 1).select("row").collect(engine="streaming").item() + 1


def text_of(path: Path, line: int) -> str:
    """The text of a line (from 1)."""
    return pl.scan_lines(path).slice(line - 1, 1).collect(engine="streaming").item()


def _lines(path: Path) -> pl.LazyFrame:
    """`row` and `line` of the lines that are not blank."""
    return pl.scan_lines(path, row_index_name="row").filter(pl.col("line").str.strip_chars() != "")


def _cells(path: Path, names: Sequence[str]) -> pl.LazyFrame:
    """Cells between `::`; null where a line has too few."""
    parts = pl.col("line").str.strip_chars().str.split("::")
    return _lines(path).select(parts.list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(names))


def _not_matching(path: Path, pattern: str, expected: str) -> list[BadRow]:
    lines = _lines(path).filter(~pl.col("line").str.strip_chars().str.contains(pattern)).head(SHOWN_BAD_ROWS)
    rows = lines.select("row", "line").collect(engine="streaming").rows()
    return [BadRow(row + 1, f"'{text[:60]}', {expected}") for row, text in rows]


class Reader(NamedTuple):
    """How to read one raw layout.

    Attributes:
        rows: `rows(paths, columns, **options)` returns the columns, and `__short`, which is true
            where the row may be cut short (a cheap sign, not a verdict).
        bad_rows: `bad_rows(path, columns, **options)` names the lines that really are.
        first_line: line of the first row.
        options: what a layout in conf/dataset may set beside the files.
        beside: files that must stand beside the named ones.
        lines: whether a row is a line of text.
    """

    rows: Callable[..., pl.LazyFrame]
    bad_rows: Callable[..., list[BadRow]]
    first_line: int = 1
    options: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    lines: bool = True


READERS = {
    "csv": Reader(csv, csv_bad_rows, first_line=2, options=("separator", "header", "quote")),
    "libsvm": Reader(libsvm, libsvm_bad_rows),
    "parquet": Reader(parquet, no_bad_rows, lines=False),
    "arrow": Reader(arrow, no_bad_rows, lines=False),
    "ndjson": Reader(ndjson, ndjson_bad_rows),
    "grouplens": Reader(grouplens, grouplens_bad_rows, beside=("users.dat",)),
    "kkbox": Reader(kkbox, csv_bad_rows, first_line=2, beside=tuple(KKBOX_BESIDE)),
}
