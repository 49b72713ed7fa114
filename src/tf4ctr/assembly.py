"""From a composed config to its objects, and from a run's folder to its trained network."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

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
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import load_network, other_version
from tf4ctr.training.measuring import SplitMetrics
from tf4ctr.training.memory import check_memory, table_memory
from tf4ctr.training.module import CTRModule
from tf4ctr.training.schedule import check_schedule
from tf4ctr.training.summary import RunSummary, summary_of
from tf4ctr.training.table_files import load_tables
from tf4ctr.training.warm_start import WarmStart

PRECISIONS = ("32-true", "bf16-mixed", "64-true", "32", "bf16", "64")  # the last three are Lightning's short names
MATMUL_PRECISIONS = ("highest", "high", "medium")  # of torch.set_float32_matmul_precision

# options that are no argument of a `_target_`, and the types of their values
OPTIONS = {
    "seed": int,
    "dry_run": bool,
    "verbose": bool,
    "page": bool,
    "embedding.dim": int,
    "embedding.l2": float,
    "stream.shuffle_rows": int,
}

# what the groups look for below `training` in the yaml of the dataset and of the backbone
TRAINING: dict[str, dict[str, type]] = {
    "dataset.training": {
        "embedding_l2": float,
        "dropout": float,
        "batch_size": int,
        "patience": int,
        "lr_patience": int,
        "min_delta": float,
        "tf": dict,
    },
    "dataset.training.tf": {"alpha": float, "gamma": float, "c": float},
    "backbone.training": {"init_std": float, "lr": float, "patience": int, "lr_patience": int},
}

EXPECTED = {bool: "true or false", int: "an integer", float: "a number", NoneType: "null"}

# smallest and largest values by the last part of an option's key, where no part checks them itself
LIMITS = {
    "seed": (0, 2**32 - 1),
    "dim": (1, math.inf),
    "shuffle_rows": (1, math.inf),
    "init_std": (0, math.inf),
    "patience": (0, math.inf),
    "lr_patience": (0, math.inf),
}

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
    """Build the trainer of `config` with its callbacks and loggers.

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
    trainer = build(options, callbacks=callbacks, logger=build_all(config.logger), enable_progress_bar=bar)
    # a CPU could multiply in bfloat16, and its float32 results would be others
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    torch.set_float32_matmul_precision("highest" if on_cpu else matmul_precision(config))
    return trainer


def matmul_precision(config: DictConfig) -> str:
    """How exactly an accelerator multiplies float32 matrices.

    Raises:
        InputError: torch does not know the value.
    """
    precision = config.trainer.get("matmul_precision", "highest")  # older runs have no such option
    if precision not in MATMUL_PRECISIONS:
        raise InputError(f"trainer.matmul_precision is {precision}: {did_you_mean(str(precision), MATMUL_PRECISIONS)}")
    return precision


def check_config(config: DictConfig, spec: DatasetSpec, warm: WarmStart | None = None) -> None:
    """Build what `config` describes for a tiny stand-in dataset: mistakes show before data is read.

    Args:
        config: of the run.
        spec: its dataset.
        warm: the run whose weights it begins from; the network must have the same.

    Raises:
        InputError: or another error of a part that is built.
    """
    check_trainer(config.trainer)
    check_schedule(config.trainer.get("val_check_interval", 1.0), config.trainer.get("check_val_every_n_epoch", 1))
    check_training(config)
    check_values(config)
    with torch.random.fork_rng():
        module = build_module(config, spec.stand_in())
        module.configure_optimizers()
    check_callbacks(config, module)
    if warm:
        warm.check(module.network)
    matmul_precision(config)
    build_data(config, spec.prepared_dir)
    check_tables(config, spec, spec.least_rows())


def check_training(config: DictConfig) -> None:
    """Check the names below `training` in the yaml of the dataset and of the backbone.

    Other groups look for them, and have a default of their own: a typo would be silent.

    Raises:
        InputError: no group looks for a name.
    """
    for node, known in TRAINING.items():
        for name in OmegaConf.select(config, node) or ():
            if name not in known:
                raise InputError(f"{node}.{name}: unknown name, {did_you_mean(str(name), known)}")


def check_values(config: DictConfig) -> None:
    """Check that options whose value is a number, or true or false, have such a value.

    What an option expects is the annotation of the argument that it fills.

    Raises:
        InputError: a value has another type, or is outside of `LIMITS`.
    """
    below_training = {f"{node}.{name}": kind for node, known in TRAINING.items() for name, kind in known.items()}
    lambdas = {f"backbone.{name}.embedding_l2": float for name in encoders(config)}
    # `training` first: other options have their values from there
    options = below_training | OPTIONS | lambdas | dict(_arguments(OmegaConf.to_container(config)))
    absent = object()
    for key, annotation in options.items():
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        if EXPECTED.keys() >= set(kinds):  # no text and no list: the parts check these
            value = OmegaConf.select(config, key, default=absent)
            if value is not absent:
                _check_value(key, value, kinds)


def _arguments(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The arguments of every `_target_` in a tree of nodes: their keys and annotations."""
    parameters = _parameters(node["_target_"]) if "_target_" in node else {}
    for name, value in node.items():
        if name in parameters:
            yield f"{prefix}{name}", parameters[name].annotation
        if isinstance(value, dict):
            yield from _arguments(value, f"{prefix}{name}.")


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(locate(MOVED.get(target, target))).parameters  # type: ignore[arg-type]
    except (ErrorDuringImport, TypeError, ValueError):  # not found, or without a signature: `build` tells
        return {}


def _check_value(key: str, value: Any, kinds: Sequence[type]) -> None:
    least, most = LIMITS.get(key.rpartition(".")[2], (-math.inf, math.inf))
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    if fits and (value is None or least <= value <= most):
        return
    expected = " or ".join(text for kind, text in EXPECTED.items() if kind in kinds)
    limits = {"at least": least, "at most": most}
    expected += "".join(f", {word} {limit}" for word, limit in limits.items() if math.isfinite(limit))
    if value is None and key.endswith("l2"):
        expected += "; write 0 for no L2"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    raise InputError(f"{key} is {shown}: expected {expected}")


def check_callbacks(config: DictConfig, module: CTRModule) -> None:
    """Check that the validation metrics that callbacks monitor will exist.

    Raises:
        InputError: names the callback and a similar metric.
    """
    split: SplitMetrics = module.metrics["val"]  # type: ignore[assignment]
    known = ["val/monitor", *(f"val/{name}" for name in split.names)]
    for name, node in config.callbacks.items():
        monitor = node.get("monitor") if isinstance(node, DictConfig) else None
        # the terms of the loss, train/NAME, are known when it is computed
        if monitor is not None and monitor not in known and not str(monitor).startswith("train/"):
            raise InputError(f"callbacks.{name}.monitor is {monitor}: {did_you_mean(str(monitor), known)}")


def check_trainer(config: DictConfig) -> None:
    """Check options of the trainer that Lightning accepts, but that do not work here.

    Raises:
        InputError: a precision without float32 weights or with scaled gradients; batch norm over
            the ranks of a CPU.
    """
    precision = str(config.get("precision") or PRECISIONS[0])
    if precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision is {precision}: {', '.join(PRECISIONS)} are possible. bf16-mixed is the fast one: it"
            " keeps weights in float32 (in 16 bits small steps of Adam are lost) and needs no scaled gradients"
        )
    if config.get("sync_batchnorm") and (config.accelerator == "cpu" or not torch.accelerator.is_available()):
        raise InputError(
            "trainer.sync_batchnorm=true needs GPUs: torch cannot synchronise batch norm on a CPU; use false there"
        )


def check_devices(config: DictConfig) -> None:
    """Check that there is a GPU if the trainer is set to one; `auto` takes what there is.

    Raises:
        InputError: torch finds none.
    """
    if config.accelerator in ("gpu", "cuda") and not torch.accelerator.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            why = f"torch {torch.__version__} is built without GPUs: install another build (docs/install.md)"
        else:
            why = "check with nvidia-smi that the driver finds it, and that CUDA_VISIBLE_DEVICES does not hide it"
        raise InputError(
            f"trainer.accelerator is {config.accelerator}, and torch finds no GPU: {why}. trainer=cpu trains without"
            " one, and trainer=auto takes one if there is one"
        )


def check_tables(config: DictConfig, spec: DatasetSpec, rows: int) -> None:
    """Check that tables of so many rows fit the memory of the device, without building them.

    Raises:
        InputError: they do not.
    """
    with torch.random.fork_rng():
        network = build_network(config, spec.stand_in())
    devices, nodes = ranks(config)
    check_memory(table_memory(network, devices * nodes, rows), config.trainer.accelerator, devices)


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
