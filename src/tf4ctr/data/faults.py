"""Which line of which raw file is at fault, and what to do: looked for only once preparation has met something wrong."""

from typing import NoReturn

import polars as pl

from tf4ctr.data.readers import gzipped
from tf4ctr.data.spec import ALL, DatasetSpec, RawFiles
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

BAD_LABEL = "bad_labels"
SHORT = "short"


def checks(spec: DatasetSpec) -> list[pl.Expr]:
    """Counts that must be zero: `bad_labels`, `short`, and for each field with a transform, rows that it cannot take (`bad NAME`)."""
    odd = [
        bad_value(field.raw, field.transform).sum().alias(f"bad {field.name}")
        for field in spec.fields
        if field.transform
    ]
    return [_bad_label(spec).sum().alias(BAD_LABEL), pl.col("__short").sum().alias(SHORT), *odd]


def label(spec: DatasetSpec) -> pl.Expr:
    """The label as a number; null where it is none."""
    return pl.col(spec.label).cast(pl.Float64, strict=False)


def _bad_label(spec: DatasetSpec) -> pl.Expr:
    return ~label(spec).is_in([0.0, 1.0]).fill_null(False)


def bad_value(column: str, transform: str) -> pl.Expr:
    """Whether the raw text is none that the transform can take; a missing value is not at fault."""
    return (~pl.col(column).str.contains(TRANSFORMS[transform].pattern)).fill_null(False)


def refuse_unreadable(spec: DatasetSpec, raw: RawFiles, split: str, error: Exception) -> NoReturn:
    """Raise for a raw file that the reader could not get through: the lines at fault where they can be told."""
    for path in raw.files[split]:
        if gzipped(path):
            continue  # lines are those of the text inside
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as fault:
                    raise InputError(
                        f"{path}, line {number}: byte {fault.object[fault.start]:#04x} at column {fault.start + 1} is not UTF-8;"
                        " convert the file first (iconv -f latin1 -t utf-8)"
                    ) from None
    refuse_short_rows(spec, raw, split)
    names = ", ".join(str(path) for path in raw.files[split])
    message = str(error).strip().splitlines()
    raise InputError(
        f"{names} cannot be read: {message[0][:200]} {message[-1][:200] if len(message) > 1 else ''}".rstrip()
    ) from None


def refuse_short_rows(spec: DatasetSpec, raw: RawFiles, split: str) -> None:
    """Raise if there are lines with too few or too many cells; a last cell that is only empty is none."""
    for path in raw.files[split]:
        try:
            bad = raw.bad_rows(path, spec.columns)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(
                f"{path} cannot be read to its end ({str(error).splitlines()[0]}): download it again"
            ) from None
        if bad:
            lines = "\n".join(f"  line {line}: {reason}" for line, reason in bad)
            raise InputError(
                f"{path} has rows that are cut short or too long:\n{lines}\nMend or remove them, or download the file again"
            )


def refuse_found(spec: DatasetSpec, raw: RawFiles, split: str, found: dict[str, int]) -> None:
    """Raise for what `checks` counted, with the first line that is at fault."""
    if found[SHORT]:
        refuse_short_rows(spec, raw, split)
    if found[BAD_LABEL]:
        _refuse_first(spec, raw, split, _bad_label(spec), spec.label, "0 or 1", found[BAD_LABEL])
    for field in spec.fields:
        if field.transform and found[f"bad {field.name}"]:
            expected = TRANSFORMS[field.transform].expected
            _refuse_first(
                spec, raw, split, bad_value(field.raw, field.transform), field.raw, expected, found[f"bad {field.name}"]
            )


def _refuse_first(
    spec: DatasetSpec, raw: RawFiles, split: str, bad: pl.Expr, column: str, expected: str, count: int
) -> None:
    for path in raw.files[split]:
        rows = (
            raw.rows([path], spec.columns).with_row_index("__row").filter(bad).select("__row", column).head(1).collect()
        )
        if len(rows):
            row, value = rows.row(0)
            again = " (the header again: files put one after the other?)" if value == column else ""
            raise InputError(
                f"{path}, line {raw.line_of(path, row)}: column '{column}' is {value!r}{again}, expected {expected} ({count:,} such rows)"
            )


def refuse_counts(spec: DatasetSpec, raw: RawFiles, rows: dict[str, int]) -> None:
    """Raise for a split without rows, or with another number than `dataset.rows` says."""
    for split, count in rows.items():
        names = ", ".join(str(path) for path in raw.files.get(split) or raw.files[ALL])
        if not count:
            raise InputError(f"{names} has no rows: the {split} split needs at least one")
        if spec.rows is None or spec.limit_rows:
            continue
        found, expected, what = count, spec.rows[split], f"in its {split} split"
        if ALL in raw.files:
            found, expected, what = sum(rows.values()), sum(spec.rows.values()), "in all"
        if found != expected:
            raise InputError(
                f"{names} has {found:,} rows, {spec.name} has {expected:,} {what}: the file is not whole, or another one."
                " Download it again, or set dataset.rows=null to take it as it is"
            )
