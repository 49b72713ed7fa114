"""What conf/ says about itself: groups with their choices, values and comments, as text.

The yamls are read without composing them, because `--help` must be quick. A value's comment is
behind it, on the lines below the comment, or on lines of its own above the value.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tf4ctr.errors import InputError
from tf4ctr.experiments.runs import ROOT

CONF = ROOT / "conf"
DRAFTED = "drafted by src/describe.py"  # in the first line of its yamls
GLOBAL = "# @package _global_"  # the yaml's values are outside of its group


class Value(NamedTuple):
    """One value of a yaml."""

    key: str  # with the keys above it: early_stopping.patience
    text: str  # as in the yaml; empty for a heading, whose values are all hidden
    comment: str


class Choice(NamedTuple):
    """One yaml of a group."""

    name: str  # paper/frappe
    title: str  # its first sentence
    bases: tuple[str, ...]  # choices of the same group that it begins from
    sets: tuple[str, ...]  # choices of other groups: ssem=shared
    values: tuple[Value, ...]
    is_global: bool


class Group(NamedTuple):
    """One group, as the defaults of an entry point's config name it."""

    name: str
    default: str | None
    title: str


def read_choice(group: str, name: str, folders: Sequence[Path] = (CONF,)) -> Choice | None:
    """The choice `GROUP=NAME`; None if no folder has it.

    Raises:
        InputError: its file is no valid yaml.
    """
    paths = (folder / group / f"{name}.yaml" for folder in folders)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    text = path.read_text()
    is_global = text.startswith(GLOBAL)
    try:
        node: dict[str, Any] = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        raise InputError(yaml_fault(error, path)) from error
    bases, sets = _composed("" if is_global else f"{group}.", node.get("defaults", []))
    return Choice(name, _title(text), tuple(bases), tuple(sets), tuple(read_values(text)), is_global)


def yaml_fault(error: yaml.MarkedYAMLError, path: Path | None = None) -> str:
    """Where a yaml is not valid, and why. `path` is its file if the error does not know it."""
    mark = error.problem_mark
    place = f"{path or (mark.name if mark else 'a yaml')}" + (f", line {mark.line + 1}" if mark else "")
    return f"{place}: no valid yaml: {error.problem or error.context}. Is a bracket or a quote open, or is there a tab?"


def choice_names(group: str) -> list[str]:
    """The choices of a group."""
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def own_names(group: str) -> list[str]:
    """`choice_names` without what `describe.py` drafted: data of the user, not of the project."""
    return [name for name in choice_names(group) if DRAFTED not in _first_line(CONF / group / f"{name}.yaml")]


def _first_line(path: Path) -> str:
    with path.open() as file:
        return file.readline()


def read_groups(config_name: str) -> list[Group]:
    """The groups of conf/`config_name`.yaml, with the comments of its defaults list.

    A group without a default is a comment there: `# encoder: what it is`.
    """
    text = (CONF / f"{config_name}.yaml").read_text()
    block = re.search(r"^defaults:\n((?:[ #].*\n)+)", text, re.MULTILINE)
    groups: dict[str, Group] = {}
    for line in block[1].splitlines() if block else ():
        if base := re.fullmatch(r"\s*- (\w+)", line):
            if base[1] != "_self_":
                groups |= {group.name: group for group in read_groups(base[1])}
        elif override := re.fullmatch(r"\s*- override (\w+): (\S+)", line):
            groups[override[1]] = groups[override[1]]._replace(default=override[2])
        elif found := re.fullmatch(r"\s*(?:- (\w+): (\S+)\s*(?:# (.*))?|# (\w+): (.*))", line):
            name = found[1] or found[4]
            default = None if found[2] in (None, "null") else found[2]
            groups[name] = Group(name, default, found[3] or found[5] or "")
    return list(groups.values())


def read_values(text: str, hidden: Collection[str] = ("defaults",)) -> Iterator[Value]:
    """The values of a yaml, without `_target_` and the like, and those in `hidden` at its top."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return
    lines = text.splitlines()
    for key, value in node.value:
        if key.value not in hidden:
            yield from _walk(key, value, "", lines)


def _walk(key: yaml.ScalarNode, value: yaml.Node, above: str, lines: Sequence[str]) -> Iterator[Value]:
    if key.value.startswith("_"):
        return
    name, comment = f"{above}{key.value}", _comment(key, value, lines)
    if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
        inner = [found for key, child in value.value for found in _walk(key, child, f"{name}.", lines)]
        if comment or not inner:
            yield Value(name, "", comment)
        yield from inner
    else:
        yield Value(name, _text(value), comment)


def _text(node: yaml.Node) -> str:
    """A value on one line, as an override takes it."""
    if isinstance(node, yaml.SequenceNode):
        return "[" + ",".join(_text(item) for item in node.value) + "]"
    if isinstance(node, yaml.MappingNode):
        return "{" + ",".join(f"{key.value}:{_text(value)}" for key, value in node.value) + "}"
    if isinstance(node, yaml.ScalarNode) and node.style in ("'", '"'):
        return f"{node.style}{node.value}{node.style}"
    return " ".join(str(node.value).split()) or "null"


def _comment(key: yaml.Node, value: yaml.Node, lines: Sequence[str]) -> str:
    """The comment of a value: on lines above it, behind it, and on lines below that comment."""
    row, column = key.start_mark.line, key.start_mark.column
    found: list[str] = []
    for line in reversed(lines[:row]):
        if not line.startswith(" " * column + "#"):
            break
        found.insert(0, line.strip("# "))
    if row == len(found):  # the yaml's own comment, which is not the first value's
        found = []
    is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
    end = key.end_mark if is_block or value.end_mark.line != row else value.end_mark
    behind = re.match(r":?\s*# ?(.*)", lines[row][end.column :])
    if behind is None:
        return " ".join(found)
    found.append(behind[1])
    for line in lines[row + 1 :]:
        below = re.fullmatch(rf"\s{{{column + 1},}}# ?(.*)", line)
        if below is None:
            break
        found.append(below[1])
    return " ".join(part.strip() for part in found)


def _title(text: str) -> str:
    """The first sentence of a yaml's comment."""
    lines = text.removeprefix(GLOBAL).lstrip("\n").splitlines()
    kept: list[str] = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("#  "):  # an indented line begins details
            break
        kept.append(line.removeprefix("# ").strip())
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(kept))[0].removesuffix(".")


def _composed(above: str, defaults: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The choices that a defaults list names: of the same group, and of other groups.

    The place of another group's choice is below `above`: encoder@backbone.simple for a backbone.
    """
    bases: list[str] = []
    sets: list[str] = []
    for item in defaults:
        if isinstance(item, str):
            bases += [item] if item != "_self_" else []
            continue
        for key, name in item.items():
            other, _, place = key.removeprefix("override ").lstrip("/").partition("@")
            sets.append(f"{other}@{above}{place}={name}" if place else f"{other}={name}")
    return bases, sets
