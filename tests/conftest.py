"""Small raw datasets, prepared datasets and schemas for all tests."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests run at once, one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
import torch

from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import DatasetSpec

# no conftest.py in the folders: pytest would load this file again for each, and then its functions
# could not be pickled
pytest_plugins = ["training.fixtures", "inference.fixtures"]
ROOT = Path(__file__).resolve().parents[1]
# A short run spends most of its time on imports. A server process imports once, and forks.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    [
        f"tf4ctr.{name}"
        for name in ("assembly", "data.datamodule", "training.checkpoints", "training.loggers", "training.tables")
    ]
    + ["wandb"]
)
SHARED = ROOT.parent / "shared"
FIELDS = ("user", "item", "hour")
CSV = {"reader": "csv", "train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
LIBSVM = {"reader": "libsvm", "train": "train.libsvm", "valid": "valid.libsvm", "test": "test.libsvm"}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def schema() -> Schema:
    return Schema("toy", (Field("user", 7), Field("item", 5), Field("hour", 4)), "click", "user")


def draw_ids(schema: Schema, rows: int) -> torch.Tensor:
    """Random ids of known or unknown values, without padding, int32 [rows, F]."""
    columns = [
        offset + torch.randint(1, field.vocabulary_size, (rows,))
        for offset, field in zip(schema.offsets, schema.fields, strict=True)
    ]
    return torch.stack(columns, 1).int()


def write_raw(folder: Path) -> Path:
    """Write a csv dataset of 400 / 100 / 100 rows and three fields with values 0, 1, 2, ..."""
    folder.mkdir()
    for seed, (split, rows) in enumerate({"train": 400, "valid": 100, "test": 100}.items()):
        rng = np.random.default_rng(seed)
        frame = pl.DataFrame(
            {
                "click": rng.integers(0, 2, rows),
                "user": rng.integers(0, 30, rows),
                "item": rng.integers(0, 60, rows),
                "hour": rng.integers(0, 24, rows),
            }
        )
        frame.write_csv(folder / f"{split}.csv")
    return folder


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw")


def make_spec(folder: Path, **options: Any) -> DatasetSpec:
    defaults: dict[str, Any] = {
        "name": "toy",
        "raw_dir": folder,
        "prepared_dir": folder.parent / "prepared" / "toy",
        "fields": FIELDS,
        "label": "click",
        "group": "user",
        "min_count": 2,
        "layouts": (CSV, LIBSVM),
    }
    return DatasetSpec.from_config({**defaults, **options})


def leftovers(spec: DatasetSpec) -> list[str]:
    """Names of temporary files that preparation did not remove."""
    return [path.name for path in spec.prepared_dir.parent.glob(".*") if path.suffix != ".lock"]


@pytest.fixture
def spec(raw_dir: Path) -> DatasetSpec:
    return make_spec(raw_dir)


@pytest.fixture
def prepared(spec: DatasetSpec) -> Path:
    return prepare(spec)


def need_shared(name: str) -> Path:
    """The folder of a real dataset; the test is skipped if it does not exist."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"needs the {name} files in {folder}")
    return folder


@contextmanager
def started_script(script: str, *overrides: str, cwd: Path = ROOT) -> Iterator[tuple[BaseProcess, list[Path]]]:
    """Start an entry point of src/ in a process that has imported torch.

    Yields the process and the files of its stdout and stderr.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"COLUMNS": "160"}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = WARM.Process(
            target=_run_here, args=([str(ROOT / "src" / script), *overrides], cwd, environment, outputs)
        )
        process.start()
        try:
            yield process, outputs
        finally:
            process.kill()


def run_script(
    script: str, *overrides: str, cwd: Path = ROOT, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run an entry point of src/ and return its exit status, stdout and stderr."""
    with started_script(script, *overrides, cwd=cwd) as (process, outputs):
        process.join(timeout)
        if process.exitcode is None:
            raise subprocess.TimeoutExpired([script, *overrides], timeout)
        return subprocess.CompletedProcess(
            [script, *overrides], process.exitcode, *(path.read_text() for path in outputs)
        )


def _run_here(command: list[str], cwd: Path, environment: dict[str, str], outputs: list[Path]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


@pytest.fixture
def toy(tmp_path, raw_dir):
    """Overrides that train a small network on the small raw dataset, in a temporary folder."""
    return [
        "dataset=frappe",
        f"dataset.raw_dir={raw_dir}",
        f"dataset.prepared_dir={tmp_path}/prepared/toy",
        "dataset.fields=[user,item,hour]",
        "dataset.label=click",
        "dataset.rows=null",
        "backbone.complex.hidden_units=[16]",
        "stream.batch_size=64",
        "trainer=cpu",
        "trainer.max_epochs=3",
        "page=false",  # 2 MB and a fifth of a second; tests of the page set it
        f"hydra.run.dir={tmp_path}/run",
    ]


def without_times(metrics):
    return {key: value for key, value in metrics.items() if "second" not in key}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with its raw dataset in raw/ beside it. Tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    write_raw(folder / "raw")
    options = [
        *(
            "dataset=frappe",
            f"dataset.raw_dir={folder}/raw",
            f"dataset.prepared_dir={folder}/prepared",
            "dataset.label=click",
        ),
        *(
            "dataset.fields=[user,item,{name: hour, transform: log_bucket}]",
            "dataset.rows=null",
            "logger=none",
            "trainer=smoke",
        ),
        *("backbone.complex.hidden_units=[16]", "stream.batch_size=64", f"hydra.run.dir={folder}/run"),
    ]
    result = run_script("train.py", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"
