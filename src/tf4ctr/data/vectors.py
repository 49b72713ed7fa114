"""Vectors of a field's values: from a file beside the raw files to vectors/NAME.parquet."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.passes import Known
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS, SHORT, as_text
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError

# the reader of a file by the end of its name, without .gz or .zst
BY_SUFFIX = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def prepare(spec: DatasetSpec, known: Known, raw: RawFiles, folder: Path) -> None:
    """Write the vectors of every field that has a file, one row per known value, in table order.

    Args:
        spec: the dataset.
        known: the known values.
        raw: the raw files, beside which the vectors are.
        folder: `vectors/` of the prepared dataset.

    Raises:
        InputError: a file without the columns, with an invalid vector, with two vectors of one
            value, or without a vector of any known value.
    """
    keys = {field.name: field for field in spec.fields}
    for field in spec.fields:
        if field.file is not None:
            path = next(iter(raw.files.values()))[0].parent / field.file
            table = _read(path, field, keys[str(field.of)])
            folder.mkdir(exist_ok=True)
            _in_order(path, table, known.values[str(field.of)]).write_parquet(folder / f"{field.name}.parquet")


def _read(path: Path, field: FieldSpec, key: FieldSpec) -> pl.DataFrame:
    """Columns `key` and `vector` of a file."""
    suffix = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix
    rows = READERS[BY_SUFFIX.get(suffix, "csv")].rows([path], [key.raw, field.raw])
    dtypes = rows.collect_schema()
    bad = field.bad(dtypes[field.raw])
    assert bad is not None
    key_text = as_text(pl.col(key.raw), dtypes[key.raw])
    table = (
        rows.drop(SHORT)
        .select(key_text.alias("key"), field.value(dtypes[field.raw]).alias("vector"), bad.alias("bad"))
        .collect()
    )
    for condition, what in ((pl.col("bad"), "is not"), (pl.col("vector").is_null(), "has none, not")):
        if len(wrong := table.filter(condition)):
            value = wrong["key"][0]
            raise InputError(f"{path}: the vector of {key.raw} {value!r} {what} {field.expected}")
    if len(twice := table.filter(pl.col("key").is_duplicated())):
        raise InputError(f"{path}: {key.raw} {twice['key'][0]!r} has several vectors, expected one")
    return table


def _in_order(path: Path, table: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """The column `vector` in the order of `values`, null where the file has none."""
    ordered = values.to_frame("key").join(table, on="key", how="left", maintain_order="left").select("vector")
    if len(ordered) and ordered["vector"].null_count() == len(ordered):
        raise InputError(
            f"{path} has no vector of any known value: it has {table['key'][:2].to_list()},"
            f" the values are {values[:2].to_list()}"
        )
    return ordered


def load(name: str, folder: Path, width: int) -> NDArray[np.float32]:
    """Read what `prepare` wrote: vectors float32 [n, V], NaN where a value has none.

    Args:
        name: of the field.
        folder: `vectors/` of the prepared dataset.
        width: V.
    """
    column = pl.read_parquet(folder / f"{name}.parquet")["vector"]
    numbers = [column.list.get(number, null_on_oob=True).cast(pl.Float32) for number in range(width)]
    table = pl.DataFrame({str(number): values for number, values in enumerate(numbers)})
    return table.fill_null(float("nan")).to_numpy(order="c")
