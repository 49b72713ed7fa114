"""Which line of which raw file is invalid, and what to do about it.

`checks` finds out whether a split has invalid rows. The other functions then find the line.
"""

import operator as op
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import polars as pl

from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS, SHORT, compressed
from tf4ctr.data.spec import COMPARISON, DatasetSpec
from tf4ctr.data.splits import ALL
from tf4ctr.data.transforms import finite, missing, moment
from tf4ctr.errors import InputError

TRUTH = {"true": 1.0, "false": 0.0}  # labels that are words, in any case
EXPECTED_MOMENT = "a number or an ISO date"
EXPECTED_LABEL = (
    '0 or 1, or true or false (or set dataset.label to {column: ..., positive: ">= 4"}, or positive: ["yes"])'
)
OPERATORS = {">=": op.ge, ">": op.gt, "<=": op.le, "<": op.lt, "==": op.eq, "!=": op.ne}
SHOWN_ERROR = 200  # characters of a library's message


def label(spec: DatasetSpec) -> pl.Expr:
    """The label as a number: 0, 1, 0.0, 1.0, true and false in any case, or what `positive` says.

    Other numbers stay what they are, other texts are null.
    """
    text = pl.col(spec.label)
    if spec.positive is None:
        words = text.str.to_lowercase().replace_strict(TRUTH, default=None, return_dtype=pl.Float64)
        return pl.coalesce(text.cast(pl.Float64, strict=False), words).alias(spec.label)
    if isinstance(spec.positive, tuple):
        return text.is_in(spec.positive).cast(pl.Float64).alias(spec.label)
    operator, number = COMPARISON.fullmatch(spec.positive).groups()  # type: ignore[union-attr]
    return OPERATORS[operator](finite(text), float(number)).cast(pl.Float64).alias(spec.label)


def _bad_label(spec: DatasetSpec) -> pl.Expr:
    return ~label(spec).is_in([0.0, 1.0]).fill_null(False)


def _expected_label(spec: DatasetSpec) -> str:
    if spec.positive is None:
        return EXPECTED_LABEL
    return "a number" if isinstance(spec.positive, str) else "a text"


class Check(NamedTuple):
    """What must hold of every row: `invalid` is true where it does not, because of `column`."""

    column: str
    invalid: pl.Expr
    expected: str


def label_check(spec: DatasetSpec) -> Check:
    """What must hold of a row's label."""
    return Check(spec.label, _bad_label(spec), _expected_label(spec))


def weight_check(column: str) -> Check:
    """What must hold of a row's weight."""
    return Check(column, ~(finite(pl.col(column)) >= 0).fill_null(False), "a finite number from 0 on")


def row_checks(spec: DatasetSpec, dtypes: Mapping[str, pl.DataType]) -> dict[str, Check]:
    """All checks by name, beside that of short rows; `dtypes` are those of the raw columns."""
    checks = {"label": label_check(spec)}
    if spec.weight:
        checks["weight"] = weight_check(spec.weight)
    if spec.split and (spec.split.values or spec.split.moments):
        expected = "one of dataset.split.values" if spec.split.values else EXPECTED_MOMENT
        checks["split"] = Check(spec.split.by, spec.split.number().is_null(), expected)
    for field in spec.fields:
        if field.in_rows and (bad := field.bad(dtypes[field.raw])) is not None:
            checks[f"field {field.name}"] = Check(field.raw, bad, field.expected)
    for field in spec.logs:
        order = str(field.order)
        checks[f"order of {field.name}"] = Check(order, bad_moment(order), EXPECTED_MOMENT)
    for name, misaligned, leader in misaligned_sequences([field for field in spec.fields if field.in_rows], dtypes):
        expected = f"as many values as column '{leader}', to which it is aligned"
        checks[f"alignment of {name}"] = Check(name, misaligned, expected)
    return checks


def bad_moment(column: str) -> pl.Expr:
    """Whether a raw value is not a moment; a missing one, also NaN, is not bad."""
    value = pl.col(column)
    return moment(value).is_null() & ~missing(value)


def misaligned_sequences(
    fields: Sequence[FieldSpec], dtypes: Mapping[str, pl.DataType]
) -> list[tuple[str, pl.Expr, str]]:
    """Whether a raw sequence has another length than the one that it is aligned with.

    Returns:
        For each aligned sequence its raw column, the condition, and the other raw column.
    """
    by_name = {field.name: field for field in fields}
    aligned = [(field, by_name[field.aligned_with]) for field in fields if field.aligned_with in by_name]
    return [
        (field.raw, field.length(dtypes.get(field.raw)) != leader.length(dtypes.get(leader.raw)), leader.raw)
        for field, leader in aligned
    ]


def checks(spec: DatasetSpec, dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """Counts of invalid rows: `__short`, and those of `row_checks`."""
    invalid = {SHORT: pl.col(SHORT), **{name: check.invalid for name, check in row_checks(spec, dtypes).items()}}
    return [rows.sum().cast(pl.Int64).alias(name) for name, rows in invalid.items()]


def check_types(spec: DatasetSpec, dtypes: Mapping[str, pl.DataType]) -> None:
    """Check the types of the raw columns, before any row is read.

    Raises:
        InputError: a list where one value is needed, or the reverse.
    """
    for key in ("label", "group", "weight", "click_probability"):
        column = getattr(spec, key)
        if column and isinstance(dtypes[column], pl.List):
            raise InputError(f"dataset.{key}: its column '{column}' is a list, expected one value per row")
    for name in (name for field in spec.logs for name in (field.by, field.order, *spec.conditions(field))):
        if isinstance(dtypes[str(name)], pl.List):
            raise InputError(f"dataset.histories: their column '{name}' is a list, expected one value per row")
    for field in spec.fields:
        if field.in_rows:
            field.value(dtypes[field.raw])


def refuse_unreadable(spec: DatasetSpec, raw: RawFiles, split: str, error: Exception) -> NoReturn:
    """Raise for a raw file that cannot be read to its end; name its invalid lines."""
    for path in raw.files[split]:
        if compressed(path) or not READERS[raw.reader].lines:
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
    for name in counts:
        if name != SHORT and counts[name]:
            _refuse_first(spec, raw, split, name, counts[name])


def _refuse_first(spec: DatasetSpec, raw: RawFiles, split: str, name: str, count: int) -> None:
    for path in raw.files[split]:
        rows = raw.rows([path], spec.columns, spec.numbers)
        checks = row_checks(spec, rows.collect_schema())
        if name not in checks:  # a count of valid rows
            return
        check = checks[name]
        rows = rows.with_row_index("__row").filter(check.invalid)
        first = rows.select("__row", check.column).head(1).collect()
        if len(first):
            row, value = first.row(0)
            line = raw.line_of(path, row)
            found = "missing" if value is None else repr(value)
            again = " (the header again: were files joined?)" if value == check.column else ""
            raise InputError(
                f"{path}, {raw.unit} {line}: column '{check.column}' is {found}{again}, expected {check.expected}"
                f" ({count:,} such rows){raw.shown(path, line)}"
            )


def refuse_counts(spec: DatasetSpec, raw: RawFiles, rows: Mapping[str, int]) -> None:
    """Raise for a split without rows, or with another number of rows than `dataset.rows` says."""
    for split, count in rows.items():
        names = ", ".join(str(path) for path in raw.files.get(split) or raw.files[ALL])
        if not count and ALL in raw.files and any(rows.values()):
            raise InputError(
                f"{names}: none of its {sum(rows.values()):,} rows is in the {split} split, which needs at least one:"
                " add rows, or change dataset.split"
            )
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
