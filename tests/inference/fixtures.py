"""Runs with fields of every kind and with other raw types, written without training."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT
from tf4ctr import __version__
from tf4ctr.assembly import build_network, load_run
from tf4ctr.data import encoding
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.experiments.resolvers import register_resolvers

PARTS = ("dataset", "embedding", "number", "sequence", "backbone", "ssem", "dfm", "loss", "stream")
LAYOUTS = {
    kind: {"reader": kind, **{split: f"{split}.{kind}" for split in ("train", "valid", "test")}}
    for kind in ("csv", "parquet", "ndjson")
}
WRITERS = {"csv": pl.DataFrame.write_csv, "parquet": pl.DataFrame.write_parquet, "ndjson": pl.DataFrame.write_ndjson}


def write_run(folder: Path, rows: pl.DataFrame, fields: list[Any], kind: str, std: float = 0.3, **options: Any) -> Path:
    """A run in `folder`/run with random weights and the vocabulary of `rows`, its raw files.

    `options` are those of the dataset, `std` is the standard deviation of the weights. They are the
    same in each call, whichever tests ran before.
    """
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        WRITERS[kind](rows, raw / f"{split}.{kind}")
    register_resolvers()
    overrides = ["dataset=frappe", "dataset.rows=null", "dataset.group=null", "dataset.min_count=1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides)
    OmegaConf.set_struct(config.dataset, False)
    config.dataset.update(
        {"raw_dir": str(raw), "prepared_dir": str(folder / "prepared"), "label": "click", "fields": fields, **options}
    )
    config.dataset.layouts = [LAYOUTS[kind]]
    config = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(config, PARTS), resolve=True))
    prepared = prepare(DatasetSpec.from_config(config.dataset))
    schema = Schema.load(prepared)
    network = build_network(config, schema)
    _draw_weights(network, std, seed=0)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, folder / "run" / "config.yaml")
    encoding.keep(prepared, folder / "run")
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint = {"schema": schema.to_dict(), "state_dict": weights, "tf4ctr": __version__}
    torch.save(checkpoint, folder / "run" / "checkpoints" / "best.ckpt")
    return folder / "run"


def _draw_weights(network: torch.nn.Module, std: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(std=std, generator=generator)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` with a new folder for each call."""
    return lambda *args, **options: write_run(tmp_path / f"run_{len(list(tmp_path.iterdir()))}", *args, **options)


def with_other_weights(run: Path, folder: Path, std: float = 0.3) -> Path:
    """A copy of a run with other random weights, as another seed of its training has."""
    shutil.copytree(run, folder)
    network, path = load_run(run)[0], folder / "checkpoints" / "best.ckpt"
    _draw_weights(network, std, seed=1)
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(torch.load(path, weights_only=True) | {"state_dict": weights}, path)
    return folder


TAGS = {
    "click": [0, 1, 1, 0],
    "user": [1, 2, 3, 1],
    "tags": [["a", "b"], ["b"], ["c", "a"], []],
}


@pytest.fixture(scope="session")
def tags_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tags_run(kind)` is the folder of a run with the list field `tags` of width 2 (read only).

    Its raw files are csv (`a|b`) or parquet (List).
    """
    runs: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in runs:
            rows, tags = pl.DataFrame(TAGS), {"name": "tags", "width": 2}
            if kind == "csv":
                rows, tags = rows.with_columns(pl.col("tags").list.join("|")), {**tags, "separator": "|"}
            runs[kind] = write_run(tmp_path_factory.mktemp(f"tags_{kind}"), rows, ["user", tags], kind)
        return runs[kind]

    return run


KINDS = [
    {"name": "user", "min_count": 2},
    {"name": "price", "kind": "number", "transform": "log1p"},
    {"name": "item", "max_values": 3},
    {"name": "rank", "column": "price", "kind": "number", "scale": "quantile"},
    {"name": "age", "kind": "number", "scale": "minmax", "clip": [18, 90], "invalid": "missing"},
    {"name": "liked", "width": 3, "separator": "|", "of": "item", "pooling": "mean"},
    {"name": "seen", "column": "liked", "width": 2, "separator": "|", "of": "item", "pooling": "max"},
    {"name": "ip", "hash": 50},
    {"name": "clicks", "kind": "number", "scale": "none", "transform": "sqrt"},
    {"name": "clicks_id", "column": "clicks"},
]


def kinds_rows(count: int = 200, seed: int = 0) -> pl.DataFrame:
    """Raw rows for KINDS; csv has the list `liked` as text."""
    random = np.random.default_rng(seed)

    def with_gaps(values: list[Any], share: float = 0.2) -> list[Any]:
        return [None if gap else value for value, gap in zip(values, random.random(count) < share, strict=True)]

    liked = [random.choice(list("abcde"), number).tolist() for number in random.integers(0, 5, count)]
    return pl.DataFrame(
        {
            "click": random.integers(0, 2, count),
            "user": with_gaps(random.integers(0, 9, count).tolist()),
            "price": with_gaps(random.exponential(9, count).round(2).tolist()),
            "item": random.choice(list("abcde"), count, p=[0.1, 0.2, 0.3, 0.3, 0.1]).tolist(),
            "age": with_gaps(random.integers(0, 120, count).tolist()),
            "liked": with_gaps(liked),
            "ip": with_gaps([f"10.0.{number}.1" for number in random.integers(0, 99, count)]),
            "clicks": with_gaps(random.integers(0, 6, count).tolist()),
            "w": random.integers(0, 5, count) / 4,
        }
    )


def as_csv(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with their list as text."""
    return rows.with_columns(pl.col("liked").list.join("|"))


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`kinds_run(kind)` is the folder of a run with the fields KINDS (read only).

    Its raw files are csv, parquet or ndjson.
    """
    runs: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in runs:
            rows = as_csv(kinds_rows()) if kind == "csv" else kinds_rows()
            options = {"weight": "w", "weighted_metrics": True, "null_values": ["NA", "-1"]}
            # small weights: large numbers would give probabilities of 0 and 1
            runs[kind] = write_run(tmp_path_factory.mktemp("kinds"), rows, KINDS, kind, std=0.1, **options)
        return runs[kind]

    return run
