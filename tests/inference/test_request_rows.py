import polars as pl
import pytest

from data.test_transforms import MOMENTS
from tf4ctr.data.readers import as_text
from tf4ctr.data.transforms import finite
from tf4ctr.inference.request_rows import _moment, _number, _number_or_missing, _text


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e3, "1000"),
        (True, "true"),
        (False, "false"),
        (float("nan"), None),
        (0.5, "0.5"),
        (1e-5, "0.00001"),
        (1e-7, "1e-7"),
        (2.0**60, "1.152921504606847e+18"),
    ],
)
def test_a_value_is_the_text_that_preparation_reads(value, same):
    """As `as_text` converts it in a parquet file."""
    assert _text(value) == same
    column = pl.Series("x", [value]).to_frame()
    text = column.select(as_text(pl.col("x"), column.schema["x"])).item()
    assert text == same


NUMBERS = [
    sign + digits + end
    for sign in ("", "+", "-")
    for digits in ("1", "1.5", ".5", "5.", "007")
    for end in ("", "e5", "E-3", "e+2")
]
NO_NUMBERS = ["", " 1", "1 ", "1_000", "inf", "-infinity", "1e999", "0x1", "1,5", "1e", "e5", "--1", ".", "+", "\u0663"]


def test_a_number_has_the_texts_that_preparation_reads():
    """As `finite` reads them in a text column; NaN is a missing value."""
    texts = [*NUMBERS, "nan", "-NaN", *NO_NUMBERS]
    numbers = pl.DataFrame({"x": texts}).select(finite(pl.col("x"))).to_series().to_list()
    assert [_number_or_missing(text) for text in texts] == numbers
    assert [_number(text) for text in texts[: -len(NO_NUMBERS)]] == numbers[: -len(NO_NUMBERS)]
    for text in NO_NUMBERS:
        with pytest.raises(ValueError, match="expected a finite number"):
            _number(text)


@pytest.mark.parametrize(("text", "seconds"), MOMENTS)
def test_a_moment_is_the_one_that_preparation_reads(text, seconds):
    if seconds is None:
        with pytest.raises(ValueError, match="expected a number, an ISO date or null"):
            _moment(text)
    else:
        assert _moment(text) == seconds
