"""Vectors of a field's values: from a file beside the raw files to vectors/NAME.parquet."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.passes import Known
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS, as_text
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError

KEY = "__key"  # the text of a value, beside the raw columns
# the reader of a file by the end of its name, without .gz or .zst
BY_SUFFIX = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ndjson": "ndjson", ".jsonl": "ndjson"}
HDF5 = (".h5", ".hdf5")


def prepare(spec: DatasetSpec, known: Known, raw: RawFiles, folder: Path) -> None:
    """Write the vectors of every field that has a file, one row per known value, in table order.

    Vectors of other values are left aside, unchecked.

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
            path = raw.path_beside(field.file)
            values = known.values[str(field.of)]
            table = _read(path, field, keys[str(field.of)], values)
            folder.mkdir(exist_ok=True)
            ordered = values.to_frame(KEY).join(table, on=KEY, how="left", maintain_order="left")
            ordered.select("vector").write_parquet(folder / f"{field.name}.parquet")


def _read(path: Path, field: FieldSpec, key: FieldSpec, values: pl.Series) -> pl.DataFrame:
    """The known values that a file has, as texts, and their `vector`."""
    suffix = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix
    if suffix in HDF5:
        rows = _hdf5(path, key.raw, field.raw)
    else:
        rows = READERS[BY_SUFFIX.get(suffix, "csv")].rows([path], [key.raw, field.raw])
    dtypes = rows.collect_schema()
    bad = field.bad(dtypes[field.raw])
    assert bad is not None
    rows = rows.with_columns(as_text(pl.col(key.raw), dtypes[key.raw]).alias(KEY))
    wanted = rows.join(values.to_frame(KEY).lazy(), on=KEY, how="semi")
    table = wanted.select(KEY, field.value(dtypes[field.raw]).alias("vector"), bad.alias("bad")).collect()
    for condition, what in ((pl.col("bad"), "is not"), (pl.col("vector").is_null(), "has none, not")):
        if len(wrong := table.filter(condition)):
            raise InputError(f"{path}: the vector of {key.raw} {wrong[KEY][0]!r} {what} {field.expected}")
    if len(twice := table.filter(pl.col(KEY).is_duplicated())):
        raise InputError(f"{path}: {key.raw} {twice[KEY][0]!r} has several vectors, expected one")
    if len(values) and not len(table):
        found = rows.select(KEY).head(2).collect()[KEY].to_list()
        raise InputError(
            f"{path} has no vector of any known value: it has {found}, the values are {values[:2].to_list()}"
        )
    return table


def _hdf5(path: Path, key: str, vector: str) -> pl.LazyFrame:
    """The arrays `key` [N] and `value` [N, V] of an HDF5 file, as FuxiCTR writes vectors.

    Args:
        path: the file.
        key, vector: names of the two columns.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f'{path} needs h5py ({error}): pip install -e ".[hdf5]"') from error
    try:
        with h5py.File(path) as file:
            found = {name: file[name].shape for name in ("key", "value") if name in file}
            rows, shape = found.get("key", ()), found.get("value", ())
            if len(rows) != 1 or len(shape) != 2 or rows[0] != shape[0]:
                raise InputError(f"{path}: expected the arrays key [N] and value [N, V], found {found or [*file]}")
            is_text = h5py.check_string_dtype(file["key"].dtype) is not None
            keys = (file["key"].asstr() if is_text else file["key"])[:]
            return pl.LazyFrame({key: keys, vector: file["value"].astype(np.float32)[:]})
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}): write or download it again") from None


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
