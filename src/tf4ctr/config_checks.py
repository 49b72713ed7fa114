"""Checks of a composed config, before any data is read."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pydoc import ErrorDuringImport, locate
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from tf4ctr.assembly import (
    MOVED,
    build_data,
    build_module,
    build_network,
    encoders,
    matmul_precision,
    ranks,
    trainer_with,
)
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.training.measuring import SplitMetrics
from tf4ctr.training.memory import check_memory, table_memory
from tf4ctr.training.module import CTRModule
from tf4ctr.training.schedule import check_schedule
from tf4ctr.training.warm_start import WarmStart

PRECISIONS = ("32-true", "bf16-mixed", "64-true", "32", "bf16", "64")  # the last three are Lightning's short names

# options of Lightning with one value that works here, and what to do instead
ONLY = {
    "accumulate_grad_batches": (1, "each batch makes a step here; take a larger stream.batch_size"),
    "gradient_clip_algorithm": ("norm", "gradients are clipped by their norm"),
}

# the types of options that are no argument of a `_target_`, or whose annotation has more types
OPTIONS = {
    "seed": int,
    "dry_run": bool,
    "verbose": bool,
    "page": bool,
    "embedding.dim": int,
    "embedding.l2": float,
    "optimizer.lr": float,
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
    "every_n_train_steps": (1, math.inf),  # Lightning's checkpoint callback would never save with 0
    "gradient_clip_val": (0, math.inf),
}


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
    check_length(config.trainer)
    check_optimizer(config.optimizer)
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
    """Check that options whose value is a number, a list of them, or true or false, have one.

    What an option expects is the annotation of the argument that it fills.

    Raises:
        InputError: a value has another type, or is outside of `LIMITS`.
    """
    below_training = {f"{node}.{name}": kind for node, known in TRAINING.items() for name, kind in known.items()}
    lambdas = {f"backbone.{name}.embedding_l2": float for name in encoders(config)}
    # `training` first: other options have their values from there
    options = below_training | dict(_arguments(OmegaConf.to_container(config))) | OPTIONS | lambdas
    absent = object()
    for key, annotation in options.items():
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        numbers = _list_of_numbers(kinds)
        if not (numbers or EXPECTED.keys() >= set(kinds)):  # the parts check texts
            continue
        value = OmegaConf.select(config, key, default=absent)
        if value is absent or (value is None and NoneType in kinds):
            continue
        if numbers:
            _check_list(key, value, *numbers)
        else:
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
    if fits and least <= value <= most:
        return
    expected = " or ".join(text for kind, text in EXPECTED.items() if kind in kinds)
    limits = {"at least": least, "at most": most}
    expected += "".join(f", {word} {limit}" for word, limit in limits.items() if math.isfinite(limit))
    if value is None and key.endswith("l2"):
        expected += "; write 0 for no L2"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    raise InputError(f"{key} is {shown}: expected {expected}")


def _list_of_numbers(kinds: Sequence[Any]) -> tuple[type, int | None] | None:
    """The type of the numbers and their count, None for any; None if `kinds` are no such list."""
    lists = [kind for kind in kinds if kind is not NoneType]
    if len(lists) != 1 or get_origin(lists[0]) not in (Sequence, list, tuple):
        return None
    first, *others = get_args(lists[0])
    members = get_args(first) or (first,)  # torch's betas are float | Tensor
    number = next((kind for kind in (float, int) if kind in members), None)
    length = 1 + len(others) if get_origin(lists[0]) is tuple and ... not in others else None
    return (number, length) if number else None


def _check_list(key: str, value: Any, number: type, length: int | None) -> None:
    is_list = isinstance(value, ListConfig) and length in (None, len(value))
    if is_list and all(type(item) in (int, number) for item in value):
        return
    words = " ".join(filter(None, (str(length or ""), "integers" if number is int else "numbers")))
    example = "[400,400]" if number is int else "[0.9,0.999]"
    raise InputError(f"{key} is {value}: expected a list of {words}, as in {example}")


def check_optimizer(config: DictConfig) -> None:
    """Check that no option is set that each group of parameters has a value of its own for.

    Raises:
        InputError: weight_decay is set.
    """
    if "weight_decay" in config:
        raise InputError(
            "optimizer.weight_decay has no effect: tables have embedding.l2 or backbone.NAME.embedding_l2 as their"
            " weight decay, and other weights have none"
        )


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
    """Check the devices, and options that Lightning accepts but that do not work here.

    Raises:
        InputError: devices that are none; a precision without float32 weights or with scaled
            gradients; a value that is not the one of `ONLY`; batch norm over the ranks of a CPU.
    """
    devices = config.get("devices", 1)
    on_cpu = config.accelerator == "cpu"
    several = devices in (-1, "auto") or isinstance(devices, ListConfig)
    if not ((type(devices) is int and devices > 0) or (several and not on_cpu)):
        expected = "an integer, at least 1" if on_cpu else "an integer, at least 1; auto (all); or a list, as in [0,1]"
        raise InputError(f"trainer.devices is {devices}: expected {expected}")
    precision = str(config.get("precision") or PRECISIONS[0])
    if precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision is {precision}: {', '.join(PRECISIONS)} are possible. bf16-mixed is the fast one: it"
            " keeps weights in float32 (in 16 bits small steps of Adam are lost) and needs no scaled gradients"
        )
    for name, (ours, reason) in ONLY.items():
        if config.get(name, ours) not in (ours, None):
            raise InputError(f"trainer.{name} is {config[name]}: {reason}")
    if config.get("sync_batchnorm") and (on_cpu or not torch.accelerator.is_available()):
        raise InputError(
            "trainer.sync_batchnorm=true needs GPUs: torch cannot synchronise batch norm on a CPU; use false there"
        )


def check_length(config: DictConfig) -> None:
    """Check that at least one epoch is trained and validated.

    Call it after `check_values`, which checks the types.

    Raises:
        InputError: an option lets no epoch, no batch or no validation take place.
    """
    epochs, every = config.get("max_epochs"), config.get("check_val_every_n_epoch") or 1
    if epochs is not None and epochs < 1 and epochs != -1:
        raise InputError(f"trainer.max_epochs is {epochs}: expected an integer, at least 1; or -1 for no limit")
    if epochs is not None and 0 < epochs < every:
        raise InputError(
            f"trainer.check_val_every_n_epoch is {every} and trainer.max_epochs is {epochs}: no epoch would be"
            f" validated, so there would be no best one; use at most {epochs}"
        )
    if config.get("max_steps") == 0:
        raise InputError("trainer.max_steps is 0: nothing would be trained; use at least 1, or -1 for no limit")
    for name in ("limit_train_batches", "limit_val_batches"):
        limit = config.get(name)
        if limit is not None and limit <= 0:
            raise InputError(
                f"trainer.{name} is {limit}: expected a number of batches, at least 1; or a fraction of them, as 0.1"
            )


def check_machine(config: DictConfig) -> None:
    """Check that this machine can build the trainer of `config`; a dry run does not need it.

    Raises:
        InputError: the trainer is set to a GPU, and torch finds none; `auto` takes what there is.
        InstantiationException: Lightning or a callback refuses an option.
    """
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.accelerator.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            why = f"torch {torch.__version__} is built without GPUs: install another build (docs/install.md)"
        else:
            why = "check with nvidia-smi that the driver finds it, and that CUDA_VISIBLE_DEVICES does not hide it"
        raise InputError(
            f"trainer.accelerator is {config.trainer.accelerator}, and torch finds no GPU: {why}. trainer=cpu trains"
            " without one, and trainer=auto takes one if there is one"
        )
    trainer_with(config, [])  # the run builds its own when the data is there


def check_tables(config: DictConfig, spec: DatasetSpec, rows: int) -> None:
    """Check that tables of so many rows fit the memory of the device, without building them.

    Raises:
        InputError: they do not.
    """
    with torch.random.fork_rng():
        network = build_network(config, spec.stand_in())
    devices, nodes = ranks(config)
    check_memory(table_memory(network, devices * nodes, rows), config.trainer.accelerator, devices)
