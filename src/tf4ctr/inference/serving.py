"""Serves an exported model over HTTP: raw rows in, probabilities out.

Needs the extra `serve`, and no torch.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import onnxruntime
import polars as pl
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import Field, WrapValidator, create_model
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, check_whole
from tf4ctr.inference.request_errors import InvalidRows, answer, check_rows, without_probability
from tf4ctr.inference.request_rows import Cell, cell_type, request_columns, row_type

MAX_ROWS = 10_000  # of one request and of one batch: bounds the time and memory of a call of the model
MAX_BODY_BYTES = 8 * 2**20  # of one request: a full one, MAX_ROWS rows, with some 800 bytes per row

Waiting = tuple[list[list[Cell]], asyncio.Future[NDArray[np.float32]]]  # a request's rows, and where its p goes


class Scored(NamedTuple):
    """The result for some rows.

    Attributes:
        p: probabilities, [N].
        counts: unknown values and all values, [2, C], see `RowEncoder.count`.
        missing: number of missing values of each column of numbers; empty without numbers.
    """

    p: NDArray[np.float32]
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]


class ServedModel:
    """A `format=onnx` export: raw rows -> probabilities.

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
        self.null_values: list[str] = self.manifest.get("null_values", [])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # without this, its threads keep the cores busy between requests
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            folder / self.manifest["model"], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, rows: pl.DataFrame) -> Scored:
        """Score columns of text, lists of texts, or numbers; see `RowEncoder.ids`."""
        inputs: dict[str, NDArray[Any]] = {"ids": self.encoder.ids(rows)}
        missing = np.zeros(0, np.int64)
        if self.encoder.schema.number_columns:
            inputs["numbers"] = self.encoder.numbers(rows)
            missing = np.isnan(inputs["numbers"]).sum(0)
        (p_N,) = self.session.run(["p"], inputs)
        return Scored(p_N, self.encoder.count(inputs["ids"]), missing)


class Batcher:
    """Scores the requests together that arrive while the model is busy.

    A request that arrives alone waits for no others.

    Args:
        model: scores a frame of rows.
        registry: where batch sizes, rows, unknown values and missing numbers are counted.
    """

    def __init__(self, model: ServedModel, registry: CollectorRegistry) -> None:
        self.model = model
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._dtypes = {column: cell_type(column, model.encoder) for column in request_columns(model.encoder)}
        self.rows = Counter("tf4ctr_rows_total", "Rows scored", registry=registry)
        sizes = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, MAX_ROWS)
        self.batches = Histogram("tf4ctr_batch_rows", "Rows scored together", buckets=sizes, registry=registry)
        self.unknown = Counter(
            "tf4ctr_out_of_vocabulary_total", "Values that are out of vocabulary", ["column"], registry=registry
        )
        self.values = Counter("tf4ctr_sequence_values_total", "Values of sequences", ["column"], registry=registry)
        self.missing = Counter("tf4ctr_missing_total", "Numbers that are missing", ["column"], registry=registry)

    async def score(self, rows: list[list[Cell]]) -> NDArray[np.float32]:
        """Rows of cells in the order of `request_columns` -> p [N].

        Raises:
            InvalidRows: the model has no probability for a row: its numbers are too large for it.
        """
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
            await self._answer(requests)

    async def _answer(self, requests: list[Waiting]) -> None:
        """Score requests together; one by one if that fails: an error meets only its request."""
        try:
            scored = await asyncio.to_thread(self._run, [row for rows, _ in requests for row in rows])
        except Exception as error:
            if len(requests) > 1:
                for request in requests:
                    await self._answer([request])
            elif not requests[0][1].cancelled():
                requests[0][1].set_exception(error)
            return
        self._count(scored)
        ends = np.cumsum([len(rows) for rows, _ in requests])[:-1]
        for (_, result), part in zip(requests, np.split(scored.p, ends), strict=True):
            if result.cancelled():  # its client has closed the connection
                continue
            if len(invalid := np.flatnonzero(~np.isfinite(part))):
                result.set_exception(without_probability(invalid.tolist()))
            else:
                result.set_result(part)

    def _run(self, rows: list[list[Cell]]) -> Scored:
        return self.model(pl.DataFrame(rows, schema=self._dtypes, orient="row"))

    def _count(self, scored: Scored) -> None:
        self.batches.observe(len(scored.p))
        self.rows.inc(len(scored.p))
        encoder = self.model.encoder
        unknown, values = (dict(zip(encoder.counted, counts, strict=True)) for counts in scored.counts.tolist())
        of_sequences = {field.name: values[field.name] for field in encoder.schema.sequence_fields}
        missing = dict(zip(encoder.schema.number_columns, scored.missing.tolist(), strict=True))
        for counter, counts in ((self.unknown, unknown), (self.values, of_sequences), (self.missing, missing)):
            for column, count in counts.items():
                if count:
                    counter.labels(column).inc(count)


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
    check_whole("max_body_bytes", max_body_bytes, 1)
    registry = CollectorRegistry()
    batcher = Batcher(model, registry)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title="TF4CTR", description="Click probabilities of raw rows.", lifespan=working)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    row = row_type(model.encoder, model.null_values)
    rows = Annotated[list[row], Field(min_length=1, max_length=MAX_ROWS), WrapValidator(check_rows)]  # type: ignore[valid-type]
    request: Any = create_model("Rows", rows=(rows, ...))

    async def predict(body: request) -> dict[str, list[float]]:
        return {"p": (await batcher.score([list(vars(row).values()) for row in body.rows])).tolist()}

    async def health() -> dict[str, Any]:
        return {"status": "ok", **{key: model.manifest[key] for key in ("run", "made", "versions")}}

    async def invalid(request: Request, error: Exception) -> Response:
        return answer(errors := error.errors(), len(errors))  # type: ignore[attr-defined]

    async def too_many(request: Request, error: Exception) -> Response:
        return answer(error.errors, error.count)  # type: ignore[attr-defined]

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(InvalidRows, too_many)
    app.post("/predict", summary="A probability for each row. Values that training has not seen are out of vocabulary")(
        predict
    )
    app.get("/health", summary="The model that is served")(health)
    Instrumentator(registry=registry).instrument(app).expose(app)
    return app
