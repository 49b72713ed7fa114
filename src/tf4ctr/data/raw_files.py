"""The raw files of a dataset: a layout and the files that match it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.readers import READERS, BadRow, as_text, compressed, line_of, text_of

SHOWN_CHARACTERS = 200  # of an invalid line, in its error


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a dataset: a layout of `dataset.layouts` and the files that match it.

    Attributes:
        reader: name in `READERS`.
        options: of the reader.
        files: split -> its files, or `all` -> the files of a set without splits.
        null_values: texts that mean a missing value.
        beside: names of files with vectors, in the folder of the others.
    """

    reader: str
    options: Mapping[str, Any]
    files: Mapping[str, list[Path]]
    null_values: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def rows(self, paths: list[Path], columns: list[str], numbers: Collection[str] = ()) -> pl.LazyFrame:
        """The given columns of some of the files, and `__short`.

        Args:
            paths: the files.
            columns: their raw columns, which become texts or lists of texts.
            numbers: those of them that stay numbers where the file has numbers.
        """
        rows = READERS[self.reader].rows(paths, columns, **self.options)
        dtypes = rows.collect_schema()
        return rows.with_columns(self._value(name, dtypes[name], name in numbers) for name in columns)

    def _value(self, name: str, dtype: pl.DataType, is_number: bool) -> pl.Expr:
        """A column as text or number; null where its text means a missing value."""
        text = as_text(pl.col(name), dtype)
        value = pl.col(name) if _stays(dtype, is_number) else text
        if self.null_values and not dtype.is_nested():
            value = pl.when(~text.is_in(self.null_values)).then(value)
        return value.alias(name)

    def bad_rows(self, path: Path, columns: list[str]) -> list[BadRow]:
        """The invalid lines of one file."""
        return READERS[self.reader].bad_rows(path, columns, **self.options)

    @property
    def first_line(self) -> int:
        """Line of a file's first row."""
        return 1 if self.options.get("header") else READERS[self.reader].first_line

    @property
    def unit(self) -> str:
        """What a row of the file is called: a line of text, or a row."""
        return "line" if READERS[self.reader].lines else "row"

    def line_of(self, path: Path, row: int) -> int:
        """The line (from 1) of a file's row (from 0), blank lines counted; of parquet the row."""
        number = self.first_line + row - 1
        return line_of(path, number) if READERS[self.reader].lines else number + 1

    def shown(self, path: Path, line: int) -> str:
        """The line itself, below an error that names it; nothing for a file without lines."""
        return f"\n  {text_of(path, line)[:SHOWN_CHARACTERS]}" if READERS[self.reader].lines else ""

    @property
    def bytes(self) -> int:
        """Size of all files; a gzipped one counts five times, the usual ratio for click logs."""
        paths = [path for paths in self.files.values() for path in paths]
        return sum(path.stat().st_size * (5 if compressed(path) else 1) for path in paths)

    def fingerprint(self) -> dict[str, Any]:
        """Reader, its options, and name, size and time of every file, as JSON has it."""

        def stat(path: Path) -> list[Any]:
            return [path.name, path.stat().st_size, path.stat().st_mtime_ns]

        files = {split: [stat(path) for path in paths] for split, paths in self.files.items()}
        folder = next(iter(self.files.values()))[0].parent
        beside = [stat(folder / name) for name in (*READERS[self.reader].beside, *self.beside)]
        options = {"options": dict(self.options)} if self.options else {}
        return {"reader": self.reader, **options, **files, **({"beside": beside} if beside else {})}


def _stays(dtype: pl.DataType, is_number: bool) -> bool:
    value = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return dtype == pl.String or (is_number and value.is_numeric())
