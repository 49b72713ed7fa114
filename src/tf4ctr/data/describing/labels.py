"""The label of raw files: which column says what was clicked, and how.

It is a column of two values with the name of an outcome (label, click, target, ...), or a rating:
then 4 or more of 5 is a click, and 8 or more of 10.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tf4ctr.data import faults
from tf4ctr.data.describing import column_names
from tf4ctr.data.describing.survey import Column, Survey
from tf4ctr.data.spec import COMPARISON, DatasetSpec
from tf4ctr.data.transforms import NUMBER
from tf4ctr.errors import InputError

RATING_VALUES = 11  # different ones at most: 0 to 10
RATED = {5.0: 4, 10.0: 8}  # the best rating -> the lowest one that is a click
TRUE_WORDS = ("yes", "y", "t", "positive", "click", "clicked")


class Label(NamedTuple):
    """The label's column, and what makes a click of it; None for a column of 0 and 1."""

    column: str
    positive: str | list[str] | None = None


def find_label(survey: Survey, column: str | None, positive: str | Sequence[str] | None) -> Label:
    """Find the label.

    Args:
        survey: of the files.
        column: its column if it is known.
        positive: what makes a click of it if that is known, as `label.positive` of a dataset.

    Raises:
        InputError: no column can be the label, or the given one cannot; says which could.
    """
    if column is not None and positive is not None:
        return _checked(Label(column, positive if isinstance(positive, str) else [str(v) for v in positive]), survey)
    if positive is not None:
        raise InputError("positive is set without label: name the label's column, label=COLUMN")
    if column is not None:
        _refuse_gaps(survey, survey.columns[column])
        label, reason = _as_label(survey.columns[column], named=True)
        if label is None:
            raise InputError(
                f"label={column}: {reason}, expected 0 and 1, or true and false. Say which values are clicks:"
                " 'positive=\">= 4\"' or 'positive=[buy,cart]'"
            )
        return label
    outcomes = sorted(filter(column_names.is_outcome, survey.columns), key=column_names.outcome_rank)
    named = [*outcomes, *filter(column_names.is_rating, survey.columns)]
    for name in named:
        if (label := _as_label(survey.columns[name], named=True)[0]) is not None:
            return label
    for name in named:
        _refuse_gaps(survey, survey.columns[name])
    raise InputError(_no_label(survey, named))


def _refuse_gaps(survey: Survey, column: Column) -> None:
    """Raise for a column that would be the label if each row had a value."""
    if column.is_list or not column.missing or not column.present:
        return
    if is_two_valued(column) or _clicks(_first_values(column)) is not None:
        raise InputError(_gaps(survey, column))


def _gaps(survey: Survey, column: Column) -> str:
    return (
        f"{column.missing:,} of {column.rows:,} rows have no label in column '{column.name}' (the first is"
        f" {survey.first_missing(column.name)}): remove them, or fill in the value that means no click"
    )


def _checked(label: Label, survey: Survey) -> Label:
    """The label that the user described, if each row has a class and both classes occur."""
    where = f"label={label.column} positive={label.positive}"
    if isinstance(label.positive, str) and not COMPARISON.fullmatch(label.positive):
        raise InputError(f"{where}: expected a comparison with a number, as in '>= 4', or a list of values")
    column = survey.columns[label.column]
    if column.is_list:
        raise InputError(f"{where}: {_as_label(column, named=True)[1]}, expected one value per row")
    if column.missing:
        raise InputError(f"{where}: {_gaps(survey, column)}")
    rows = counts_of(survey, label)
    clicks = clicks_of(rows, label)
    if clicks.null_count():
        value = rows[label.column].filter(clicks.is_null())[0]
        raise InputError(f"{where}: a value is '{value}', expected numbers: name the values of clicks, positive=[...]")
    if clicks.n_unique() == 1:
        raise InputError(f"{where}: all rows are {'no ' if clicks[0] == 0 else ''}clicks, expected some of both")
    return label


def counts_of(survey: Survey, label: Label) -> pl.DataFrame:
    """The label's different values and their `count`.

    They are those of all rows, or of the sample if there are very many.
    """
    values = survey.columns[label.column].values
    counts = values.counts if values.exact else survey.sample[label.column].rename("value").value_counts(name="count")
    return counts.rename({"value": label.column})


def _no_label(survey: Survey, named: Sequence[str]) -> str:
    lines = ["no column is the label: expected one of 0 and 1, or true and false, named label, click, target, ..."]
    lines += [f"  column '{name}': {_as_label(survey.columns[name], named=True)[1]}" for name in named]
    candidates = [name for name, column in survey.columns.items() if _as_label(column, named=False)[0]]
    if candidates:
        lines.append(f"Columns of two values: {', '.join(candidates)}. Name the label: label=COLUMN")
        lines.append(
            "Of another column say what a click is: label=rating 'positive=\">= 4\"', or 'positive=[buy,cart]'"
        )
    else:
        lines.append(
            f"No column has the values 0 and 1. The columns are {', '.join(survey.columns)}. If one says what was"
            " clicked, name it and its clicks: label=rating 'positive=\">= 4\"', or label=action"
            " 'positive=[buy,cart]'. If all rows are clicks, add rows that were shown and not clicked, and a column"
            " of 0 and 1"
        )
    return "\n".join(lines)


def _as_label(column: Column, named: bool) -> tuple[Label | None, str]:
    """The column as a label, or why it is none; `named` if its name says that it is one."""
    if column.is_list:
        return None, "it holds lists"
    if column.missing:
        return None, f"{column.missing:,} rows have no value"
    numbers = _first_values(column)
    if {*numbers.values()} == {0.0, 1.0}:
        return Label(column.name), ""
    if named and (positive := _clicks(numbers)) is not None:
        return Label(column.name, positive), ""
    more = ", ..." if len(numbers) > RATING_VALUES else ""
    return None, f"its values are {', '.join([*numbers][:RATING_VALUES])}{more}"


def _first_values(column: Column) -> dict[str, float | None]:
    """The values, at most one more than a rating has, and their numbers; true is 1, false 0."""
    values = column.values.counts["value"].head(RATING_VALUES + 1)
    return {value: faults.TRUTH.get(value.lower(), _as_number(value)) for value in values}


def is_two_valued(column: Column) -> bool:
    """Whether the values are 0 and 1, or true and false; some may be missing."""
    return {*_first_values(column).values()} <= {0.0, 1.0}


def _as_number(text: str) -> float | None:
    return float(text) if re.fullmatch(NUMBER, text) else None


def _clicks(numbers: Mapping[str, float | None]) -> str | list[str] | None:
    """What makes a click of the values, given with their numbers; None if that is not clear."""
    known = [number for number in numbers.values() if number is not None]
    if len(known) < len(numbers):
        words = [value for value in numbers if value.lower() in TRUE_WORDS]
        return words if len({value.lower() for value in numbers}) == 2 and words else None
    low, high = min(known), max(known)
    if len({*known}) == 2:
        return f">= {high:g}"
    is_rating = high in RATED and low >= 0 and len(numbers) <= RATING_VALUES
    return f">= {RATED[high]}" if is_rating else None


def clicks_of(rows: pl.DataFrame, label: Label) -> pl.Series:
    """The label of rows of texts: 0 and 1; null for an invalid one."""
    positive = tuple(label.positive) if isinstance(label.positive, list) else label.positive
    spec = DatasetSpec("", Path(), (), label.column, (), positive=positive)
    return rows.select(faults.label(spec)).to_series()
