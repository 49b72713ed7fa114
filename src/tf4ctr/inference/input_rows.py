"""The rows of a file to predict: how it is read, and its values as preparation has them."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import polars as pl

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.raw_files import RawFiles, text_or_number
from tf4ctr.data.readers import READERS, SCANS, SHORT, check_columns, csv_lines, scan_ndjson
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL
from tf4ctr.data.vectors import BY_SUFFIX
from tf4ctr.errors import InputError

LINE = "__line"  # the column of line numbers
READ = "__read."  # before the name of a column that is not the input's own, see `open_rows`


def prepared_values(spec: DatasetSpec, dtypes: pl.Schema, columns: list[str]) -> list[pl.Expr]:
    """Raw columns as `RawFiles.rows` gives them to the preparation: texts, lists of texts, numbers.

    Texts that mean a missing value are null.
    """
    source = {name: READ + name if READ + name in dtypes else name for name in columns}
    return [
        _value(pl.col(source[name]), dtypes[source[name]], name in spec.numbers, spec.null_values).alias(name)
        for name in columns
    ]


def _value(raw: pl.Expr, dtype: pl.DataType, is_number: bool, null_values: Sequence[str]) -> pl.Expr:
    raw = raw.fill_nan(None) if is_number and dtype.is_float() else raw
    return text_or_number(raw, dtype, is_number, null_values)


def faulty_rows(frame: pl.DataFrame, reason: pl.Series) -> pl.DataFrame:
    """The rows with a reason: `line`, `reason` and the `row` as one text."""
    cells = [
        pl.struct(name).struct.json_encode() if dtype.is_nested() else pl.col(name).cast(pl.String, strict=False)
        for name, dtype in frame.select(own_columns(frame.columns)).schema.items()
    ]
    row = pl.concat_str([cell.fill_null("") for cell in cells], separator=",").alias("row")
    return frame.select(pl.col(LINE).cast(pl.UInt32).alias("line"), reason, row).filter(reason.is_not_null())


def complete_lines(raw: RawFiles, source: Path, target: Path) -> tuple[RawFiles, pl.DataFrame]:
    """Copy the lines with the header's number of cells to `target`, each with its number before it.

    Returns:
        How to read `target`, and the other lines as `line`, `reason` and `row`.
    """
    separator = raw.options.get("separator", ",")
    names, lines = csv_lines(source, **raw.options)
    number, bad = pl.col("row") + 1, (pl.col("cells") != len(names)) | pl.col("unclosed")
    numbered = pl.concat_str(number.cast(pl.String), "line", separator=separator)
    lines.filter(~bad).select(numbered).sink_csv(target, include_header=False, quote_style="never")
    reason = (
        pl.when("unclosed")
        .then(pl.lit("a quote without its pair"))
        .otherwise(pl.format(f"{{}} cells, the header has {len(names)}", "cells"))
    )
    bad_lines = lines.filter(bad).select(
        number.cast(pl.UInt32).alias("line"), reason.alias("reason"), pl.col("line").alias("row")
    )
    complete = RawFiles("csv", {**raw.options, "header": [LINE, *names]}, {ALL: [target]})
    return complete, bad_lines.collect(engine="streaming")


def raw_files(spec: DatasetSpec, source: Path) -> RawFiles:
    """How to read `source`: by its suffix, or as the dataset's first csv layout says."""
    if not source.is_file():
        raise InputError(f"input={source}: the file does not exist")
    suffix = Path(source.name.removesuffix(".gz").removesuffix(".zst")).suffix
    reader = {**BY_SUFFIX, ".libsvm": "libsvm", ".svm": "libsvm"}.get(suffix, "csv")
    for layout in spec.layouts:
        if layout["reader"] == reader:
            options = {key: layout[key] for key in READERS[reader].options if key in layout}
            return RawFiles(reader, options, {ALL: [source]})
    if reader in BY_SUFFIX.values() or suffix == ".csv" or source.suffix in (".gz", ".zst"):
        return RawFiles(reader, {}, {ALL: [source]})
    raise InputError(
        f"input={source}: no layout of {spec.name} reads it; give a .parquet, .csv, .ndjson or .arrow file with the"
        " raw columns"
    )


def raw_columns(encoder: RowEncoder, columns: Collection[str]) -> list[str]:
    """The raw columns that are encoded: all of the fields, and those of histories that there are.

    Args:
        encoder: of the run.
        columns: of the rows, as `open_rows` returns them.
    """
    return [*encoder.columns, *(name for name in encoder.optional if name in columns or READ + name in columns)]


def open_rows(spec: DatasetSpec, raw: RawFiles, encoder: RowEncoder) -> pl.LazyFrame:
    """All columns of the file as they are, `__short`, and `__line` (of parquet the row, from 1).

    Of ndjson also the columns that are read as in the preparation, with the prefix `__read.`: a
    column can be a key of an object.

    Raises:
        InputError: a column is missing or has a type that its fields do not take; a history is
            incomplete, or can neither be read nor joined.
    """
    (source,) = raw.files[ALL]
    columns = spec.columns if raw.reader == "libsvm" else encoder.columns
    rows = raw.rows([source], columns)  # raises if a column is missing
    if raw.reader in SCANS:
        rows = SCANS[raw.reader](source).with_columns(pl.lit(False).alias(SHORT))
    if raw.reader == "ndjson":
        own = scan_ndjson([source], infer_schema_length=None)  # of all lines
        # a history can be null in the first lines, which say how the columns of fields are read
        inner = {name: _inside(name, own.collect_schema()) for name in encoder.optional}
        own_and_inner = own.with_columns(**{READ + name: key for name, key in inner.items() if key is not None})
        rows = pl.concat([own_and_inner, rows.rename({name: READ + name for name in columns})], how="horizontal")
    if raw.reader == "csv":
        names, _ = csv_lines(source, **raw.options)
        rows = raw.rows([source], names)
        # `__short` is also true if the last cell is empty: ask whether a row really is short
        if LINE in names or not raw.bad_rows(source, names):
            rows = rows.with_columns(pl.lit(False).alias(SHORT))
    check_types(spec, raw, encoder, rows)
    return rows if LINE in rows.collect_schema() else rows.with_row_index(LINE, offset=raw.first_line)


def _inside(name: str, dtypes: pl.Schema) -> pl.Expr | None:
    """The key b of an object a for the name `a.b`; None if a line has no such key."""
    first, *keys = name.split(".")
    value, dtype = pl.col(first), dtypes.get(first)
    for key in keys:
        inner = {field.name: field.dtype for field in dtype.fields} if isinstance(dtype, pl.Struct) else {}
        value, dtype = value.struct.field(key), inner.get(key)  # type: ignore[assignment]
    return value if keys and dtype is not None else None


def check_types(spec: DatasetSpec, raw: RawFiles, encoder: RowEncoder, rows: pl.LazyFrame) -> None:
    """Check the types of the columns that are encoded.

    Raises:
        InputError: a type that its fields do not take; a history that is incomplete, or can neither
            be read nor joined.
    """
    dtypes = rows.collect_schema()
    names = raw_columns(encoder, dtypes)
    if raw.reader in SCANS:
        raw.rows(raw.files[ALL], names)  # raises for a type that holds no values
    encoder.check(rows.select(prepared_values(spec, dtypes, names)).collect_schema())


def frame_rows(spec: DatasetSpec, frame: pl.DataFrame, encoder: RowEncoder) -> pl.LazyFrame:
    """The raw columns of a frame as `open_rows` has those of a file, its rows counted from 1.

    Raises:
        InputError: see `open_rows`.
    """
    names = raw_columns(encoder, frame.columns)
    check_columns("frame", frame.schema, names)
    encoder.check(frame.lazy().select(prepared_values(spec, frame.schema, names)).collect_schema())
    return frame.lazy().select(*names, pl.lit(False).alias(SHORT)).with_row_index(LINE, offset=1)


def own_columns(columns: Iterable[str]) -> list[str]:
    """The input's own columns."""
    return [name for name in columns if name not in (LINE, SHORT) and not name.startswith(READ)]
