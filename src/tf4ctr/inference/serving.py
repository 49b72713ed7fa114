"""Serves an exported model over HTTP: raw rows in, probabilities out.

Needs the extra `serve`, and no torch.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import polars as pl
from fastapi import FastAPI, HTTPException
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, create_model
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.readers import INTEGERS
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import FieldSpec
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

MAX_ROWS = 10_000  # of one request and of one batch: bounds the time and memory of a call of the model
MAX_BODY_BYTES = 8 * 2**20  # of one request: a full one, MAX_ROWS rows, with some 800 bytes per row

Scalar = str | bool | int | float | None  # one value in JSON
Text = str | None  # the text of such a value, None if it is missing
Cell = Text | list[Text]  # one column of a row; a list for a list field


class ServedModel:
    """A `format=onnx` export: raw rows of text -> probabilities.

    Args:
        folder: what src/export.py wrote.
        threads: of the model; 0 for one per core.

    Raises:
        InputError: the folder is not an ONNX export.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        path = folder / "export.json"
        if not path.exists():
            raise InputError(f"export={folder}: it has no export.json; create one with python src/export.py run=RUN")
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        if self.manifest["format"] != "onnx":
            raise InputError(
                f"export={folder} has format {self.manifest['format']}, expected onnx: export with format=onnx"
            )
        schema = Schema.from_dict(self.manifest["schema"])
        fields = [FieldSpec.from_config(field) for field in self.manifest["fields"]]
        self.encoder = RowEncoder(schema, fields, folder / "vocabulary")
        self.columns_W = schema.columns
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # without this, its threads keep the cores busy between requests
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            folder / self.manifest["model"], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, rows: pl.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Columns of text or lists of texts -> p [N], and unknown values per column of ids [W]."""
        ids_NW = self.encoder.ids(rows)
        return self.session.run(["p"], {"ids": ids_NW})[0], (ids_NW == self.encoder.unknown_W).sum(0)


class Batcher:
    """Scores the requests together that arrive while the model is busy.

    A request that arrives alone waits for no others.

    Args:
        model: scores a frame of rows.
        registry: where batch sizes, rows and unknown values are counted.
    """

    def __init__(self, model: ServedModel, registry: CollectorRegistry) -> None:
        self.model = model
        self._waiting: asyncio.Queue[tuple[list[list[Cell]], asyncio.Future[NDArray[np.float32]]]] = asyncio.Queue()
        lists = list_separators(model.encoder)
        self._dtypes = {
            column: pl.List(pl.String) if column in lists else pl.String() for column in model.encoder.columns
        }
        self.rows = Counter("tf4ctr_rows_total", "Rows scored", registry=registry)
        sizes = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, MAX_ROWS)
        self.batches = Histogram("tf4ctr_batch_rows", "Rows scored together", buckets=sizes, registry=registry)
        self.unknown = Counter(
            "tf4ctr_out_of_vocabulary_total", "Values that are out of vocabulary", ["column"], registry=registry
        )

    async def score(self, rows: list[list[Cell]]) -> NDArray[np.float32]:
        """Rows of cells in the order of the encoder's columns -> p [N]."""
        result: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        await self._waiting.put((rows, result))
        return await result

    async def work(self) -> None:
        """Score what waits, batch by batch, until cancelled."""
        while True:
            requests = [await self._waiting.get()]
            count = len(requests[0][0])
            while count < MAX_ROWS and not self._waiting.empty():
                requests.append(self._waiting.get_nowait())
                count += len(requests[-1][0])
            try:
                p_N, unknown_W = await asyncio.to_thread(self._run, [row for rows, _ in requests for row in rows])
            except Exception as error:
                for _, result in requests:
                    if not result.cancelled():
                        result.set_exception(error)
                continue
            self._count(count, unknown_W)
            ends = np.cumsum([len(rows) for rows, _ in requests])[:-1]
            for (_, result), part in zip(requests, np.split(p_N, ends), strict=True):
                if not result.cancelled():  # its client has closed the connection
                    result.set_result(part)

    def _run(self, rows: list[list[Cell]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.model(pl.DataFrame(rows, schema=self._dtypes, orient="row"))

    def _count(self, rows: int, unknown_W: NDArray[np.int64]) -> None:
        self.batches.observe(rows)
        self.rows.inc(rows)
        for column, unknown in zip(self.model.columns_W, unknown_W, strict=True):
            if unknown:
                self.unknown.labels(column).inc(int(unknown))


def list_separators(encoder: RowEncoder) -> dict[str, str | None]:
    """The raw columns that take a JSON list, and the separator of the same list as one text.

    All fields of such a column are list fields, without a transform and with the same separator.
    The separator is None if the training data has lists: then text is invalid.
    """
    fields_of = {column: [field for field in encoder.fields if field.raw == column] for column in encoder.columns}
    return {
        column: fields[0].separator
        for column, fields in fields_of.items()
        if all(field.width > 1 and not field.transform for field in fields)
        and len({field.separator for field in fields}) == 1
    }


def example_row(encoder: RowEncoder) -> dict[str, str | list[str]]:
    """A valid row: the first known value of each field, or a valid text if it has a transform."""
    row: dict[str, str | list[str]] = {}
    lists = list_separators(encoder)
    for column in encoder.columns:
        field = next(field for field in encoder.fields if field.raw == column)
        known = encoder.values[field.name]
        value = TRANSFORMS[field.transform].example if field.transform else str(known[0]) if len(known) else ""
        row[column] = [value] if column in lists else value
    return row


def row_type(encoder: RowEncoder) -> type[BaseModel]:
    """The type of a row of a request: one cell per raw column, as text or a list of texts.

    A cell is text, a number, a boolean or null in JSON, and becomes the text that training has for
    it. A list field takes a list of them too. A transform's text must have the form that it needs.
    """
    columns: dict[str, Any] = {}
    example, lists = example_row(encoder), list_separators(encoder)
    for number, column in enumerate(encoder.columns):
        transforms = [field.transform for field in encoder.fields if field.raw == column and field.transform]
        cell = (
            PlainValidator(_list_of(lists[column]), Scalar | list[Scalar])
            if column in lists
            else PlainValidator(_text_like(transforms), Scalar)
        )
        columns[f"column_{number}"] = (Annotated[Any, cell], Field(alias=column, examples=[example[column]]))
    return create_model("Row", __config__=ConfigDict(extra="forbid"), **columns)


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
    found = "a list" if isinstance(value, list) else "an object"
    raise ValueError(f"expected text, a number, true, false or null, found {found}")


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


class BodyLimit:
    """ASGI middleware: answers a request with 413 if its body has more than `max_bytes`.

    The rest of such a body is not read.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        size = 0

        async def limited() -> Message:
            nonlocal size
            self._check(int(headers.get(b"content-length", 0)))
            message = await receive()
            size += len(message.get("body", b""))
            self._check(size)  # the header may be absent
            return message

        await self.app(scope, limited, send)

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise HTTPException(
                413,
                f"the body of the request has more than {self.max_bytes:,} bytes: send fewer rows per request, or start"
                " the server with a larger max_body_bytes",
            )


def create_app(model: ServedModel, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The app: POST /predict, GET /health, GET /metrics (Prometheus), and /docs.

    Args:
        model: what is served.
        max_body_bytes: limit of a request's body; a larger one is answered with 413.

    Raises:
        InputError: the limit is not a positive whole number.
    """
    if not isinstance(max_body_bytes, int) or max_body_bytes < 1:
        raise InputError(f"max_body_bytes is {max_body_bytes!r}: expected a whole number from 1 on")
    registry = CollectorRegistry()
    batcher = Batcher(model, registry)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title="TF4CTR", description="Click probabilities of raw rows.", lifespan=working)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    row = row_type(model.encoder)
    request: Any = create_model("Rows", rows=(list[row], Field(min_length=1, max_length=MAX_ROWS)))  # type: ignore[valid-type]

    async def predict(body: request) -> dict[str, list[float]]:
        return {"p": (await batcher.score([list(vars(row).values()) for row in body.rows])).tolist()}

    async def health() -> dict[str, Any]:
        return {"status": "ok", **{key: model.manifest[key] for key in ("run", "made", "versions")}}

    app.post("/predict", summary="A probability for each row. Values that training has not seen are out of vocabulary")(
        predict
    )
    app.get("/health", summary="The model that is served")(health)
    Instrumentator(registry=registry).instrument(app).expose(app)
    return app
