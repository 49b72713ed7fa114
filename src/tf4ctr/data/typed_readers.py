"""Raw layouts whose values have types: parquet, Arrow IPC, and one JSON object per line."""

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.data.text_readers import SHORT, SHOWN_BAD_ROWS, BadRow, text_lines
from tf4ctr.errors import InputError, did_you_mean

INTEGERS = 2.0**53  # floats below this hold whole numbers exactly
MISSING = object()  # the value of a key that an object does not have
# by reader; a name with brackets is a name, no pattern
SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    "parquet": partial(pl.scan_parquet, glob=False),
    "arrow": partial(pl.scan_ipc, glob=False),
}
SAMPLE_LINES = 1000  # whose keys say what a file has


def as_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert a raw column of any type to the text that names its value, a list to a list of texts.

    Whole numbers of a float column become integers (3.0 -> "3"), so that a column has the same
    values whether a missing one made it a float or not. NaN is a missing value.
    """
    if isinstance(dtype, pl.Array):
        return as_text(value.arr.to_list(), pl.List(dtype.inner))
    if isinstance(dtype, pl.List):
        return value.list.eval(as_text(pl.element(), dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Decimal):  # exactly: ids of more than 15 digits are no floats
        digits = value.cast(pl.String)
        return digits if dtype.scale == 0 else digits.str.strip_chars_end("0").str.strip_chars_end(".")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if dtype.is_float():
        whole = (value == value.floor()) & (value.abs() < INTEGERS)
        integer = pl.when(whole).then(value).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.coalesce(integer, value.fill_nan(None).cast(pl.String))
    return value.cast(pl.String)


def parquet(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read parquet files; their columns keep their types, see `as_text`.

    Raises:
        InputError: a file is cut short, lacks one of `columns`, has a type that holds no values, or
            has a list where the first file has none.
    """
    return _typed(SCANS["parquet"], "parquet", paths, columns)


def arrow(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read Arrow IPC files (Feather), as `parquet` does."""
    return _typed(SCANS["arrow"], "Arrow IPC", paths, columns)


def _typed(scan: Callable[[Path], pl.LazyFrame], kind: str, paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    frames = []
    for path in paths:
        try:
            dtypes = scan(path).collect_schema()
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"{path} is not a readable {kind} file ({error}): write or download it again") from None
        check_columns(path, dtypes, columns)
        frames.append(scan(path).select(*columns, pl.lit(False).alias(SHORT)))
    return alike(frames, paths)


def check_columns(source: Path | str, dtypes: Mapping[str, pl.DataType], columns: Sequence[str]) -> None:
    """Check that `source`, a file or a frame with these types, has the columns.

    Raises:
        InputError: it lacks one, or one has a type that holds no values.
    """
    for column in columns:
        if column not in dtypes:
            raise InputError(f"{source}: no column '{column}' ({did_you_mean(column, dtypes)})")
        _check_type(source, column, dtypes[column])


def no_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Return nothing: all rows of a typed file have the same columns."""
    return []


def alike(frames: list[pl.LazyFrame], paths: list[Path]) -> pl.LazyFrame:
    """Join files, or splits; a column whose type differs becomes text in all of them.

    Args:
        frames: rows with the same columns.
        paths: the file of each, which an error names.

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


def _check_type(source: Path | str, column: str, dtype: pl.DataType) -> None:
    value = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if value.is_nested() or value in (pl.Binary, pl.Object):
        raise InputError(f"{source}: column '{column}' is {dtype}, expected text, numbers, or a list of them")


def ndjson(paths: list[Path], columns: list[str], keys: "Mapping[str, Keys] | None" = None) -> pl.LazyFrame:
    """Read files of one JSON object per line, also compressed; `a.b` is the key b of an object a.

    A value becomes its text; a key that holds a list in the first lines is a list.

    Args:
        paths: the files.
        columns: those to keep.
        keys: of the columns, from `ndjson_keys`; None for those of these files.

    Raises:
        InputError: a key that the first lines do not have.
    """
    keys = ndjson_keys(paths, columns) if keys is None else keys
    schema: dict[str, Any] = {}
    values = {}
    for column in columns:
        path, is_list = keys[column]
        level = schema
        for key in path[:-1]:
            level = level.setdefault(key, {})
        level[path[-1]] = pl.List(pl.String) if is_list else pl.String
        value = pl.col(path[0])
        for key in path[1:]:
            value = value.struct.field(key)
        values[column] = value
    rows = scan_ndjson(paths, schema={name: _struct(kind) for name, kind in schema.items()})
    return rows.select(**values, **{SHORT: pl.lit(False)})


class Keys(NamedTuple):
    """Where a column is in a JSON object: the key in each level, and whether it is a list."""

    path: list[str]
    is_list: bool


def ndjson_keys(paths: list[Path], columns: list[str]) -> dict[str, Keys]:
    """Where each column is, by the first lines of the files.

    Raises:
        InputError: a key that the first lines do not have.
    """
    samples = [record for path in paths for record in _records(path)]
    keys = {}
    for column in columns:
        path = [column] if any(column in record for record in samples) else column.split(".")
        found = [_at(record, path) for record in samples]
        if all(value is MISSING for value in found):
            known = sorted({key for record in samples for key in record})
            names = ", ".join(str(path) for path in paths)
            raise InputError(f"{names}: no key '{column}' in the first lines ({did_you_mean(column, known)})")
        keys[column] = Keys(path, any(isinstance(value, list) for value in found))
    return keys


def scan_ndjson(paths: Sequence[Path], **options: Any) -> pl.LazyFrame:
    """polars' `scan_ndjson` of these files; it would read their names as patterns."""
    return pl.scan_ndjson([glob.escape(str(path)) for path in paths], **options)


def ndjson_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a JSON object."""
    bad: list[BadRow] = []
    for batch in text_lines(path).collect_batches(engine="streaming"):
        for row, line in batch.select("row", "line").rows():
            if len(bad) < SHOWN_BAD_ROWS and _record(line) is None:
                bad.append(BadRow(row + 1, f"expected a JSON object, found {line[:60]}"))
    return bad


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = text_lines(path).head(SAMPLE_LINES).select("line").collect().to_series().to_list()
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
