"""An exported model behind HTTP: raw rows in, probabilities out. Needs the extra `serve`, and no torch."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import polars as pl
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, create_model

from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import FieldSpec
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

MAX_ROWS = 10_000  # of one request, and of what is scored together

Value = StrictStr | StrictInt | StrictFloat | None


class ServedModel:
    """A `format=onnx` export: raw rows of text -> probabilities.

    Args:
        folder: what src/export.py wrote.
        threads: of the model; 0 for one a core.

    Raises:
        InputError: the folder holds no ONNX export.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        path = folder / "export.json"
        if not path.exists():
            raise InputError(f"export={folder}: there is no export.json; make one with python src/export.py run=RUN")
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        if self.manifest["format"] != "onnx":
            raise InputError(
                f"export={folder} is {self.manifest['format']}, and onnx is what can be served: export with format=onnx"
            )
        schema = Schema.from_dict(self.manifest["schema"])
        self.encoder = RowEncoder(
            schema, [FieldSpec.from_config(field) for field in self.manifest["fields"]], folder / "vocabulary"
        )
        self.columns_W = schema.columns
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # else its threads burn the cores between requests
        self.session = onnxruntime.InferenceSession(
            folder / self.manifest["model"], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, rows: pl.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Text columns -> p [N], and how many values of each column of ids were out of vocabulary [W]."""
        ids_NW = self.encoder.ids(rows)
        return self.session.run(["p"], {"ids": ids_NW})[0], (ids_NW == self.encoder.unknown_W).sum(0)


class Batcher:
    """Scores together what came in while the model was at work; a lone request waits for nothing.

    Args:
        model: scores a frame of rows.
        registry: where batch sizes, rows and unknown values are counted.
    """

    def __init__(self, model: ServedModel, registry: CollectorRegistry) -> None:
        self.model = model
        self._waiting: asyncio.Queue[tuple[list[list[str | None]], asyncio.Future[NDArray[np.float32]]]] = (
            asyncio.Queue()
        )
        self._columns = model.encoder.columns
        self.rows = Counter("tf4ctr_rows_total", "Rows scored", registry=registry)
        sizes = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, MAX_ROWS)
        self.batches = Histogram("tf4ctr_batch_rows", "Rows scored together", buckets=sizes, registry=registry)
        self.unknown = Counter(
            "tf4ctr_out_of_vocabulary_total", "Values that training has not seen", ["column"], registry=registry
        )

    async def score(self, rows: list[list[str | None]]) -> NDArray[np.float32]:
        """Rows of text in the order of the encoder's columns -> p [N]."""
        done: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        await self._waiting.put((rows, done))
        return await done

    async def work(self) -> None:
        """Go on until cancelled."""
        while True:
            taken = [await self._waiting.get()]
            count = len(taken[0][0])
            while count < MAX_ROWS and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
                count += len(taken[-1][0])
            try:
                p_N, unknown_W = await asyncio.to_thread(self._run, [row for rows, _ in taken for row in rows])
            except Exception as error:
                for _, done in taken:
                    if not done.cancelled():
                        done.set_exception(error)
                continue
            self.batches.observe(count)
            self.rows.inc(count)
            for column, unknown in zip(self.model.columns_W, unknown_W, strict=True):
                if unknown:
                    self.unknown.labels(column).inc(int(unknown))
            ends = np.cumsum([len(rows) for rows, _ in taken])[:-1]
            for (_, done), part in zip(taken, np.split(p_N, ends), strict=True):
                if not done.cancelled():  # its client has gone
                    done.set_result(part)

    def _run(self, rows: list[list[str | None]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.model(pl.DataFrame(rows, schema=dict.fromkeys(self._columns, pl.String), orient="row"))


def example_row(encoder: RowEncoder) -> dict[str, str]:
    """A row that can be sent: the first known value of each field; of a transformed one, which is no raw text, a raw text of its form."""
    row = {}
    for column in encoder.columns:
        field = next(each for each in encoder.fields if each.raw == column)
        known = encoder.values[field.name]
        row[column] = TRANSFORMS[field.transform].example if field.transform else str(known[0]) if len(known) else ""
    return row


def row_type(encoder: RowEncoder) -> type[BaseModel]:
    """What a row of a request must be: every raw column by name, text or a number or null, in the form that its transform takes."""
    columns: dict[str, Any] = {}
    example = example_row(encoder)
    for number, column in enumerate(encoder.columns):
        transforms = [field.transform for field in encoder.fields if field.raw == column and field.transform]
        checked = Annotated[(Value, *(AfterValidator(_matching(each)) for each in transforms))] if transforms else Value
        columns[f"column_{number}"] = (checked, Field(alias=column, examples=[example[column]]))
    return create_model("Row", __config__=ConfigDict(extra="forbid"), **columns)


def _matching(transform: str) -> Any:
    expected, compiled = TRANSFORMS[transform].expected, re.compile(TRANSFORMS[transform].pattern)

    def check(value: str | float | None) -> str | float | None:
        if value is not None and not compiled.search(str(value)):
            raise ValueError(f"{value!r} is not {expected}")
        return value

    return check


def create_app(model: ServedModel) -> FastAPI:
    """The app: POST /predict, GET /health, GET /metrics (Prometheus), and /docs."""
    registry = CollectorRegistry()
    batcher = Batcher(model, registry)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title="TF4CTR", description="Click probabilities of raw rows.", lifespan=working)
    row = row_type(model.encoder)
    request: Any = create_model("Rows", rows=(list[row], Field(min_length=1, max_length=MAX_ROWS)))  # type: ignore[valid-type]

    async def predict(body: request) -> dict[str, list[float]]:
        rows = [[None if value is None else str(value) for value in vars(each).values()] for each in body.rows]
        return {"p": (await batcher.score(rows)).tolist()}

    async def health() -> dict[str, Any]:
        return {"status": "ok", **{key: model.manifest[key] for key in ("run", "made", "versions")}}

    app.post("/predict", summary="A probability for each row; values that training has not seen are out of vocabulary")(
        predict
    )
    app.get("/health", summary="The model that is served")(health)
    Instrumentator(registry=registry).instrument(app).expose(app)
    return app
