"""The rows of a request: the type of their JSON, and what becomes of its values.

Needs the extra `serve`, and no torch.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, create_model, model_validator

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.readers import INTEGERS
from tf4ctr.data.schema import IDS, NUMBERS, VECTORS
from tf4ctr.data.transforms import AFTER_SECONDS, DATES, TRANSFORMS
from tf4ctr.inference.raw_values import example_number

# the texts that polars reads as numbers, but for infinity
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan)", re.ASCII | re.IGNORECASE)

Scalar = str | bool | int | float | None  # one value in JSON
Number = int | float | str | None  # the same of a number
Text = str | None  # the text of such a value, None if it is missing
Cell = Text | list[Text] | float | list[float]  # one column of a row; a list for all kinds with several values
Converter = Callable[[Any], Cell]  # a JSON value -> its cell; ValueError if it is invalid


def request_columns(encoder: RowEncoder) -> list[str]:
    """The columns of a request's row: those of `columns` and `optional`.

    A sequence comes after the one that it is aligned with.
    """
    aligned = {field.raw for field in encoder.fields if field.aligned_with}
    return sorted([*encoder.columns, *encoder.optional], key=aligned.__contains__)


def _fields_of(column: str, encoder: RowEncoder) -> list[FieldSpec]:
    """The fields that are made of a raw column."""
    return [field for field in encoder.fields if field.raw == column and field.file is None]


def _users(encoder: RowEncoder) -> set[str]:
    """The raw columns by which histories are joined."""
    return {str(state.leader.by) for state in encoder.histories}


def _moments(encoder: RowEncoder) -> set[str]:
    """The raw columns of the moments of histories."""
    return {str(state.leader.order) for state in encoder.histories}


def cell_type(column: str, encoder: RowEncoder) -> pl.DataType:
    """The type of a column's cells; text if it is also used as text."""
    if column in list_separators(encoder):
        return pl.List(pl.String())
    fields = _fields_of(column, encoder)
    if any(field.gaps for field in fields):
        return pl.List(pl.String())
    if any(field.kind == VECTORS for field in fields):
        return pl.List(pl.Float64())
    only_numbers = all(field.kind == NUMBERS for field in fields) and column not in _users(encoder)
    return pl.Float64() if only_numbers else pl.String()


def list_separators(encoder: RowEncoder) -> dict[str, str | None]:
    """The raw columns that take a JSON list, and the separator of the same list as one text.

    All fields of such a column are list fields or sequences, without a transform and with the same
    separator. The separator is None if the training data has lists: then text is invalid.
    """
    single = _users(encoder) | _moments(encoder)
    fields_of = {column: _fields_of(column, encoder) for column in request_columns(encoder) if column not in single}
    return {
        column: fields[0].separator
        for column, fields in fields_of.items()
        if all(_is_list(field) for field in fields) and len({field.separator for field in fields}) == 1
    }


def _is_list(field: FieldSpec) -> bool:
    return field.has_ids and field.width > 1 and not field.transform and not field.gaps


def example_row(encoder: RowEncoder) -> dict[str, Any]:
    """A valid row.

    A value is the first known one of an id, the median of a number, a vector of zeros, or a valid
    text of a transform. A sequence has one value. The moment is that of the last known event.
    """
    lists = list_separators(encoder)
    values = {column: _example(column, encoder) for column in request_columns(encoder)}
    return {column: [str(value)] if column in lists else value for column, value in values.items()}


def _example(column: str, encoder: RowEncoder) -> str | float | list[float]:
    """A value of a raw column that suits its fields."""
    fields = _fields_of(column, encoder)
    ids = [field for field in fields if field.has_ids and not field.gaps]
    for field in ids:
        if field.transform:
            return TRANSFORMS[field.transform].example
    if not fields:
        return _example_of_histories(column, encoder)
    if fields[0].gaps:
        return [1.0]
    if not ids:
        scaling = encoder.schema[fields[0].name].scaling
        return example_number(scaling, fields[0].transform) if scaling else [0.0] * fields[0].width
    if encoder.schema[ids[0].name].hashed:
        return "1"  # every text is known
    known = encoder.values[ids[0].of or ids[0].name]
    return str(known[0]) if len(known) else ""


def _example_of_histories(column: str, encoder: RowEncoder) -> str | float:
    """A user who has a history, or the moment of the last known event."""
    for state in encoder.histories:
        if state.leader.by == column and len(state.users):
            return str(state.users[0])
        if state.leader.order == column and len(state.moments):
            return float(state.moments.max())
    return "" if column in _users(encoder) else 0.0


def row_type(encoder: RowEncoder, null_values: Sequence[str] = ()) -> type[BaseModel]:
    """The type of a row of a request: one cell per raw column, text, a list of texts or a number.

    An id is text, a number, a boolean or null in JSON, and becomes the text that training has for
    it. A list field takes a list of them too, and so does a sequence, the latest value last. A
    transform's text must have the form that it needs. A number is a number, its text or null. An
    empty text is null, that of a list is an empty list. A vector is a list of as many numbers as it
    has.

    The columns of histories of the log may be absent: the user, the moment (a number or an ISO
    date), the histories, and their times (a list of numbers). A history that is absent or null is
    joined by the user. Aligned sequences have equally many values.

    Args:
        encoder: of the model.
        null_values: other texts that mean a missing value.
    """
    columns: dict[str, Any] = {}
    example = example_row(encoder)
    for number, column in enumerate(request_columns(encoder)):
        default: Any = None if column in encoder.optional else ...
        cell = _validator(column, encoder, null_values)
        columns[f"column_{number}"] = (Annotated[Any, cell], Field(default, alias=column, examples=[example[column]]))
    # an aligned sequence that is absent is checked too
    filled: Any = model_validator(mode="before")(partial(_filled, encoder.optional))
    return create_model("Row", __config__=ConfigDict(extra="forbid"), __validators__={"filled": filled}, **columns)


def _filled(optional: Sequence[str], row: Any) -> Any:
    """A row with null for each column that may be absent and is."""
    return {**dict.fromkeys(optional), **row} if isinstance(row, dict) else row


def _validator(column: str, encoder: RowEncoder, null_values: Sequence[str]) -> PlainValidator:
    """What makes a column's cells of JSON values; it checks the length of an aligned sequence."""
    converter, json_type = _cell(column, encoder)
    is_list = cell_type(column, encoder) == pl.List(pl.String())
    converter = _without((*null_values, *(() if is_list else ("",))), converter)
    aligned = next((field for field in _fields_of(column, encoder) if field.aligned_with), None)
    if aligned is None:
        return PlainValidator(converter, json_type)
    leader = next(field.raw for field in encoder.fields if field.name == aligned.aligned_with)
    name = f"column_{request_columns(encoder).index(leader)}"
    return PlainValidator(_aligned(converter, name, leader, aligned.gaps), json_type)


def _aligned(
    converter: Callable[[Any], Any], leader: str, column: str, is_optional: bool
) -> Callable[[Any, ValidationInfo], Cell]:
    """The function, of a list that must have as many values as another one.

    Args:
        leader: the other list's name in the row's type.
        column: its raw column.
        is_optional: whether null is valid beside any list.
    """

    def checked(value: Any, info: ValidationInfo) -> Cell:
        cell = converter(value)
        if leader not in info.data or (cell is None and is_optional):  # without it the other one is invalid itself
            return cell
        found, expected = (0 if cells is None else len(cells) for cells in (cell, info.data[leader]))
        if found != expected:
            raise ValueError(f"expected {expected} values, as many as '{column}' has, found {found}")
        return cell

    return checked


def _cell(column: str, encoder: RowEncoder) -> tuple[Converter, Any]:
    """What makes a column's cells of JSON values, and the type of these values."""
    lists, fields = list_separators(encoder), _fields_of(column, encoder)
    if column in lists:
        return _list_of(lists[column]), Scalar | list[Scalar]
    if fields and fields[0].gaps:
        return _times_of(fields[0].separator), list[Number] | Text
    if vectors := [field for field in fields if field.kind == VECTORS]:
        return _vector_of(vectors[0].width, vectors[0].separator), list[float] | Text
    converter, json_type = _single(column, fields, encoder)
    if column not in _moments(encoder):
        return converter, json_type
    return (_both(_moment, converter) if fields else _moment), Number


def _single(column: str, fields: list[FieldSpec], encoder: RowEncoder) -> tuple[Converter, Any]:
    """The same of a column with one value per row."""
    numbers = [field for field in fields if field.kind == NUMBERS]
    number = _number_or_missing if all(field.invalid == "missing" for field in numbers) else _number
    if numbers and cell_type(column, encoder) == pl.Float64():
        return number, Number
    text = _text_like([field.transform for field in fields if field.kind == IDS and field.transform])
    return (_both(number, text), Number) if numbers else (text, Scalar)


def _without(null_values: Sequence[str], converter: Converter) -> Converter:
    """The function, with null for a value whose text means a missing one."""

    def checked(value: Any) -> Cell:
        is_null = not isinstance(value, list | dict) and _text(value) in null_values
        return None if is_null else converter(value)

    return checked if null_values else converter


def _both(check: Converter, converter: Converter) -> Converter:
    """The second function, of a value that the first one takes too."""

    def checked(value: Any) -> Cell:
        check(value)
        return converter(value)

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


def _moment(value: Any) -> float | None:
    """The number of a moment in JSON, as `transforms.moment` reads it; None for null and NaN.

    Raises:
        ValueError: a text that is neither a finite number nor an ISO date; see `_number`.
    """
    if not isinstance(value, str) or (NUMBER.fullmatch(value) and "nan" not in value.lower()):
        return _number(value)
    text = re.sub(r"^([0-9-]{8,10})T", r"\1 ", value)
    if after := re.fullmatch(AFTER_SECONDS, text[19:]):
        ahead = 3600 * int(after["hours"] or 0) + 60 * int(after["minutes"] or 0)
        for form in DATES:
            with suppress(ValueError):
                seconds = datetime.strptime(text[:19], form).replace(tzinfo=UTC).timestamp()
                return seconds + ahead if after["sign"] == "-" else seconds - ahead
    raise ValueError(f"expected a number, an ISO date or null, found {value!r}")


def _text(value: Any) -> Text:
    """The text of a JSON value, as `readers.as_text` has it: "1" for 1.0, None for NaN.

    Raises:
        ValueError: a list or an object, or a text with half of a character, as "\\ud800".
    """
    if value is None:
        return None
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"expected Unicode text, found half of a character in {value!a}")
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
        return list(text.split(separator)) if text else []

    return texts


def _times_of(separator: str | None) -> Converter:
    """The function list of numbers, or one text with separators -> their texts; null -> None."""
    texts = _list_of(separator)

    def times(value: Any) -> list[Text] | None:
        values = value if isinstance(value, list) else texts(value)
        if values is None:
            return None
        numbers = [None if item == "" else _number(item) for item in values]
        return [None if number is None else repr(number) for number in numbers]

    return times


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
