"""The rows of a request: the type of their JSON, and what becomes of its values.

Needs the extra `serve`, and no torch.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, create_model

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.readers import INTEGERS
from tf4ctr.data.schema import IDS, NUMBERS, VECTORS
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.inference.raw_values import example_number

# the texts that polars reads as numbers, but for infinity
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan)", re.ASCII | re.IGNORECASE)

Scalar = str | bool | int | float | None  # one value in JSON
Number = int | float | str | None  # the same of a number
Text = str | None  # the text of such a value, None if it is missing
Cell = Text | list[Text] | float | list[float]  # one column of a row; a list for a list field or a vector
Converter = Callable[[Any], Cell]  # a JSON value -> its cell; ValueError if it is invalid


def _fields_of(column: str, encoder: RowEncoder) -> list[FieldSpec]:
    """The fields that are made of a raw column."""
    return [field for field in encoder.fields if field.raw == column and field.file is None]


def cell_type(column: str, encoder: RowEncoder) -> pl.DataType:
    """The type of a column's cells; text if it is also used as text."""
    if column in list_separators(encoder):
        return pl.List(pl.String())
    kinds = {field.kind for field in _fields_of(column, encoder)}
    if VECTORS in kinds:
        return pl.List(pl.Float64())
    return pl.Float64() if kinds == {NUMBERS} else pl.String()


def list_separators(encoder: RowEncoder) -> dict[str, str | None]:
    """The raw columns that take a JSON list, and the separator of the same list as one text.

    All fields of such a column are list fields, without a transform and with the same separator.
    The separator is None if the training data has lists: then text is invalid.
    """
    fields_of = {column: _fields_of(column, encoder) for column in encoder.columns}
    return {
        column: fields[0].separator
        for column, fields in fields_of.items()
        if all(field.kind == IDS and field.width > 1 and not field.transform for field in fields)
        and len({field.separator for field in fields}) == 1
    }


def example_row(encoder: RowEncoder) -> dict[str, Any]:
    """A valid row.

    A value is the first known one of an id, the median of a number, a vector of zeros, or a valid
    text of a transform.
    """
    lists = list_separators(encoder)
    values = {column: _example(_fields_of(column, encoder), encoder) for column in encoder.columns}
    return {column: [str(value)] if column in lists else value for column, value in values.items()}


def _example(fields: list[FieldSpec], encoder: RowEncoder) -> str | float | list[float]:
    """A value of a raw column that suits its fields."""
    ids = [field for field in fields if field.kind == IDS]
    for field in ids:
        if field.transform:
            return TRANSFORMS[field.transform].example
    if not ids:
        scaling = encoder.schema[fields[0].name].scaling
        return example_number(scaling, fields[0].transform) if scaling else [0.0] * fields[0].width
    if ids[0].hash:
        return "1"  # every text is known
    known = encoder.values[ids[0].of or ids[0].name]
    return str(known[0]) if len(known) else ""


def row_type(encoder: RowEncoder, null_values: Sequence[str] = ()) -> type[BaseModel]:
    """The type of a row of a request: one cell per raw column, text, a list of texts or a number.

    An id is text, a number, a boolean or null in JSON, and becomes the text that training has for
    it. A list field takes a list of them too. A transform's text must have the form that it needs.
    A number is a number, its text or null. A vector is a list of as many numbers as it has.

    Args:
        encoder: of the model.
        null_values: texts that mean a missing value.
    """
    columns: dict[str, Any] = {}
    example = example_row(encoder)
    for number, column in enumerate(encoder.columns):
        converter, json_type = _cell(column, encoder)
        cell = PlainValidator(_without(null_values, converter), json_type)
        columns[f"column_{number}"] = (Annotated[Any, cell], Field(alias=column, examples=[example[column]]))
    return create_model("Row", __config__=ConfigDict(extra="forbid"), **columns)


def _cell(column: str, encoder: RowEncoder) -> tuple[Converter, Any]:
    """What makes a column's cells of JSON values, and the type of these values."""
    lists, fields = list_separators(encoder), _fields_of(column, encoder)
    if column in lists:
        return _list_of(lists[column]), Scalar | list[Scalar]
    if vectors := [field for field in fields if field.kind == VECTORS]:
        return _vector_of(vectors[0].width, vectors[0].separator), list[float] | Text
    numbers = [field for field in fields if field.kind == NUMBERS]
    number = _number_or_missing if all(field.invalid == "missing" for field in numbers) else _number
    if len(numbers) == len(fields):
        return number, Number
    text = _text_like([field.transform for field in fields if field.kind == IDS and field.transform])
    return (_both(number, text), Number) if numbers else (text, Scalar)


def _without(null_values: Sequence[str], converter: Converter) -> Converter:
    """The function, with null for a value whose text means a missing one."""

    def checked(value: Any) -> Cell:
        is_null = not isinstance(value, list | dict) and _text(value) in null_values
        return None if is_null else converter(value)

    return checked if null_values else converter


def _both(number: Converter, text: Converter) -> Converter:
    """The function `text`, of a value that must also be a number."""

    def checked(value: Any) -> Cell:
        number(value)
        return text(value)

    return checked


def _number(value: Any) -> float | None:
    """The number of a JSON value, as preparation reads it from text; None for null and NaN.

    Raises:
        ValueError: an infinite number, another text, a boolean, a list or an object.
    """
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise ValueError(f"expected a number, its text or null, found {_kind(value)}")
    number = math.inf
    if not isinstance(value, bool | str) or (isinstance(value, str) and NUMBER.fullmatch(value)):
        with suppress(OverflowError):  # of an integer beyond 1e308
            number = float(value)
    if math.isnan(number):
        return None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, its text or null, found {_text(value)!r}")
    return number


def _number_or_missing(value: Any) -> float | None:
    """`_number`, or None for a text that is not a number and for infinity: `invalid: missing`."""
    if isinstance(value, list | dict):
        return _number(value)
    try:
        return _number(value)
    except ValueError:
        return None


def _text(value: Any) -> Text:
    """The text of a JSON value, as `readers.as_text` has it: "1" for 1.0, None for NaN.

    Raises:
        ValueError: a list or an object.
    """
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        # polars writes small numbers in another form than Python
        return (
            str(int(value)) if value.is_integer() and abs(value) < INTEGERS else pl.Series([value]).cast(pl.String)[0]
        )
    raise ValueError(f"expected text, a number, true, false or null, found {_kind(value)}")


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "an object"


def _list_of(separator: str | None) -> Callable[[Any], list[Text] | None]:
    """The function list, or one text with separators -> list of texts; null -> None."""

    def texts(value: Any) -> list[Text] | None:
        if isinstance(value, list):
            return [_text(item) for item in value]
        text = _text(value)
        if text is None:
            return None
        if separator is None:
            raise ValueError(f"expected a list, found {text!r}")
        return list(text.split(separator))

    return texts


def _vector_of(width: int, separator: str | None) -> Converter:
    """The function list of `width` numbers, or one text with separators -> numbers."""

    def vector(value: Any) -> list[float] | None:
        if value is None:
            return None
        values = value.split(separator) if isinstance(value, str) and separator else value
        if not isinstance(values, list) or len(values) != width:
            raise ValueError(f"expected a list of {width} numbers or null, found {value!r}")
        numbers = [number for item in values if (number := _number(item)) is not None]
        if len(numbers) < width:
            raise ValueError(f"expected a list of {width} numbers or null, found a missing one in it")
        return numbers

    return vector


def _text_like(transforms: list[str]) -> Callable[[Any], Text]:
    """The function JSON value -> text, which must have the form that each of `transforms` needs."""
    forms = [(re.compile(TRANSFORMS[name].pattern), TRANSFORMS[name].expected) for name in transforms]

    def checked(value: Any) -> Text:
        text = _text(value)
        for pattern, expected in forms:
            if text is not None and not pattern.search(text):
                raise ValueError(f"{text!r} is not {expected}")
        return text

    return checked if forms else _text
