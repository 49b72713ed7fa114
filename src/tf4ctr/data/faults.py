"""Which line of which raw file is invalid, and what to do about it.

`checks` finds out whether a split has invalid rows. The other functions then find the line.
"""

from collections.abc import Mapping
from typing import NoReturn

import polars as pl

from tf4ctr.data.readers import SHORT, gzipped
from tf4ctr.data.spec import ALL, DatasetSpec, RawFiles
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

BAD_LABEL = "bad_labels"
TRUTH = {"true": 1.0, "false": 0.0}  # labels that are words, in any case
EXPECTED_LABEL = "0 or 1, or true or false"
SHOWN_ERROR = 200  # characters of a library's message


def label(spec: DatasetSpec) -> pl.Expr:
    """The label as a number: 0, 1, 0.0, 1.0, true and false in any case.

    Other numbers stay what they are, other texts are null.
    """
    text = pl.col(spec.label)
    words = text.str.to_lowercase().replace_strict(TRUTH, default=None, return_dtype=pl.Float64)
    return pl.coalesce(text.cast(pl.Float64, strict=False), words).alias(spec.label)


def _bad_label(spec: DatasetSpec) -> pl.Expr:
    return ~label(spec).is_in([0.0, 1.0]).fill_null(False)


def bad_value(column: str, transform: str) -> pl.Expr:
    """Whether a raw text lacks the form that the transform needs; a missing value does not."""
    return (~pl.col(column).str.contains(TRANSFORMS[transform].pattern)).fill_null(False)


def checks(spec: DatasetSpec) -> list[pl.Expr]:
    """Counts of invalid rows: `bad_labels`, `__short`, `bad NAME` of fields with a transform."""
    counts = {BAD_LABEL: _bad_label(spec), SHORT: pl.col(SHORT)}
    counts |= {f"bad {field.name}": bad_value(field.raw, field.transform) for field in spec.fields if field.transform}
    return [invalid.sum().cast(pl.Int64).alias(name) for name, invalid in counts.items()]


def check_types(spec: DatasetSpec, dtypes: Mapping[str, pl.DataType]) -> None:
    """Check the types of the raw columns, before any row is read.

    Raises:
        InputError: a list where one value is needed, or the reverse.
    """
    for key in ("label", "group", "click_probability"):
        column = getattr(spec, key)
        if column and isinstance(dtypes[column], pl.List):
            raise InputError(f"dataset.{key}: its column '{column}' is a list, expected one value per row")
    for field in spec.fields:
        field.value(dtypes[field.raw])


def refuse_unreadable(spec: DatasetSpec, raw: RawFiles, split: str, error: Exception) -> NoReturn:
    """Raise for a raw file that cannot be read to its end; name its invalid lines."""
    for path in raw.files[split]:
        if gzipped(path):
            continue  # a line of the file is not a line of the text
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as fault:
                    raise InputError(
                        f"{path}, line {number}: byte {fault.object[fault.start]:#04x} at column {fault.start + 1}"
                        " is not UTF-8; convert the file first (iconv -f latin1 -t utf-8)"
                    ) from None
    refuse_short_rows(spec, raw, split)
    names = ", ".join(str(path) for path in raw.files[split])
    lines = str(error).strip().splitlines()
    last = lines[-1][:SHOWN_ERROR] if len(lines) > 1 else ""
    raise InputError(f"{names} cannot be read: {lines[0][:SHOWN_ERROR]} {last}".rstrip()) from None


def refuse_short_rows(spec: DatasetSpec, raw: RawFiles, split: str) -> None:
    """Raise if a line has too few or too many cells, or a quote without its pair.

    An empty last cell is valid.
    """
    for path in raw.files[split]:
        try:
            bad = raw.bad_rows(path, spec.columns)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(
                f"{path} cannot be read to its end ({str(error).splitlines()[0]}): download it again"
            ) from None
        if bad:
            lines = "\n".join(f"  line {line}: {reason}" for line, reason in bad)
            raise InputError(f"{path} has invalid rows:\n{lines}\nMend or remove them, or download the file again")


def refuse_invalid(spec: DatasetSpec, raw: RawFiles, split: str, counts: Mapping[str, int]) -> None:
    """Raise for what `checks` counted, with the first invalid line."""
    if counts[SHORT]:
        refuse_short_rows(spec, raw, split)
    if counts[BAD_LABEL]:
        _refuse_first(spec, raw, split, _bad_label(spec), spec.label, EXPECTED_LABEL, counts[BAD_LABEL])
    for field in spec.fields:
        if field.transform and counts[f"bad {field.name}"]:
            expected, invalid = TRANSFORMS[field.transform].expected, bad_value(field.raw, field.transform)
            _refuse_first(spec, raw, split, invalid, field.raw, expected, counts[f"bad {field.name}"])


def _refuse_first(
    spec: DatasetSpec, raw: RawFiles, split: str, invalid: pl.Expr, column: str, expected: str, count: int
) -> None:
    for path in raw.files[split]:
        rows = raw.rows([path], spec.columns).with_row_index("__row").filter(invalid).select("__row", column)
        first = rows.head(1).collect()
        if len(first):
            row, value = first.row(0)
            line = raw.line_of(path, row)
            again = " (the header again: were files joined?)" if value == column else ""
            raise InputError(
                f"{path}, {raw.unit} {line}: column '{column}' is {value!r}{again}, expected {expected}"
                f" ({count:,} such rows){raw.shown(path, line)}"
            )


def refuse_counts(spec: DatasetSpec, raw: RawFiles, rows: Mapping[str, int]) -> None:
    """Raise for a split without rows, or with another number of rows than `dataset.rows` says."""
    for split, count in rows.items():
        names = ", ".join(str(path) for path in raw.files.get(split) or raw.files[ALL])
        if not count:
            raise InputError(f"{names} has no rows: the {split} split needs at least one")
        if spec.rows is None or spec.limit_rows:
            continue
        read, expected, where = count, spec.rows[split], f"in its {split} split"
        if ALL in raw.files:
            read, expected, where = sum(rows.values()), sum(spec.rows.values()), "in all"
        if read != expected:
            raise InputError(
                f"{names} has {read:,} rows, {spec.name} has {expected:,} {where}: the file is incomplete, or another"
                " one. Download it again, or set dataset.rows=null to take it as it is"
            )
