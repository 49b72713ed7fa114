"""What becomes of each column of raw files: an id, a number, a list, a vector, or nothing.

The first rule that applies decides a column that is not the label:

1. Other outcomes are left out, as they are not known before the click.
2. Columns without values or with one value are left out, and those that nearly decide the label.
3. Dates are moments, and so are whole numbers that are epochs or dates and have a name about time.
   They are left out, as new rows have other ones. One of them splits the rows.
4. Texts that often hold several values between separators are lists, and so are columns of lists.
   As many numbers with fractions in each row are a vector.
5. Texts are ids, and so are numbers with leading zeros or a decimal comma. Numbers with fractions
   are numbers.
6. Whole numbers are ids if the name ends with a word such as id, code or type, or if they have at
   most `FEW` values. Others are numbers if the name has a word such as price or count, or if they
   look like counts: they begin near zero, half of them are small, some are very large, and not
   every number occurs. The rest are ids, because a number as an id costs less than the reverse.
7. Columns such as I1, I2, I3 are a family. Those that rule 6 decides by their values become what
   most of the family is. Columns of few values have no vote.
8. Ids with a different value in nearly every row are keys. They are left out.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.data import leaks
from tf4ctr.data.describing import column_names
from tf4ctr.data.describing.labels import Label, clicks_of, is_two_valued
from tf4ctr.data.describing.survey import LIST_SEPARATORS, NULL_WORDS, Column, Survey
from tf4ctr.data.schema import IDS, NUMBERS, VECTORS
from tf4ctr.data.splits import SplitSpec
from tf4ctr.data.transforms import finite
from tf4ctr.errors import InputError

FEW = 30  # different whole numbers that are ids: each has enough rows to be learned
LARGEST_NUMBER = 1e15  # larger whole numbers are codes; floats do not hold them exactly
SKEWED, SKEWED_FROM = 5, 10  # a number is skewed if 1 % of it are above 5 medians and above 10
LOWEST_CODE = -10  # smallest value of skewed numbers and of counts: codes such as -1 occur
COUNT_TAIL = 10  # the largest count is more than so many medians
COUNT_START = 10  # the smallest count is at most this
COUNT_GAPS = 0.5  # share of the whole numbers in the range that occur, at most
UNIQUE = 0.95  # different values per row of a key, at least
KEY_ROWS, NAMED_KEY_ROWS = 10_000, 10  # rows of a key, at least: in few rows most ids occur once
ROWS_PER_USER = 2  # mean number of rows of a user in a group, at least
INVALID = 0.05  # share of texts in a column of numbers, at most
PARSED = 0.99  # share of moments in a column of moments, at least
IN_ORDER, TIME_VALUES = 0.95, 100  # of moments without a known form: share in order, different ones
RANKS, MOMENTS = 20, 5  # a column splits the rows if 5 of its quantiles 0/20, 1/20, ... differ
SHARES = (0.1, 0.1)  # of the rows in validation and test
MANY_VALUES, MANY_ROWS = 100, 40  # values that decide the label, or rows of each one, at least
BIN_ROWS, BINS = 20, 1000  # rows of a number's bin at least, bins at most; see `_leak`
WIDTHS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # of lists
COVERED = 0.95  # share of a list's rows whose values are all kept, at least
RARE = {1_000_000: 10, 100_000: 5}  # values of an id -> its min_count
FIRST, LAST = datetime(1990, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
EPOCHS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
HOURS = "YYMMDDHH"
LEFT_OUT = "left out"


class Choice(NamedTuple):
    """The value of an option of the dataset, and the reason."""

    value: Any
    reason: str


class Verdict(NamedTuple):
    """What becomes of a column.

    Attributes:
        role: label, id, number, list, vector, or left out.
        reason: for it.
        fields: its entries of `dataset.fields`, each with the options beside name and column.
    """

    role: str
    reason: str
    fields: tuple[dict[str, Any], ...] = ()


def decide(survey: Survey, label: Label, group: str | None = None, time: str | None = None) -> dict[str, Verdict]:
    """Decide what becomes of each column; see the module.

    Args:
        survey: of the files.
        label: of the dataset.
        group: the column of users if it is known; it is no key.
        time: the column of moments if it is known.
    """
    clicks = clicks_of(survey.sample, label)
    kinds = _kinds(survey)
    verdicts = {}
    for name, column in survey.columns.items():
        if name == label.column:
            verdicts[name] = Verdict("label", _label_reason(label, column))
        elif name == time:
            verdicts[name] = as_moment(column) or Verdict(LEFT_OUT, "moments, as time= says: new rows have other ones")
        else:
            verdicts[name] = (
                _useless(column)
                or _leak(column, survey.sample[name], clicks)
                or as_moment(column)
                or _as_list(column)
                or _as_value(column, *kinds[name], may_be_key=name != group)
            )
    return verdicts


def _label_reason(label: Label, column: Column) -> str:
    if label.positive is None:
        return f"its values are {' and '.join(sorted(column.values.counts['value']))}"
    return f"a click is a value {label.positive if isinstance(label.positive, str) else ' or '.join(label.positive)}"


def _useless(column: Column) -> Verdict | None:
    if not column.present:
        return Verdict(LEFT_OUT, "it has no values")
    if column.distinct == 1 and not column.missing and (not column.is_list or len(column.lengths) == 1):
        return Verdict(LEFT_OUT, "it is constant")
    if column_names.is_outcome(column.name) and is_two_valued(column):
        return Verdict(LEFT_OUT, "another outcome, which is not known before the click")
    return None


def _leak(column: Column, sample: pl.Series, clicks: pl.Series) -> Verdict | None:
    """A column is left out if its values, or which of them are missing, nearly decide the label.

    A number may do so by a threshold, so it is looked at in small bins.
    """
    texts = sample.list.join(" ") if isinstance(sample.dtype, pl.List) else sample
    keys = {"it": texts, "whether it is missing": texts.is_null()}
    if column.guess.numeric and not column.is_list:
        number = finite(pl.col(sample.name))
        rows = max(BIN_ROWS, len(sample) // BINS)
        bins = texts.to_frame().select(number.rank("min") // rows)
        keys["its size"] = bins.to_series()
    for what, key in keys.items():
        if (share := _decided(key, clicks)) is not None:
            return Verdict(
                LEFT_OUT,
                f"{what} decides the label of {share:.1%} of {len(sample):,} rows: a copy of the label,"
                " or known only after the click",
            )
    return None


def _decided(key: pl.Series, clicks: pl.Series) -> float | None:
    """The share of rows whose label each value's majority gives, if that decides it; else None.

    As in `leaks.find`, values of few rows are left aside, and at most 5 % of the errors may remain
    that the majority of all these rows makes. In a small file many columns seem to decide the
    label. So there must be enough rows of each class, and many values or many rows of each value.
    """
    rows = pl.DataFrame({"key": key, "click": clicks})
    counts = rows.group_by("key").agg(rows=pl.len().cast(pl.Int64), clicks=pl.col("click").sum().cast(pl.Int64))
    counts = counts.filter(pl.col("rows") >= leaks.MIN_ROWS)
    covered, positive = int(counts["rows"].sum()), int(counts["clicks"].sum())
    errors = int(counts.select(pl.min_horizontal("clicks", pl.col("rows") - pl.col("clicks")).sum()).item())
    base = min(positive, covered - positive)
    if covered < leaks.COVERED * len(rows) or base < leaks.MIN_ROWS or errors > leaks.ERROR_LEFT * base:
        return None
    if len(counts) < MANY_VALUES and covered < MANY_ROWS * len(counts):
        return None
    return 1 - errors / covered


def form_of_moments(column: Column) -> str | None:
    """How a column of moments writes them; None if it has no moments."""
    if not column.guess.temporal or not column.moments.rows or column.moments.rows < PARSED * column.present:
        return None
    if column.forms["date"] >= PARSED * column.present:
        return "dates"
    if not column_names.is_time(column.name):
        return None
    for form in ("YYYYMMDD", HOURS):
        if column.forms[form] == column.present:
            return form
    low, high = column.moments.quantiles([0, 1])
    for unit, factor in EPOCHS.items():
        if factor * FIRST <= low and high <= factor * LAST:
            return f"{unit} since 1970"
    ordered = column.guess.increasing >= IN_ORDER and column.distinct >= TIME_VALUES
    return "numbers in order" if ordered else None


def as_moment(column: Column) -> Verdict | None:
    """What becomes of a column of moments; None if it is none."""
    form = form_of_moments(column)
    if form is None:
        return None
    if form == HOURS:
        transforms = ("hour_of_day", "weekday", "weekend")
        return Verdict("id", f"hours as {HOURS}", tuple({"transform": transform} for transform in transforms))
    return Verdict(LEFT_OUT, f"moments ({form}): new rows have other ones")


def _as_list(column: Column) -> Verdict | None:
    longest = max(column.lengths, default=1)
    if not column.is_list or (longest == 1 and column.guess.separator is not None):
        return None
    separator = {} if column.guess.separator is None else {"separator": column.guess.separator}
    if column.fractions and not column.words:
        return _as_vector(column, separator)
    between = f"values between '{column.guess.separator}'" if separator else "a list column"
    return Verdict("list", between, ({**separator, "width": _width(column), **_limits(column)},))


def _as_vector(column: Column, separator: dict[str, str]) -> Verdict:
    if len(column.lengths.keys() - {0}) > 1 or column.empty:
        return Verdict(LEFT_OUT, "lists of numbers of different lengths: neither ids nor a vector")
    width = max(column.lengths)
    return Verdict("vector", f"{width} numbers in each row", ({"kind": VECTORS, **separator, "width": width},))


def _width(column: Column) -> int:
    """The first of `WIDTHS` that keeps all values of nearly all rows that have some."""
    rows, length, needed = 0, 1, COVERED * column.present
    for length in sorted(column.lengths.keys() - {0}):
        rows += column.lengths[length]
        if rows >= needed:
            break
    return next((width for width in WIDTHS if width >= length), WIDTHS[-1])


def _limits(column: Column) -> dict[str, int]:
    """`min_count` of an id with very many values."""
    return next(({"min_count": count} for values, count in RARE.items() if column.distinct > values), {})


def _as_value(column: Column, kind: str, reason: str, may_be_key: bool) -> Verdict:
    if kind == NUMBERS:
        invalid = column.nans + _invalid(column)
        options = {"transform": "log1p"} if _is_skewed(column) else {}
        if invalid:
            options["invalid"] = "missing"
            reason = f"{reason}; {invalid:,} rows have another text, which becomes missing"
        return Verdict("number", reason, ({"kind": NUMBERS, **options},))
    if may_be_key and _is_key(column):
        return Verdict(LEFT_OUT, "a key: nearly every row has a different value")
    return Verdict("id", reason, (_limits(column),))


def null_words(column: Column) -> list[str]:
    """The texts in a column of numbers that mean a missing value."""
    return [word for word in column.words if word in NULL_WORDS]


def _invalid(column: Column) -> int:
    """Rows of a column of numbers that are neither numbers nor missing."""
    return sum(count for word, count in column.words.items() if word not in NULL_WORDS)


def _is_skewed(column: Column) -> bool:
    low, middle, high = column.numbers.quantiles([0, 0.5, 0.99])
    return low >= LOWEST_CODE and high > max(SKEWED_FROM, SKEWED * middle)


def _is_key(column: Column) -> bool:
    named = column_names.is_key(column.name) or _numbers_rows(column)
    return differs_in_rows(column) and column.present >= (NAMED_KEY_ROWS if named else KEY_ROWS)


def differs_in_rows(column: Column) -> bool:
    """Whether nearly every row has a different value."""
    return column.distinct >= UNIQUE * column.present


def _numbers_rows(column: Column) -> bool:
    """Whether the values are the row numbers, from any number on."""
    if column.numbers.rows < column.rows or column.fractions:
        return False
    low, high = column.numbers.quantiles([0, 1])
    return high - low + 1 == column.rows


def _kinds(survey: Survey) -> dict[str, tuple[str, str]]:
    """The kind of each column as a single value, and the reason."""
    kinds = {name: _kind(column) for name, column in survey.columns.items() if not column.is_list}
    kinds |= {name: (IDS, "texts", True) for name, column in survey.columns.items() if column.is_list}
    families: dict[str, list[str]] = {}
    for name in kinds:
        if (prefix := column_names.family(name)) is not None:
            families.setdefault(prefix, []).append(name)
    for names in families.values():
        voters = [kinds[name][0] for name in names if survey.columns[name].distinct > FEW]
        majority = max((IDS, NUMBERS), key=voters.count)
        if len(names) > 1 and voters.count(majority) * 2 > len(voters):
            reason = f"as most of {names[0]}, {names[1]}, ..."
            kinds |= {name: (majority, reason, True) for name in names if not kinds[name][2]}
    return {name: (kind, reason) for name, (kind, reason, _) in kinds.items()}


def _kind(column: Column) -> tuple[str, str, bool]:
    """Kind, reason, and whether it is certain: rules 5 and 6 of the module."""
    if column.guess.decimal_comma:
        return IDS, "numbers with a decimal comma, read as texts: write a point", True
    if not column.numbers.rows or _invalid(column) > INVALID * column.present:
        return IDS, "texts that hold ', ': a list?" if _may_be_list(column) else "texts", True
    if column.padded:
        return IDS, "leading zeros", True
    if column.fractions:
        return NUMBERS, "numbers with fractions", True
    word = column_names.kind_word(column.name)
    if word is not None and not word[1]:
        return IDS, f"'{word[0]}' in its name", True
    if max(map(abs, column.numbers.quantiles([0, 1]))) > LARGEST_NUMBER:
        return IDS, "too large for a number", True
    if column.distinct <= FEW:
        return IDS, "few whole numbers", False
    if word is not None:
        return NUMBERS, f"'{word[0]}' in its name", True
    return (NUMBERS, "they look like counts", False) if _is_count(column) else (IDS, "whole numbers", False)


def _may_be_list(column: Column) -> bool:
    """Whether as many of the different texts have a comma and a space as in a list."""
    held = column.values.counts["value"].str.contains(", ", literal=True)
    return int(held.sum()) > LIST_SEPARATORS[", "] * len(held)


def _is_count(column: Column) -> bool:
    low, middle, high = column.numbers.quantiles([0, 0.5, 1])
    gaps = column.distinct <= COUNT_GAPS * (high - low + 1)
    return LOWEST_CODE <= low <= COUNT_START and high > COUNT_TAIL * max(1, middle) and gaps


def find_group(survey: Survey, label: Label, column: str | None) -> Choice:
    """The column that gAUC groups by: the one that is known, or a user's id that repeats."""
    if column is not None:
        return Choice(column, "as group= says")
    users = [name for name in survey.columns if column_names.is_user(name) and name != label.column]
    for name in users:
        user = survey.columns[name]
        if not user.is_list and user.present >= ROWS_PER_USER * user.distinct:
            return Choice(name, f"gAUC compares rows of one user, who has {user.present / user.distinct:,.1f} rows")
    if users:
        return Choice(None, f"no gAUC: {users[0]} has fewer than {ROWS_PER_USER} rows per value")
    return Choice(None, "no gAUC: no column has the name of a user's id")


def find_split(survey: Survey, label: Label, column: str | None) -> Choice:
    """How rows without splits are split: by a column that is known, or by the best one of moments.

    Raises:
        InputError: the known column has no moment in a row, or too few different ones.
    """
    if column is not None and not _orders_rows(survey.columns[column]):
        found = survey.columns[column].moments.rows
        raise InputError(
            f"time={column}: {found:,} of {survey.rows:,} rows have a number or an ISO date,"
            f" expected one in each row, and enough different ones to split the rows"
        )
    names = [name for name, other in survey.columns.items() if name != label.column and _may_split(other)]
    if column is None and not names:
        return Choice(None, "8:1:1 by a hash of the row number, as no column orders the rows in time")
    name = column or max(names, key=lambda name: _order(survey.columns[name]))
    moments = survey.columns[name].moments
    split = SplitSpec(name, *SHARES).at(moments)
    valid, test = (date_of(survey.columns[name], moment) for moment in split.moments or ())
    return Choice(
        {"by": name, "valid": split.valid, "test": split.test},
        f"the latest rows are kept for validation, from {valid} on, and for testing, from {test} on",
    )


def _may_split(column: Column) -> bool:
    return is_of_rows(column) and _orders_rows(column)


def is_of_rows(column: Column) -> bool:
    """Whether it has the moments of the rows, and not those of a birth or of a release."""
    of_rows = column.guess.increasing >= IN_ORDER or not column_names.is_earlier(column.name)
    return form_of_moments(column) is not None and of_rows


def _orders_rows(column: Column) -> bool:
    """Whether each row has a moment, and no few moments have most of the rows."""
    ranks = [number / RANKS for number in range(RANKS + 1)]
    return column.moments.rows == column.rows and len({*column.moments.quantiles(ranks)}) >= MOMENTS


def _order(column: Column) -> tuple[float, int]:
    return column.guess.increasing, column.distinct


def date_of(column: Column, moment: float) -> str:
    """A moment of a column as a date, if it is one; else the number."""
    form = form_of_moments(column) or ""
    factor = EPOCHS.get(form.split()[0] if form else "", 1.0 if form == "dates" else 0.0)
    return f"{datetime.fromtimestamp(moment / factor, UTC):%Y-%m-%d %H:%M:%S}" if factor else f"{moment:.15g}"
