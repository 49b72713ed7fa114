"""From a composed config to the objects it describes, and from a run's folder to its trained network."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tf4ctr.data.datamodule import TIERS
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.losses import TFLoss
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import load_network, other_version
from tf4ctr.training.module import CTRModule


def build_network(config: DictConfig, schema: Schema) -> Network:
    """Make the network of `config` for `schema`.

    Raises:
        InputError: parts that do not fit together, or an option that a part does not know.
    """
    parts = {
        "embedding": instantiate(config.embedding.table),
        "ssem": instantiate(config.ssem),
        "encoders": {name: instantiate(node) for name, node in config.backbone.items() if name != "interaction"},
        "dfm": instantiate(config.dfm),
    }
    try:
        return Network(schema, dim=config.embedding.dim, **parts)
    except TypeError as error:  # an added option (`+backbone.complex.x=1`) or a value of another type
        raise InputError(f"the network's config does not fit its parts: {error}") from error


def build_module(config: DictConfig, schema: Schema) -> CTRModule:
    """Make network, loss and optimiser of `config` for `schema`."""
    network, loss = build_network(config, schema), instantiate(config.loss)
    if isinstance(loss, TFLoss):
        loss.focus_of(len(network.encoders))
    return CTRModule(schema, network, loss, instantiate(config.optimizer), config.embedding.l2, config.trainer.compile)


def build_trainer(config: DictConfig) -> Trainer:
    """Make the trainer of `config` with its callbacks and loggers."""
    # whether the step is compiled is told with the trainer, beside precision and devices, and done by the module
    options = OmegaConf.masked_copy(config.trainer, [str(key) for key in config.trainer if key != "compile"])
    return instantiate(options, callbacks=build_all(config.callbacks), logger=build_all(config.logger))


def check_config(config: DictConfig, spec: DatasetSpec) -> None:
    """Build everything that `config` describes on a tiny stand-in for the data, so that a mistake shows before any data is read.

    Raises:
        InputError: or whatever else building raises.
    """
    stand_in = Schema(
        spec.name, tuple(Field(field.name, 3, field.width) for field in spec.fields), spec.label, spec.group
    )
    if config.stream.batch_size < 2:
        raise InputError(f"stream.batch_size is {config.stream.batch_size}: batch norm needs at least 2 rows")
    if config.stream.tier not in TIERS:
        raise InputError(f"stream.tier is '{config.stream.tier}': {did_you_mean(str(config.stream.tier), TIERS)}")
    if config.embedding.l2 < 0:
        raise InputError(f"embedding.l2 is {config.embedding.l2}: it must not be negative")
    if not isinstance(config.trainer.compile, bool):
        raise InputError(f"trainer.compile is {config.trainer.compile}: it is true or false")
    if config.trainer.compile:
        if config.embedding.table.get("sparse") or config.embedding.table.get("sharded"):
            raise InputError("trainer.compile=true takes embedding=dense: sparse and sharded tables do not compile")
        if not torch.accelerator.is_available() and not any(
            map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))
        ):
            raise InputError(
                "trainer.compile=true needs a C++ compiler on a CPU, and there is no g++ or clang++: leave it out"
            )
    with torch.random.fork_rng():
        module = build_module(config, stand_in)
        try:
            module.configure_optimizers()
        except (TypeError, ValueError) as error:
            raise InputError(f"the optimizer's config does not fit: {error}") from error


def build_all(nodes: DictConfig | None) -> list[Any]:
    """Instantiate each node of a group that holds several things by name (callbacks, loggers); a node set to null is left out."""
    return [instantiate(node) for node in (nodes or {}).values() if node]


def load_run(folder: Path) -> tuple[Network, Schema, DictConfig]:
    """The network of a run with its best weights, the schema it was trained on and the composed config.

    Raises:
        InputError: the folder holds no finished run, or one of another version that this one cannot read.
    """
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        if not (folder / name).exists():
            raise InputError(f"run={folder}: there is no {name}, so no run came to its first validation there")
    config: DictConfig = OmegaConf.load(folder / "config.yaml")  # type: ignore[assignment]
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    try:
        schema = Schema.from_dict(checkpoint["schema"])
        network = build_network(config, schema)
    except (OmegaConfBaseException, InstantiationException, InputError, KeyError, TypeError) as error:
        raise InputError(f"run={folder}: its network cannot be built ({error}). {other_version(checkpoint)}") from error
    load_network(network, checkpoint)
    return network.eval(), schema, config
