import math
import re
from datetime import datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf4ctr.data.transforms import TRANSFORMS, moment


def apply(name, texts):
    return (
        pl.DataFrame({"x": texts}, schema={"x": pl.String})
        .select(TRANSFORMS[name].apply(pl.col("x")))
        .to_series()
        .to_list()
    )


@given(st.lists(st.datetimes(datetime(2001, 1, 1), datetime(2068, 12, 31)), min_size=1, max_size=20))
def test_hour_weekday_and_weekend_agree_with_the_calendar(times):
    texts = [f"{time:%y%m%d%H}" for time in times]
    assert apply("hour_of_day", texts) == [f"{time:%H}" for time in times]
    assert apply("weekday", texts) == [str(time.isoweekday()) for time in times]
    assert apply("weekend", texts) == [str(int(time.isoweekday() > 5)) for time in times]


@given(st.lists(st.one_of(st.none(), st.integers(-5, 10**7)), min_size=1, max_size=30))
def test_log_bucket_is_the_floor_of_the_squared_logarithm(values):
    expected = [str(math.floor(math.log(v) ** 2) if v is not None and v > 2 else v or 0) for v in values]
    assert apply("log_bucket", [None if v is None else str(v) for v in values]) == expected


def test_log_bucket_takes_each_text_that_its_pattern_takes():
    """Also those that no integer and no float holds."""
    texts = ["-9223372036854775808", "-99999999999999999999", "1" + "0" * 30, "1" * 401, "-" + "1" * 401]
    assert all(re.search(TRANSFORMS["log_bucket"].pattern, text) for text in texts)
    smallest = "-9223372036854775808"
    assert apply("log_bucket", texts) == [smallest, smallest, str(math.floor(math.log(1e30) ** 2)), "0", "0"]


@pytest.mark.parametrize(
    ("age", "decade"),
    [
        ("0", None),
        ("-38", None),
        ("1", "1"),
        ("10", "1"),
        ("11", "2"),
        ("60", "6"),
        ("61", "7"),
        ("95", "7"),
        ("96", None),
        (None, None),
    ],
)
def test_age_decade(age, decade):
    assert apply("age_decade", [age]) == [decade]


def test_country_code_is_the_first_two_letters():
    assert apply("country_code", ["TWUM71200043", None]) == ["TW", None]


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        ("weekday", ["14102100", "14123123"], ["2014102100", "14132100", "14103224", "14102124", "today"]),
        ("log_bucket", ["-1", "0", "3.5", "12"], ["", "1e", "abc", "0x68fd1e64"]),
        ("country_code", ["", "x"], []),
    ],
)
def test_patterns_match_valid_texts_only(name, valid, invalid):
    pattern = re.compile(TRANSFORMS[name].pattern)
    assert all(pattern.search(text) for text in valid)
    assert not any(pattern.search(text) for text in invalid)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_example_is_valid_and_has_a_value(name):
    transform = TRANSFORMS[name]
    rows = pl.DataFrame({"raw": [transform.example]})
    assert rows.select(pl.col("raw").str.contains(transform.pattern)).item()
    assert rows.select(transform.apply(pl.col("raw"))).item() is not None


# also what a request's moment is, see test_request_rows.py
MOMENTS = [
    ("1704423845", 1704423845),
    ("1.5", 1.5),
    ("2024-01-05", 1704412800),
    ("2024-01-05 03:04", 1704423840),
    ("2024-01-05 03:04:05", 1704423845),
    ("2024-01-05T03:04:05", 1704423845),
    ("2024-01-05 03:04:05.678", 1704423845),
    ("2024-01-05T03:04:05Z", 1704423845),
    ("2024-01-05 03:04:05 UTC", 1704423845),
    ("2024-01-05T04:04:05+01:00", 1704423845),
    ("2024-01-04T21:34:05.1-0530", 1704423845),
    ("2024-01-05 03:04:05+00", 1704423845),
    ("2024-01-05 00:04:05.678-03", 1704423845),
    ("2024-1-5T03:04", 1704423840),
    ("2024-01-05 03:04:05+\u0660\u0661", None),
    ("2024-01-05 03:04:05 PM", None),
    ("2024-01-05 03:04 PM", None),
    ("2024-01-05 03:04:05 CET", None),
    ("2024-01-05 03:04:05x", None),
    ("yesterday", None),
]


@pytest.mark.parametrize(("text", "seconds"), MOMENTS)
def test_a_moment_is_in_seconds_of_utc(text, seconds):
    assert pl.select(moment(pl.lit(text))).item() == seconds
