"""The answer to a request with invalid rows: which row, which column, and why.

Needs the extra `serve`, and no torch.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.responses import Response
from pydantic import ValidationError

SHOWN = 20  # errors of an answer: a request can have some for each column of each row
LONGEST = 1_000  # characters of an invalid value, or of a message: a row can be as large as the request

Rows = list[Any]


class InvalidRows(Exception):
    """A request with more errors than an answer shows, or with some that its types do not show.

    Attributes:
        errors: the first ones, as FastAPI has them, with `type`, `loc` and `msg`.
        count: of all errors.
    """

    def __init__(self, errors: Sequence[dict[str, Any]], count: int) -> None:
        super().__init__(f"{count} errors")
        self.errors, self.count = errors, count


def without_probability(numbers: Sequence[int]) -> InvalidRows:
    """The error of the rows with these numbers, from 0, whose probability is NaN."""
    message = "the model has no probability for these values"
    errors = [{"type": "no_probability", "loc": ("body", "rows", number), "msg": message} for number in numbers[:SHOWN]]
    return InvalidRows(errors, len(numbers))


def check_rows(rows: Rows, check: Callable[[Rows], Rows]) -> Rows:
    """What `check` makes of rows; its errors are listed only as far as the answer shows them.

    A list of some for each of 10,000 rows would keep the server busy for seconds.

    Raises:
        ValidationError: that of `check`, if the answer shows all of its errors.
        InvalidRows: there are more.
    """
    try:
        return check(rows)
    except ValidationError as error:
        if error.error_count() <= SHOWN:
            raise
        count = error.error_count()
    raise InvalidRows(_first_errors(rows, check), count)


def _first_errors(rows: Rows, check: Callable[[Rows], Rows]) -> list[dict[str, Any]]:
    """The first errors of rows that have more than `SHOWN` of them."""
    first: list[dict[str, Any]] = []
    for start in range(0, len(rows), SHOWN):
        try:
            check(rows[start : start + SHOWN])
        except ValidationError as error:
            for found in error.errors(include_url=False):
                number, *place = found["loc"]
                first.append({**found, "loc": ("body", "rows", start + int(number), *place)})
        if len(first) >= SHOWN:
            break
    return first[:SHOWN]


def answer(errors: Sequence[dict[str, Any]], count: int) -> Response:
    """Status 422: `detail` has the errors, `more` is the number of the others, if there are any.

    Args:
        errors: the first ones; see `InvalidRows`. An `input` is shortened: that of a missing column
            is the whole row.
        count: of all errors.
    """
    # the values of an invalid row are part of the answer, and JSON has no NaN and no infinity
    detail = json.dumps(jsonable_encoder([_shortened(error) for error in errors]))
    content = {"detail": json.loads(detail, parse_constant=str)}
    if count > len(errors):
        content["more"] = count - len(errors)
    # in ASCII: the invalid value may be text that UTF-8 cannot have
    return Response(json.dumps(content), 422, media_type="application/json")


def _shortened(error: dict[str, Any]) -> dict[str, Any]:
    """The error with at most `LONGEST` characters of its message and of its value."""
    shortened = {**error, "msg": _cut(error["msg"])}
    if "input" in error and len(text := _start_of_json(error["input"])) > LONGEST:
        shortened["input"] = _cut(error["input"] if isinstance(error["input"], str) else text)
    return shortened


def _start_of_json(value: Any) -> str:
    """The JSON of a value, or more than `LONGEST` characters of it: a row can be large."""
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        text += piece
        if len(text) > LONGEST:
            break
    return text


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
