"""The raw files of a dataset: a layout and the files that match it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.readers import READERS, BadRow, as_text, compressed, text_of
from tf4ctr.errors import InputError

SHOWN_CHARACTERS = 200  # of an invalid line, in its error


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a dataset: a layout of `dataset.layouts` and the files that match it.

    Attributes:
        reader: name in `READERS`.
        options: of the reader.
        files: split -> its files, or `all` -> the files of a set without splits.
        null_values: texts that mean a missing value.
        beside: names of files with vectors.
        folder: of the dataset, in which these are; None for the folder of the first file.
    """

    reader: str
    options: Mapping[str, Any]
    files: Mapping[str, list[Path]]
    null_values: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    folder: Path | None = None

    def path_beside(self, name: str) -> Path:
        """The path of a file that is beside the rows' files."""
        return (self.folder or next(iter(self.files.values()))[0].parent) / name

    def rows(self, paths: list[Path], columns: list[str], numbers: Collection[str] = ()) -> pl.LazyFrame:
        """The given columns of some of the files, and `__short`.

        Args:
            paths: the files.
            columns: their raw columns, which become texts or lists of texts.
            numbers: those of them that stay numbers where the file has numbers.

        Raises:
            InputError: see the readers, and `text_or_number`.
        """
        rows = READERS[self.reader].rows(paths, columns, **self.options)
        dtypes = rows.collect_schema()
        values = {
            name: text_or_number(pl.col(name), dtypes[name], name in numbers, self.null_values) for name in columns
        }
        return rows.with_columns(**values)

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
        reader, number = READERS[self.reader], self.first_line + row - 1
        return reader.line_of(path, number, **self.options) if reader.lines else number + 1

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
        beside = [stat(self.path_beside(name)) for name in (*READERS[self.reader].beside, *self.beside)]
        options = {"options": dict(self.options)} if self.options else {}
        return {"reader": self.reader, **options, **files, **({"beside": beside} if beside else {})}


def text_or_number(raw: pl.Expr, dtype: pl.DataType, is_number: bool, null_values: Sequence[str]) -> pl.Expr:
    """A raw column as preparation and prediction read it; null where it means a missing value.

    An empty text means one in every format, as an empty cell of a csv does. In a list it is left to
    the field.

    Args:
        raw: the column.
        dtype: its type.
        is_number: whether it is only used as a number, and stays one if the file has numbers.
        null_values: texts that mean a missing value.

    Raises:
        InputError: a column of durations, which have no text.
    """
    element = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if isinstance(element, pl.Duration):
        raise InputError(
            f"column '{raw.meta.output_name()}' is {dtype}: write its durations as numbers, for example of seconds"
        )
    text = as_text(raw, dtype)
    value = raw if is_number and element.is_numeric() else text
    if dtype.is_nested():
        return value
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        value = pl.when(text != "").then(value)
    return pl.when(~text.is_in(null_values)).then(value) if null_values else value
