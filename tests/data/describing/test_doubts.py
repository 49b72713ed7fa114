"""Warnings about columns that are perhaps not what was made of them."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from tf4ctr.data.describing import doubts, sniffing, survey
from tf4ctr.data.describing.labels import Label
from tf4ctr.data.describing.verdicts import decide

ROWS = 400


def warnings(tmp_path, group=None, by_chance=True, **columns):
    """The warnings about columns in a csv file of `ROWS` rows."""
    path = tmp_path / "log.csv"
    pl.DataFrame({"click": [0, 1, 0, 0] * (ROWS // 4), **columns}).write_csv(path)
    facts = survey.read(sniffing.find([str(path)]), ROWS)
    return doubts.find(facts, decide(facts, Label("click"), group), group, by_chance)


def times(form, step=timedelta(minutes=7)):
    return [f"{datetime(2026, 1, 1) + number * step:{form}}" for number in range(ROWS)]


@pytest.mark.parametrize(
    ("name", "form", "first"),
    [
        ("Timestamp", "%d/%m/%Y %H:%M", "01/01/2026 00:00"),
        ("seen", "%m/%d/%y", "01/01/26"),  # not by its name
        ("seen", "%Y/%m/%d", "2026/01/01"),
        ("date", "%d %b %Y", "01 Apr 2026"),
    ],
)
def test_dates_that_are_not_iso_dates(tmp_path, name, form, first):
    (warning,) = warnings(tmp_path, **{name: times(form, timedelta(hours=9))})
    assert warning == (
        f"{name} looks like a time, but '{first}' is not an ISO date (YYYY-MM-DD hh:mm:ss):"
        " rewrite it, or take the column out of fields"
    )


def test_one_text_among_iso_dates_is_named(tmp_path):
    moments = [moment if number % 20 else "unknown" for number, moment in enumerate(times("%Y-%m-%d %H:%M:%S"))]
    (warning,) = warnings(tmp_path, time=moments)
    assert warning.startswith("time looks like a time, but 'unknown' is not an ISO date")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("version", ["10.1.2", "9.4.11"]),
        ("ip", ["10.1.20.2", "192.168.1.1"]),
        ("day", ["Monday", "Sunday"]),
        ("watch_time", ["12.5", "N/A"]),
        ("time", ["2026-01-01 10:00", "2026-02-01"]),
    ],
)
def test_other_values_are_no_dates(tmp_path, name, values):
    assert not warnings(tmp_path, by_chance=False, **{name: values * (ROWS // 2)})


def test_moments_that_cannot_split(tmp_path):
    moments = times("%Y-%m-%d %H:%M:%S")
    gaps = [None if number < 15 else moment for number, moment in enumerate(moments)]
    expected = "15 of 400 rows have no time, so it cannot split by time: fill them in, or remove them"
    assert warnings(tmp_path, time=gaps) == [expected]
    assert not warnings(tmp_path, time=gaps, by_chance=False)
    assert not warnings(tmp_path, by_chance=False, time=moments)
    assert not warnings(tmp_path, birth_time=gaps[::-1])
    days = ["2026-01-01", "2026-01-02"] * (ROWS // 2)
    assert warnings(tmp_path, day=days) == ["day has too few different moments to split the rows by time"]


def test_a_moment_that_is_missing_without_a_click_is_no_time_of_the_rows(tmp_path):
    moments = [moment if number % 4 == 1 else None for number, moment in enumerate(times("%Y-%m-%d %H:%M:%S"))]
    assert not warnings(tmp_path, click_time=moments)


def test_a_decimal_comma(tmp_path):
    prices = ["5", "1.234,50", "2,75", "5,5"] * (ROWS // 4)
    expected = "price has numbers with a decimal comma: write a point (1234.50, not 1.234,50)"
    assert warnings(tmp_path, price=prices) == [expected]


def test_lists_in_brackets(tmp_path):
    tags = ["['a', 'b']", "['a']", "[]", "['b', 'c', 'd']"] * (ROWS // 4)
    expected = "tags has lists such as ['b', 'c', 'd'], each read as one text: write a|b for ['a', 'b']"
    assert warnings(tmp_path, tags=tags) == [expected]


def test_an_id_with_another_value_in_each_row(tmp_path):
    sessions = [f"{number * 2654435761 % 2**32:08x}" for number in range(ROWS)]
    expected = "Session ID has 400 values in 400 rows: if new rows have other ones, take it out of fields"
    assert warnings(tmp_path, **{"Session ID": sessions}) == [expected]
    assert not warnings(tmp_path, group="user", user=sessions)
    assert not warnings(tmp_path, user=[session for session in sessions[: ROWS // 2] for _ in range(2)])
    assert not warnings(tmp_path, price=[number / 7 for number in range(ROWS)])
