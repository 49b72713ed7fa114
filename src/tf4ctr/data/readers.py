"""A raw layout -> polars LazyFrame of text columns, one short function per layout.

Nothing is read until the frame is collected. A column is text, or a list of texts where the file
itself has lists (parquet). The functions are in text_readers.py, typed_readers.py and
joined_readers.py; `READERS` names them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.data.joined_readers import (
    KKBOX_BESIDE,
    grouplens,
    grouplens_100k,
    grouplens_100k_bad_rows,
    grouplens_bad_rows,
    kkbox,
)
from tf4ctr.data.text_readers import (
    SHORT,
    BadRow,
    compressed,
    csv,
    csv_bad_rows,
    csv_line_of,
    csv_lines,
    libsvm,
    libsvm_bad_rows,
    line_of,
    text_of,
)
from tf4ctr.data.typed_readers import (
    INTEGERS,
    SCANS,
    alike,
    arrow,
    as_text,
    check_columns,
    ndjson,
    ndjson_bad_rows,
    ndjson_keys,
    no_bad_rows,
    parquet,
    scan_ndjson,
)

__all__ = [
    "INTEGERS",
    "READERS",
    "SCANS",
    "SHORT",
    "BadRow",
    "Reader",
    "alike",
    "as_text",
    "check_columns",
    "compressed",
    "csv_lines",
    "scan_ndjson",
    "text_of",
]


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
        line_of: `line_of(path, number, **options)` is the line (from 1) that is number `number`
            (from 0) of those that are not blank, the header's included.
        same: `same(paths, columns)` are the options with which `rows` reads some of these files as
            it reads all of them together; None if it does without.
    """

    rows: Callable[..., pl.LazyFrame]
    bad_rows: Callable[..., list[BadRow]]
    first_line: int = 1
    options: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    lines: bool = True
    line_of: Callable[..., int] = line_of
    same: Callable[[list[Path], list[str]], dict[str, Any]] | None = None


READERS = {
    "csv": Reader(csv, csv_bad_rows, first_line=2, options=("separator", "header", "quote"), line_of=csv_line_of),
    "libsvm": Reader(libsvm, libsvm_bad_rows),
    "parquet": Reader(parquet, no_bad_rows, lines=False),
    "arrow": Reader(arrow, no_bad_rows, lines=False),
    "ndjson": Reader(ndjson, ndjson_bad_rows, same=lambda paths, columns: {"keys": ndjson_keys(paths, columns)}),
    "grouplens": Reader(grouplens, grouplens_bad_rows, beside=("users.dat",)),
    "grouplens_100k": Reader(grouplens_100k, grouplens_100k_bad_rows, beside=("u.user", "u.item")),
    "kkbox": Reader(kkbox, csv_bad_rows, first_line=2, beside=tuple(KKBOX_BESIDE), line_of=csv_line_of),
}
