"""Which settings of a run were set, and where: by the command line, an experiment, the dataset."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from tf4ctr.experiments.choices import CONF, Choice, read_choice, read_groups

# groups whose choices set those of other groups, and values anywhere
GLOBAL_GROUPS = ("experiment", "framework", "sweep")


class Setting(NamedTuple):
    """A setting that is not the default of its yaml."""

    key: str
    value: str
    origin: str  # command line, experiment=NAME, dataset, ...


def read_settings(
    config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str], folders: Sequence[Path] = (CONF,)
) -> list[Setting]:
    """The settings of a training that are not the defaults, each once.

    Args:
        config: composed and not resolved, so that it says which values are the dataset's.
        choices: the chosen option of each group.
        overrides: those of the command line.
        folders: where yamls are looked for.
    """
    origins = [
        (f"{group}={choices[group]}", choice)
        for group in GLOBAL_GROUPS
        if choices.get(group)
        for choice in _with_bases(group, choices[group], folders)
    ]
    found = [*_by_command_line(overrides), *_by_choices(choices, origins)]
    found += [*_by_experiment(config, origins), *_by_training(config)]
    first: dict[str, Setting] = {}
    for setting in found:
        # a value of several keys; a group's choice, whose key has no dot, leaves them to others
        if not any(setting.key.startswith(f"{key}.") for key in first if "." in key):
            first.setdefault(setting.key, setting)
    return list(first.values())


def _with_bases(group: str, name: str, folders: Sequence[Path]) -> Iterator[Choice]:
    """A choice, and those of its group that it begins from."""
    choice = read_choice(group, name, folders)
    if choice:
        yield choice
        for base in choice.bases:
            yield from _with_bases(group, base, folders)


def _by_command_line(overrides: Sequence[str]) -> Iterator[Setting]:
    for override in overrides:
        key, _, written = override.lstrip("+").partition("=")
        yield Setting(key, written or "removed", "command line")


def _by_choices(choices: Mapping[str, str], origins: Sequence[tuple[str, Choice]]) -> Iterator[Setting]:
    """Groups whose choice is set by the choice of another group."""
    for group in read_groups("train"):
        chosen = choices.get(group.name)
        if chosen is None or str(chosen) == group.default:
            continue
        setters = [name for name, choice in origins if f"{group.name}={chosen}" in choice.sets]
        if setters:
            yield Setting(group.name, str(chosen), setters[0])


def _by_experiment(config: DictConfig, origins: Sequence[tuple[str, Choice]]) -> Iterator[Setting]:
    for name, choice in origins:
        for value in choice.values:
            if value.text and not value.key.startswith("hydra."):
                yield Setting(value.key, _shown(config, value.key), name)


def _by_training(config: DictConfig) -> Iterator[Setting]:
    """Values that refer to `training` in the yaml of the dataset or of the backbone."""
    written: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    for key, text in _texts(written):
        for source, group in re.findall(r"((dataset|backbone)\.training[\w.]*)", text):
            if _select(config, source) is not None:
                yield Setting(key, _shown(config, key), group)


def _texts(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The values that refer to others, as written, by their keys."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{above}{key}.")
        elif isinstance(value, str) and "${" in value:
            yield f"{above}{key}", value


def _select(config: DictConfig, key: str) -> Any:
    return OmegaConf.select(config, key, throw_on_missing=False)


def _shown(config: DictConfig, key: str) -> str:
    """A value as an override would have it."""
    value = _select(config, key)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
