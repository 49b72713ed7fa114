"""Runs with list fields and with other raw types, written without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT
from tf4ctr import __version__
from tf4ctr.assembly import build_network
from tf4ctr.data import vocabulary
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.experiments.resolvers import register_resolvers

PARTS = ("dataset", "embedding", "backbone", "ssem", "dfm", "loss")
LAYOUTS = {
    kind: {"reader": kind, **{split: f"{split}.{kind}" for split in ("train", "valid", "test")}}
    for kind in ("csv", "parquet")
}


def write_run(folder: Path, rows: pl.DataFrame, fields: list[Any], kind: str) -> Path:
    """A run in `folder`/run with random weights and the vocabulary of `rows`, its raw files."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        path = raw / f"{split}.{kind}"
        rows.write_csv(path) if kind == "csv" else rows.write_parquet(path)
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["dataset=frappe", "dataset.rows=null", "dataset.group=null", "dataset.min_count=1"])
    config.dataset.update(
        {"raw_dir": str(raw), "prepared_dir": str(folder / "prepared"), "label": "click", "fields": fields}
    )
    config.dataset.layouts = [LAYOUTS[kind]]
    config = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(config, PARTS), resolve=True))
    prepared = prepare(DatasetSpec.from_config(config.dataset))
    schema = Schema.load(prepared)
    network = build_network(config, schema)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, folder / "run" / "config.yaml")
    vocabulary.keep(prepared, folder / "run")
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint = {"schema": schema.to_dict(), "state_dict": weights, "tf4ctr": __version__}
    torch.save(checkpoint, folder / "run" / "checkpoints" / "best.ckpt")
    return folder / "run"


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[pl.DataFrame, list[Any], str], Path]:
    """`write_run` with a new folder for each call."""
    return lambda rows, fields, kind: write_run(tmp_path / f"run_{len(list(tmp_path.iterdir()))}", rows, fields, kind)


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
