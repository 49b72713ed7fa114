"""Named expressions on raw values: the values of `transform` in conf/dataset/NAME.yaml."""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl


class Transform(NamedTuple):
    """A transform of a raw column.

    Attributes:
        pattern: regular expression of the valid texts; a row with another text is invalid.
        expected: the valid texts in words, for errors.
        example: a valid text.
        apply: valid raw text -> the field's value as text; null for a missing value.
    """

    pattern: str
    expected: str
    example: str
    apply: Callable[[pl.Expr], pl.Expr]


def _avazu_date(hour: pl.Expr) -> pl.Expr:
    return hour.str.slice(0, 6).str.to_date("%y%m%d", strict=False)


SMALLEST = -(2.0**63)  # the smallest integer of 64 bits, which is a float too


def _log_bucket(text: pl.Expr) -> pl.Expr:
    """floor(ln(v)^2) for v > 2, else v; a missing value, and one beyond 1e308, is 0.

    Source: the winners of Criteo's challenge.
    """
    value = finite(text).fill_null(0.0).clip(lower_bound=SMALLEST)
    return pl.when(value > 2).then((value.log() ** 2).floor()).otherwise(value).cast(pl.Int64).cast(pl.String)


def _age_decade(text: pl.Expr) -> pl.Expr:
    """Age -> 1 up to 10, 2 up to 20, ... 6 up to 60, else 7; below 1 and above 95 is missing."""
    age = text.cast(pl.Float64, strict=False)
    known = pl.when((age >= 1) & (age <= 95)).then(age)
    return (known / 10).ceil().clip(1, 7).cast(pl.Int64).cast(pl.String)


NUMBER = r"^[+-]?\d+(\.\d+)?$"
YYMMDDHH = r"^\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])$"

TRANSFORMS = {
    "hour_of_day": Transform(YYMMDDHH, "a time as YYMMDDHH", "14102100", lambda text: text.str.slice(6, 2)),
    "weekday": Transform(
        YYMMDDHH, "a time as YYMMDDHH", "14102100", lambda text: _avazu_date(text).dt.weekday().cast(pl.String)
    ),
    "weekend": Transform(
        YYMMDDHH,
        "a time as YYMMDDHH",
        "14102100",
        lambda text: (_avazu_date(text).dt.weekday() > 5).cast(pl.Int8).cast(pl.String),
    ),
    "log_bucket": Transform(NUMBER, "a number", "27", _log_bucket),
    "age_decade": Transform(NUMBER, "a number", "27", _age_decade),
    "country_code": Transform("", "a text", "GBUM71505078", lambda text: text.str.slice(0, 2)),
}


DATES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")  # the moments that are not numbers
# what may follow the seconds: a fraction, and a time zone
AFTER_SECONDS = r"^(?:\.[0-9]+)?(?: ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?))?$"


def occurrences(value: pl.Expr, dtype: type[pl.DataType]) -> pl.Expr:
    """The different values of a column, and how often each occurs; missing values are not counted.

    Returns:
        one list of structs: the value, named as the column, and its `count`, of type `dtype`. So
        one `select` counts many columns, which takes half the time of one query per column.
    """
    counts = value.drop_nulls().value_counts(name="count")
    return counts.struct.with_fields(pl.field("count").cast(dtype)).implode()


def finite(value: pl.Expr) -> pl.Expr:
    """Text or number -> Float64; null for infinity and a text that is not a number."""
    number = value.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def missing(value: pl.Expr) -> pl.Expr:
    """Whether a text or number means a missing number: null or NaN."""
    return value.is_null() | value.cast(pl.Float64, strict=False).is_nan().fill_null(False)


def moment(value: pl.Expr) -> pl.Expr:
    """A moment as a number: numbers as they are, ISO dates as seconds since 1970 in UTC.

    A date without a time zone is taken as UTC. A fraction of a second is ignored. Null for other
    texts.
    """
    text = value.cast(pl.String).str.replace(r"^([0-9-]{8,10})T", "${1} ")
    until_seconds, rest = text.str.slice(0, 19), text.str.slice(19)
    *times, date = DATES
    dates = [until_seconds.str.to_datetime(form, strict=False) for form in times]
    dates.append(until_seconds.str.to_date(date, strict=False).cast(pl.Datetime))
    seconds = pl.coalesce(dates).dt.epoch("s").cast(pl.Float64)
    zone = rest.str.extract_groups(AFTER_SECONDS)
    hours, minutes = (zone.struct[part].cast(pl.Float64).fill_null(0) for part in ("hours", "minutes"))
    ahead = pl.when(zone.struct["sign"] == "-").then(-1).otherwise(1) * (3600 * hours + 60 * minutes)
    return pl.coalesce(finite(value), pl.when(rest.str.contains(AFTER_SECONDS)).then(seconds - ahead))


def _signed(transform: Callable[[pl.Expr], pl.Expr]) -> Callable[[pl.Expr], pl.Expr]:
    """The transform of |x|, with the sign of x: counts with some -1 in them are common in logs."""
    return lambda value: value.sign() * transform(value.abs())


NUMBER_TRANSFORMS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "log1p": _signed(pl.Expr.log1p),
    "sqrt": _signed(pl.Expr.sqrt),
}
