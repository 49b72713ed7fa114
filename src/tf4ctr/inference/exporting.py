"""A trained run -> a folder that scores raw rows: a portable model and its vocabulary."""

import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch import Tensor, nn

import tf4ctr
from tf4ctr.assembly import build_network, load_run
from tf4ctr.data import encoding
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.network import Network

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": "model.safetensors"}
MANIFEST = "export.json"
CHECK_ROWS = 10_000  # random rows that both models score; a second's work at most
TOLERANCE = 1e-5  # of a probability: float32 rounding stays below it
EXAMPLE_ROWS = 64  # with which the graph is recorded; any number above 1 gives the same graph
MISSING = 0.1  # share of missing numbers and of empty histories among the random rows
LATENCY = {1: 300, 1_000: 30}  # batch size: timed calls, a second or less in total
# Bytes of weights in one .onnx file: a protobuf holds 2 GiB, less some for the graph. More weights
# go into a file beside it.
PROTOBUF_LIMIT = 2**31 - 2**26

Model = Callable[..., NDArray[np.float32]]  # (ids [B, W]) or (ids, numbers [B, N]) -> p [B]


class Export(NamedTuple):
    """The result of an export.

    Attributes:
        folder: what was written.
        difference: the largest difference from the run's own probabilities.
        latency_ms: batch size -> milliseconds per call, the median.
    """

    folder: Path
    difference: float
    latency_ms: dict[int, float]


class Probability(nn.Module):
    """ids [B, W] and numbers [B, N], see `Inputs` -> p [B]: the fused head and its sigmoid."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids_BW: Tensor, numbers_BN: Tensor | None = None) -> Tensor:
        return torch.sigmoid(self.network(ids_BW, numbers_BN).fused)


def export(run: Path, form: str, output: Path, seed: int = 2019) -> Export:
    """Write a run's best weights as `form` into the folder `output`.

    The model is checked against the run on 10,000 random rows. An `onnx` model maps `ids` int32
    [B, W] to `p` float32 [B], for any B. If the dataset has numbers, a second input is `numbers`
    float32 [B, N], scaled and NaN where missing. So does a `torch_export` model
    (`torch.export.load(...).module()`). `safetensors` contains the weights under the network's
    names; `load_safetensors` reads them. Beside the model are `vocabulary/`, `histories/` if the
    dataset has histories of its log, `config.yaml`, and `export.json` with schema, fields, the
    columns of each input, versions and the check. The folder appears whole or not at all.

    Raises:
        InputError: an unknown form, a package that is not installed, an output folder that is not
            an export, or a model whose probabilities differ by more than 1e-5.
    """
    _check_options(form, output)
    network, schema, config = load_run(run)
    spec = DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))  # type: ignore[arg-type]
    RowEncoder(schema, spec.fields, run / "vocabulary")  # raises if the vocabulary does not fit the network
    model = Probability(network).eval()
    inputs = random_inputs(schema, CHECK_ROWS, seed)
    expected = _scored_by(model)(*inputs.values())
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        shutil.copyfile(run / "config.yaml", folder / "config.yaml")
        encoding.keep(run, folder)
        manifest = _manifest(run, form, schema, spec)
        _write_manifest(manifest, folder)  # before the model: load_safetensors reads the schema
        example = {name: torch.from_numpy(rows[:EXAMPLE_ROWS]) for name, rows in inputs.items()}
        exported = _WRITERS[form](model, example, folder)
        difference = _check(exported(*inputs.values()), expected)
        latency = {
            size: _milliseconds(exported, [rows[:size] for rows in inputs.values()], calls)
            for size, calls in LATENCY.items()
        }
        check = {"rows": CHECK_ROWS, "seed": seed, "largest_difference": difference, "latency_ms": latency}
        _write_manifest(manifest | {"check": check}, folder)
        if output.exists():
            output.rename(Path(scratch) / "old")
        folder.rename(output)
    return Export(output, difference, latency)


def _check_options(form: str, output: Path) -> None:
    if form not in FILES:
        raise InputError(f"format={form}: {did_you_mean(form, FILES)}")
    if output.exists() and not (output / MANIFEST).exists():
        raise InputError(f"output={output} exists and is not an export: name another folder")


def _manifest(run: Path, form: str, schema: Schema, spec: DatasetSpec) -> dict[str, Any]:
    return {
        "format": form,
        "model": FILES[form],
        "run": str(run),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"tf4ctr": tf4ctr.__version__, "torch": torch.__version__},
        "schema": schema.to_dict(),
        "fields": [asdict(field) for field in spec.fields],
        "null_values": list(spec.null_values),
        "inputs": input_columns(schema),
    }


def _write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _check(p_N: NDArray[np.float32], expected_N: NDArray[np.float32]) -> float:
    """The largest difference between the probabilities of the exported model and of the run."""
    difference = float(np.abs(p_N - expected_N).max())
    if not difference <= TOLERANCE:  # also if it is NaN
        raise InputError(
            f"the exported model differs from the run by {difference:.1e} on {CHECK_ROWS:,} random rows, more than"
            f" {TOLERANCE}: nothing is written. Try another format: {', '.join(FILES)}"
        )
    return difference


def input_columns(schema: Schema) -> dict[str, list[str]]:
    """The inputs of a model, and the columns of the prepared rows that each consists of."""
    return {"ids": schema.columns, **({"numbers": schema.number_columns} if schema.number_columns else {})}


def random_inputs(schema: Schema, rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw the inputs of a model: `ids`, and `numbers` if the schema has some."""
    inputs: dict[str, NDArray[Any]] = {"ids": random_ids(schema, rows, seed)}
    return inputs | ({"numbers": random_numbers(schema, rows, seed)} if schema.number_columns else {})


def random_ids(schema: Schema, rows: int, seed: int) -> NDArray[np.int32]:
    """Draw known and unknown values of each field with equal probability: ids [rows, W].

    Lists are full. A tenth of the histories are empty, the others have any length up to their
    width; aligned sequences have the same.
    """
    random = np.random.default_rng(seed)
    categorical = schema.id_fields[: len(schema.id_fields) - len(schema.sequence_fields)]
    parts = [_draw(field, schema, rows, random) for field in categorical]
    for history in schema.histories:
        width = history[0].width
        length_N = np.where(random.random(rows) < MISSING, 0, random.integers(1, width + 1, rows))
        is_value_NL = np.arange(width) < length_N[:, None]
        for field in history:
            parts.append(np.where(is_value_NL, _draw(field, schema, rows, random), schema.offset_of(field.name)))
    return np.concatenate(parts, 1).astype(np.int32)


def _draw(field: Field, schema: Schema, rows: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Values of a field, [rows, width]."""
    columns = [random.integers(1, field.vocabulary_size, rows, dtype=np.int32) for _ in range(field.width)]
    return schema.offset_of(field.name) + np.stack(columns, 1)


def random_numbers(schema: Schema, rows: int, seed: int) -> NDArray[np.float32]:
    """Draw scaled numbers from N(0, 1), a tenth of them missing (NaN): [rows, N]."""
    random = np.random.default_rng([seed, 1])  # other numbers than `random_ids` draws
    numbers = random.normal(size=(rows, len(schema.number_columns))).astype(np.float32)
    numbers[random.random(numbers.shape) < MISSING] = np.nan
    return numbers


def load_safetensors(folder: Path) -> Network:
    """The network of a `format=safetensors` export, with its weights, in evaluation mode."""
    from safetensors.torch import load_file

    schema = Schema.from_dict(json.loads((folder / MANIFEST).read_text())["schema"])
    config: DictConfig = OmegaConf.load(folder / "config.yaml")  # type: ignore[assignment]
    network = build_network(config, schema)
    network.place_tables(draw=False)
    network.load_state_dict(load_file(folder / FILES["safetensors"]))
    return network.eval()


def _to_onnx(model: Probability, example: dict[str, Tensor], folder: Path) -> Model:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter writes with it
    except ImportError as error:
        raise InputError(f"format=onnx needs {error.name}: pip install -e '.[export]'") from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they log every pass of the exporter
        logging.getLogger(name).setLevel(logging.ERROR)
    path = folder / FILES["onnx"]
    graph = _graph(model, example)
    program = torch.onnx.export(
        graph, tuple(example.values()), input_names=list(example), output_names=["p"], dynamo=True, verbose=False
    )
    assert program is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    program.save(path, external_data=size > PROTOBUF_LIMIT)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(["p"], dict(zip(example, inputs, strict=True)))[0]


def _to_torch_export(model: Probability, example: dict[str, Tensor], folder: Path) -> Model:
    path = folder / FILES["torch_export"]
    torch.export.save(_graph(model, example), path)
    return _scored_by(torch.export.load(path).module())


def _to_safetensors(model: Probability, example: dict[str, Tensor], folder: Path) -> Model:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise InputError("format=safetensors needs safetensors: pip install -e '.[export]'") from error
    save_file(model.network.state_dict(), folder / FILES["safetensors"])
    return _scored_by(Probability(load_safetensors(folder)))


_WRITERS: dict[str, Callable[[Probability, dict[str, Tensor], Path], Model]] = {
    "onnx": _to_onnx,
    "torch_export": _to_torch_export,
    "safetensors": _to_safetensors,
}


def _graph(model: Probability, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(model, tuple(example.values()), dynamic_shapes=(batch,) * len(example))


def _scored_by(module: nn.Module) -> Model:
    def model(*inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()

    return model


def _milliseconds(model: Model, inputs: list[NDArray[Any]], calls: int) -> float:
    """Milliseconds per call, the median of `calls` calls."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        model(*inputs)
        seconds.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(seconds), 4)


def export_table(form: str, result: Export) -> Table:
    """The check and the latency, one row each."""
    table = Table(title=f"{form}: {result.folder}", title_justify="left")
    table.add_column("check", style="bold")
    table.add_column("value", justify="right")
    table.add_row(f"largest difference of p, {CHECK_ROWS:,} rows", f"{result.difference:.1e}")
    for size, milliseconds in result.latency_ms.items():
        table.add_row(f"median latency, batch {size:,}", f"{milliseconds:.3f} ms")
    return table
