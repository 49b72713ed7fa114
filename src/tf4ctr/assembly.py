"""From a composed config to its objects, and from a run's folder to its trained network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tf4ctr.data import vectors
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import load_network, other_version
from tf4ctr.training.module import CTRModule
from tf4ctr.training.summary import RunSummary, summary_of
from tf4ctr.training.table_files import load_tables

MATMUL_PRECISIONS = ("highest", "high", "medium")  # of torch.set_float32_matmul_precision

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
        "encoders": {name: _build_encoder(node) for name, node in encoders(config).items()},
        "dfm": build(config.dfm),
    }
    try:
        return Network(schema, dim=config.embedding.dim, calibrate=calibrates(config), **parts)
    except TypeError as error:  # an added option (`+backbone.complex.x=1`) or a value of another type
        raise InputError(f"the network's options do not fit its parts: {error}") from error


def calibrates(config: DictConfig) -> bool:
    """The option `calibrate`; runs of older versions have none.

    Raises:
        InputError: it is neither true nor false.
    """
    calibrate = config.get("calibrate", False)
    if not isinstance(calibrate, bool):
        raise InputError(f"calibrate={calibrate}: expected true or false")
    return calibrate


def build_module(config: DictConfig, schema: Schema) -> CTRModule:
    """Build network, loss and optimiser of `config` for `schema`.

    Raises:
        InputError: a part does not know an option, or they do not fit together.
    """
    network, loss, optimizer = build_network(config, schema), build(config.loss), build(config.optimizer)
    options = {"compiled": config.trainer.get("compile", False)}
    options["weighted_metrics"] = config.dataset.get("weighted_metrics", False)
    # runs of older versions have no such option, and one lambda for all tables
    options |= {"monitor": config.monitor} if "monitor" in config else {}
    options["encoder_l2"] = {
        name: node.get("embedding_l2", config.embedding.l2) for name, node in encoders(config).items()
    }
    return CTRModule(schema, network, loss, optimizer, config.embedding.l2, **options)


def encoders(config: DictConfig) -> dict[str, DictConfig]:
    """The nodes of the backbone's encoders by name.

    `interaction` belongs to the fusion, and `training` has defaults of other groups.
    """
    return {str(name): node for name, node in config.backbone.items() if name not in ("interaction", "training")}


def _build_encoder(node: DictConfig) -> Any:
    factory = build(node)
    factory.keywords.pop("embedding_l2", None)  # it is for the optimiser
    return factory


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
    """Build the trainer of `config` with its loggers; it sets the precision of products, too."""
    trainer = trainer_with(config, build_all(config.logger))
    # a CPU could multiply in bfloat16, and its float32 results would be others
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    torch.set_float32_matmul_precision("highest" if on_cpu else matmul_precision(config))
    return trainer


def trainer_with(config: DictConfig, loggers: list[Any]) -> Trainer:
    """Build the trainer of `config` with its callbacks and these loggers.

    metrics.json needs a `RunSummary`: it is added if the config has none. Without a progress bar in
    the config there is none, not Lightning's own.
    """
    callbacks = build_all(config.callbacks)
    if summary_of(callbacks) is None:
        callbacks.insert(0, RunSummary())  # others read it
    # these are beside precision and devices for the user, but the module or torch does them
    ours = ("compile", "matmul_precision")
    options = OmegaConf.masked_copy(config.trainer, [str(key) for key in config.trainer if key not in ours])
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    bar = config.trainer.get("enable_progress_bar", has_bar)
    return build(options, callbacks=callbacks, logger=loggers, enable_progress_bar=bar)


def matmul_precision(config: DictConfig) -> str:
    """How exactly an accelerator multiplies float32 matrices.

    Raises:
        InputError: torch does not know the value.
    """
    precision = config.trainer.get("matmul_precision", "highest")  # older runs have no such option
    if precision not in MATMUL_PRECISIONS:
        raise InputError(f"trainer.matmul_precision is {precision}: {did_you_mean(str(precision), MATMUL_PRECISIONS)}")
    return precision


def ranks(config: DictConfig) -> tuple[int, int]:
    """Devices of a machine, and machines, that the config's trainer will have."""
    devices = config.trainer.get("devices", 1)
    if not isinstance(devices, int) or devices < 1:  # -1, auto: all GPUs; or a list of them
        found = len(devices) if isinstance(devices, ListConfig) else torch.cuda.device_count()
        devices = max(1, found)
    return devices, int(config.trainer.get("num_nodes", 1))


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
    if not folder.is_dir():
        raise InputError(f"run={folder}: there is no such folder")
    if (folder / "multirun.yaml").exists():
        raise InputError(f"run={folder} is the folder of a sweep: name that of one of its jobs, as {folder}/0")
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
