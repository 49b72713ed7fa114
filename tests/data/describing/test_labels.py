"""Which column is the label, and what makes a click of it."""

import polars as pl
import pytest

from tf4ctr.data.describing import sniffing, survey
from tf4ctr.data.describing.labels import Label, clicks_of, find_label
from tf4ctr.errors import InputError


def look_at(tmp_path, **columns):
    path = tmp_path / "log.parquet"
    rows = max(map(len, columns.values()))
    pl.DataFrame({name: values * (rows // len(values)) for name, values in columns.items()}).write_parquet(path)
    return survey.read(sniffing.find([str(path)]), 1000)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"purchase": [0, 1], "click": [1, 0], "sex": [0, 1]}, Label("click")),
        ({"is_clicked": [True, False]}, Label("is_clicked")),
        ({"Label": ["0.0", "1.0", "1"]}, Label("Label")),
        ({"target": ["TRUE", "false"]}, Label("target")),
        ({"label": [-1, 1]}, Label("label", ">= 1")),
        ({"income": ["no", "yes"]}, Label("income", ["yes"])),
        ({"rating": [1, 2, 3, 4, 5]}, Label("rating", ">= 4")),
        ({"rating": [0.5, 3.5, 10.0]}, Label("rating", ">= 8")),
        ({"rating": [1, 2, 5], "click": [0, 1, 0]}, Label("click")),
        ({"click": [0, 0], "like": [0, 1]}, Label("like")),  # nothing is learned from one class
    ],
)
def test_the_label_is_found(tmp_path, columns, expected):
    facts = look_at(tmp_path, **columns)
    label = find_label(facts, None, None)
    assert label == expected
    assert set(clicks_of(facts.sample, label)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sex": [0, 1], "age": [3, 4]}, r"Columns of two values: sex\. Name the label: label=COLUMN"),
        ({"click": [0, 0]}, r"column 'click': its values are 0"),
        (
            {"click": [0, 1, None]},
            r"1 of 3 rows have no label in column 'click' \(the first is row 3 of log\.parquet\)",
        ),
        ({"rating": [1, 5, None, None]}, r"2 of 4 rows have no label .*: remove them, or fill in the value"),
        ({"click": ["bad", "worse", None]}, r"column 'click': 1 rows have no value"),
        ({"click": [[0], [1]]}, r"column 'click': it holds lists"),
        ({"label": [*range(20)]}, r"column 'label': its values are 0, 1, 10, .*, \.\.\."),
        ({"user": [5, 6], "time": [8, 9]}, r"The columns are user, time.*'positive=\[buy,cart\]'.*not clicked"),
    ],
)
def test_without_a_label_the_error_says_what_to_do(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        find_label(look_at(tmp_path, **columns), None, None)


@pytest.mark.parametrize(
    ("column", "positive", "expected"),
    [
        ("engaged", None, Label("engaged")),
        ("stars", None, Label("stars", ">= 4")),
        ("stars", ">= 3", Label("stars", ">= 3")),
        ("action", ["buy", "cart"], Label("action", ["buy", "cart"])),
    ],
)
def test_a_label_that_is_known(tmp_path, column, positive, expected):
    facts = look_at(tmp_path, click=[0, 1], engaged=[1, 0], stars=[1, 2, 3, 5], action=["buy", "view", "cart", "view"])
    assert find_label(facts, column, positive) == expected


@pytest.mark.parametrize(
    ("column", "positive", "message"),
    [
        ("action", None, r"label=action: its values are view, buy, cart, expected 0 and 1"),
        ("action", ">= 3", r"a value is '\w+', expected numbers"),
        ("action", ["buys"], r"all rows are no clicks"),
        ("stars", ">= 1", r"all rows are clicks"),
        ("stars", "4", r"expected a comparison with a number"),
        ("gaps", ">= 1", r"label=gaps positive=>= 1: 2 of 4 rows have no label in column 'gaps' \(the first is row 2"),
        ("gaps", None, r"2 of 4 rows have no label in column 'gaps'"),
        (None, ">= 1", r"positive is set without label"),
    ],
)
def test_a_label_that_cannot_be_one(tmp_path, column, positive, message):
    facts = look_at(tmp_path, stars=[1, 2, 3, 5], action=["buy", "view", "cart", "view"], gaps=[1, None])
    with pytest.raises(InputError, match=message):
        find_label(facts, column, positive)
