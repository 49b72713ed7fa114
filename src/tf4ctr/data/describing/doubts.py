"""What the user should look at again: columns that are perhaps not what was made of them."""

from collections.abc import Mapping

import polars as pl

from tf4ctr.data.describing import column_names
from tf4ctr.data.describing.drafting import shown
from tf4ctr.data.describing.survey import Column, Survey
from tf4ctr.data.describing.verdicts import Verdict, as_moment, differs_in_rows, is_of_rows
from tf4ctr.data.transforms import moment

# a date such as 31/01/2026, 2026/01/31 or 1/31/26, whatever follows it
DATE = r"^(\d{1,2}[/.-]\d{1,2}[/.-]\d{4}|\d{4}[/.-]\d{1,2}[/.-]\d{1,2}|\d{1,2}/\d{1,2}/\d\d)([ T,]|$)"
TWO_NUMBERS = r"\d\D+\d"  # is a date, too, if the name is about time: 31 Jan 2026, 00:13
BRACKETED = r"^\[.*\]$"  # a list as Python and JSON write it
MOST = 0.5  # share of the values that look alike, at least
FIRST_VALUES = 10  # the most frequent ones, of which the longest is shown
DIFFERENT_ROWS = 100  # with a different value in each, at least: in fewer rows, most ids occur once


def find(survey: Survey, verdicts: Mapping[str, Verdict], group: str | None, by_chance: bool) -> list[str]:
    """Find what may be wrong: one sentence for a column, with what to do.

    Args:
        survey: of the files.
        verdicts: what becomes of each column.
        group: the column of users if it is known; it may have a different value in each row.
        by_chance: whether the rows are split by chance, as no column of moments could do it.
    """
    warnings = []
    for name, verdict in verdicts.items():
        column = survey.columns[name]
        if verdict.role == "label" or not column.present or column.is_list:
            continue
        found = (
            _no_moments(column, verdict)
            or (_splits_no_rows(column) if by_chance and verdict == as_moment(column) else None)
            or _decimal_comma(column)
            or _brackets(column)
            or (_different(column) if verdict.role == "id" and name != group else None)
        )
        warnings += [found] if found else []
    return warnings


def _no_moments(column: Column, verdict: Verdict) -> str | None:
    pattern = f"{DATE}|{TWO_NUMBERS}" if column_names.is_time(column.name) else DATE
    if column.numbers.rows or not _mostly(column, pattern):
        return None
    bad = column.values.counts.filter(moment(pl.col("value")).is_null())["value"]
    if not len(bad):
        return None
    advice = "rewrite it, or take the column out of fields" if verdict.fields else "rewrite it to split by time"
    return f"{column.name} looks like a time, but '{shown(bad[0])}' is not an ISO date (YYYY-MM-DD hh:mm:ss): {advice}"


def _splits_no_rows(column: Column) -> str | None:
    if not is_of_rows(column):
        return None
    if gaps := column.rows - column.moments.rows:
        return (
            f"{gaps:,} of {column.rows:,} rows have no {column.name}, so it cannot split by time:"
            " fill them in, or remove them"
        )
    return f"{column.name} has too few different moments to split the rows by time"


def _decimal_comma(column: Column) -> str | None:
    if not column.guess.decimal_comma:
        return None
    value = next(value for value in column.values.counts["value"] if "," in value)
    return (
        f"{column.name} has numbers with a decimal comma: write a point"
        f" ({shown(value.replace('.', '').replace(',', '.'))}, not {shown(value)})"
    )


def _brackets(column: Column) -> str | None:
    if not _mostly(column, BRACKETED):
        return None
    example = max(column.values.counts["value"].head(FIRST_VALUES), key=len)
    return f"{column.name} has lists such as {shown(example)}, each read as one text: write a|b for ['a', 'b']"


def _mostly(column: Column, pattern: str) -> bool:
    """Whether most of the different values match a pattern."""
    matching = column.values.counts["value"].str.contains(pattern)
    return int(matching.sum()) >= MOST * len(matching)


def _different(column: Column) -> str | None:
    if column.present < DIFFERENT_ROWS or not differs_in_rows(column):
        return None
    return (
        f"{column.name} has {column.distinct:,} values in {column.present:,} rows: if new rows have other ones,"
        " take it out of fields"
    )
