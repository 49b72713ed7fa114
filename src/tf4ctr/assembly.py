"""From a composed config to its objects, and from a run's folder to its trained network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tf4ctr.data import vectors
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import load_network, other_version
from tf4ctr.training.module import CTRModule
from tf4ctr.training.summary import RunSummary, summary_of
from tf4ctr.training.table_files import load_tables

# `_target_`s of version 0.1.0 that have moved: the config of an old run or a user's yaml has them
MOVED = {
    "tf4ctr.callbacks.LastCheckpoint": "tf4ctr.training.checkpoints.LastCheckpoint",
    "tf4ctr.callbacks.LRPlateau": "tf4ctr.training.plateau.LRPlateau",
    "tf4ctr.callbacks.ProgressBar": "tf4ctr.training.progress.ProgressBar",
    "tf4ctr.callbacks.RowsPerSecond": "tf4ctr.training.progress.RowsPerSecond",
    "tf4ctr.callbacks.RunSummary": "tf4ctr.training.summary.RunSummary",
    "tf4ctr.callbacks.StopDiverged": "tf4ctr.training.divergence.StopDiverged",
    "tf4ctr.focus.FocusPictures": "tf4ctr.training.focus.FocusPictures",
    "tf4ctr.loggers.EpochCSV": "tf4ctr.training.loggers.EpochCSV",
    "tf4ctr.loggers.wandb_logger": "tf4ctr.training.loggers.wandb_logger",
    "tf4ctr.module.CTRModule": "tf4ctr.training.module.CTRModule",
    "tf4ctr.optim.RowwiseAdam": "tf4ctr.training.optim.RowwiseAdam",
    "tf4ctr.profiling.StepProfiler": "tf4ctr.training.profiling.StepProfiler",
    "tf4ctr.search.TrialPruning": "tf4ctr.training.pruning.TrialPruning",
}


def build_network(config: DictConfig, schema: Schema) -> Network:
    """Build the network of `config` for `schema`; sharded tables still need `place_tables`.

    Raises:
        InputError: the parts do not fit together, or a part does not know an option.
    """
    # runs of older versions have no such groups
    ways = {group: build(config[group]) for group in ("number", "sequence") if group in config}
    parts = {
        "embedding": build(config.embedding.table, **ways),
        "ssem": build(config.ssem),
        "encoders": {name: build(node) for name, node in config.backbone.items() if name != "interaction"},
        "dfm": build(config.dfm),
    }
    try:
        return Network(schema, dim=config.embedding.dim, **parts)
    except TypeError as error:  # an added option (`+backbone.complex.x=1`) or a value of another type
        raise InputError(f"the network's options do not fit its parts: {error}") from error


def build_module(config: DictConfig, schema: Schema) -> CTRModule:
    """Build network, loss and optimiser of `config` for `schema`.

    Raises:
        InputError: a part does not know an option, or they do not fit together.
    """
    network, loss, optimizer = build_network(config, schema), build(config.loss), build(config.optimizer)
    options = {"compiled": config.trainer.get("compile", False)}
    options["weighted_metrics"] = config.dataset.get("weighted_metrics", False)
    return CTRModule(schema, network, loss, optimizer, config.embedding.l2, **options)


def load_vectors(network: Network, schema: Schema, prepared_dir: Path) -> None:
    """Put the given vectors of a prepared dataset into the network of its schema."""
    for field in schema.vector_fields:
        if field.of is not None:
            table = torch.from_numpy(vectors.load(field.name, prepared_dir / "vectors", field.width))
            for embedding in network.embeddings():
                embedding.vectors_of(field.name).load(table)  # type: ignore[operator]


def build_data(config: DictConfig, prepared_dir: Path) -> CTRDataModule:
    """Build the streams of `config` over a prepared dataset, which need not exist yet.

    Raises:
        InputError: an option of `stream` is unknown or invalid.
    """
    try:
        return CTRDataModule(prepared_dir, seed=config.seed, **config.stream)
    except TypeError as error:
        raise InputError(f"the stream's options do not fit: {error}") from error


def build_trainer(config: DictConfig) -> Trainer:
    """Build the trainer of `config` with its callbacks and loggers.

    metrics.json needs a `RunSummary`: it is added if the config has none. Without a progress bar in
    the config there is none, not Lightning's own.
    """
    callbacks = build_all(config.callbacks)
    if summary_of(callbacks) is None:
        callbacks.append(RunSummary())
    # trainer.compile is beside precision and devices for the user, but the module does it
    options = OmegaConf.masked_copy(config.trainer, [str(key) for key in config.trainer if key != "compile"])
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    bar = config.trainer.get("enable_progress_bar", has_bar)
    return build(options, callbacks=callbacks, logger=build_all(config.logger), enable_progress_bar=bar)


def check_config(config: DictConfig, spec: DatasetSpec) -> None:
    """Build what `config` describes for a tiny stand-in dataset: mistakes show before data is read.

    Raises:
        InputError: or another error of a part that is built.
    """
    with torch.random.fork_rng():
        build_module(config, spec.stand_in()).configure_optimizers()
    build_data(config, spec.prepared_dir)


def build_all(nodes: DictConfig | None) -> list[Any]:
    """Build every node of a group of several (callbacks, loggers); null nodes are skipped."""
    return [build(node) for node in (nodes or {}).values() if node]


def build(node: DictConfig, **options: Any) -> Any:
    """Instantiate a node by its `_target_`s, which may have the names of version 0.1.0."""
    for target in _targets(node):
        if target["_target_"] in MOVED:
            target["_target_"] = MOVED[target["_target_"]]
    return instantiate(node, **options)


def _targets(node: Any) -> Iterable[DictConfig]:
    """The nodes with a `_target_` in a tree of nodes."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield node
    children = node.values() if isinstance(node, DictConfig) else node if isinstance(node, ListConfig) else ()
    for child in children:
        yield from _targets(child)


def load_run(folder: Path) -> tuple[Network, Schema, DictConfig]:
    """Load the network of a run with its best weights, the schema of its dataset, and its config.

    Raises:
        InputError: the folder contains no finished run, or one that this version cannot read.
    """
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        if not (folder / name).exists():
            raise InputError(f"run={folder}: there is no {name}, so no run has finished its first validation there")
    config: DictConfig = OmegaConf.load(folder / "config.yaml")  # type: ignore[assignment]
    path = folder / "checkpoints" / "best.ckpt"
    # the file's pages: a copy in memory would be a second table beside the network's
    checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    try:
        schema = Schema.from_dict(checkpoint["schema"])
        network = build_network(config, schema)
    except (OmegaConfBaseException, InstantiationException, InputError, KeyError, TypeError) as error:
        raise InputError(f"run={folder}: its network cannot be built ({error}). {other_version(checkpoint)}") from error
    network.place_tables(draw=False)
    load_tables(path, network, checkpoint)
    load_network(network, checkpoint)
    return network.eval(), schema, config
