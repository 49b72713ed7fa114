"""What `--help` prints: made from conf/, without composing it.

`--help` is one screen. `--help GROUP` or `help=GROUP` has every choice of a group with its values,
`--help GROUP=CHOICE` has one choice. `--help all` adds Hydra's own help: the composed config.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence

import yaml

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.choices import CONF, Choice, Group, choice_names, read_choice, read_groups, read_values

LONGEST = 60  # characters of a value; a longer one is cut, as the fields of a dataset
WIDEST = 36  # characters of the left column
# where the values of a group are in the config, if that is not the group's name
PLACES = {"encoder": "backbone.simple. or backbone.complex."}


def asked(arguments: Sequence[str]) -> list[str] | None:
    """The topics that a command line asks for help about; None if it does not ask for help."""
    named = [argument.removeprefix("help=") for argument in arguments if argument.startswith("help=")]
    if not named and not {"--help", "-h"} & {*arguments}:
        return None
    others = [argument for argument in arguments if not argument.startswith(("-", "help="))]
    return named + others


def help_text(config_name: str, topics: Sequence[str], width: int | None = None) -> str:
    """The help of an entry point.

    Args:
        config_name: of its config.
        topics: GROUP or GROUP=CHOICE; overrides of other keys are ignored.
        width: columns; None for those of the terminal, 120 at most.

    Raises:
        InputError: there is no such group or choice.
    """
    width = width or min(shutil.get_terminal_size().columns, 120)
    groups = {group.name: group for group in read_groups(config_name)}
    parts = []
    for topic in topics:
        key, _, name = topic.partition("=")
        group = groups.get(key.lstrip("+").partition("@")[0])
        if group:
            parts.append(_group_text(group, name, width))
        elif topic != "all" and "=" not in topic:
            raise InputError(f"--help {topic}: there is no such group, {did_you_mean(topic, [*groups, 'all'])}")
    return "\n\n".join(parts) or _overview(config_name, list(groups.values()), width)


def _overview(config_name: str, groups: Sequence[Group], width: int) -> str:
    """One screen: what the program does, commands, groups, options, and how to see more."""
    text = (CONF / f"{config_name}.yaml").read_text()
    about = yaml.safe_load(text)["hydra"]["help"]
    parts = [_wrapped(about["header"], width)]
    based = re.search(r"^  - (?!_self_)(\w+)$", text, re.MULTILINE)
    if based:
        parts.append(f"GROUP=CHOICE and other options: see python src/{based[1]}.py --help")
    elif groups:
        longest = max(len(group.default or "") for group in groups)
        lefts = [f"{group.name:11}{group.default or '-':{longest}}" for group in groups]
        titles = [group.title for group in groups]
        title = "GROUP=CHOICE, with the default; --help GROUP shows all choices and values"
        parts.append("\n".join([title, *_rows(zip(lefts, titles, strict=True), "  ", width)]))
    options = read_values(text, ("defaults", "hydra"))
    rows = [(f"{value.key}={value.text}", value.comment) for value in options]
    parts.append("\n".join(["KEY=VALUE, with the default", *_rows(rows, "  ", width)]))
    parts.append(_wrapped(about["footer"], width))
    return "\n\n".join(parts)


def _group_text(group: Group, name: str, width: int) -> str:
    """A group's choices with their values, or only the choice `name`."""
    names = choice_names(group.name)
    if name and name not in names:
        raise InputError(f"{group.name}={name}: there is no such choice, {did_you_mean(name, names)}")
    choices = [*filter(None, (read_choice(group.name, choice) for choice in ([name] if name else names)))]
    column = max(len(choice.name) for choice in choices) + 4
    lines = [f"{group.name}: {group.title}", ""]
    for choice in choices:
        mark, default = ("*", "; the default") if choice.name == group.default else (" ", "")
        lines += _rows([(f"{mark} {choice.name}", choice.title + default)], "", width, column)
        lines += _choice_lines(group.name, choice, width)
    return "\n".join([*lines, "", *_legend(group, "\n".join(lines), width)])


def _choice_lines(group: str, choice: Choice, width: int) -> list[str]:
    """What a choice is composed of, and its own values."""
    composed = [f"as {' and '.join(choice.bases)}" + (", and:" if choice.values else "")] if choice.bases else []
    composed += [" ".join(choice.sets)] if choice.sets else []
    place = "" if choice.is_global or group in PLACES else f"{group}."
    rows = [(line, "") for line in composed]
    for value in choice.values:
        text = value.text if len(value.text) <= LONGEST else value.text[: LONGEST - 4] + " ..."
        rows.append((f"{place}{value.key}" + (f"={text}" if text else ""), value.comment))
    return _rows(rows, " " * 6, width)


def _legend(group: Group, text: str, width: int) -> list[str]:
    """What the signs in the text of a group mean."""
    notes = ["Each value is shown with its default."]
    if group.name in PLACES:
        notes.append(f"A value's key begins with {PLACES[group.name]}")
    if "${" in text:
        notes.append("${a.b} is the value of a.b; dataset.training is in the dataset's yaml.")
    return textwrap.wrap(" ".join(notes), width)


def _rows(rows: Iterable[tuple[str, str]], indent: str, width: int, column: int = 0) -> list[str]:
    """Two columns. A left text that is too wide has a line of its own.

    Args:
        rows: the two texts of each row.
        indent: of all lines.
        width: of all columns.
        column: width of the left one; 0 for what the texts need.
    """
    rows = list(rows)
    column = column or max((len(left) for left, _ in rows if len(left) <= WIDEST), default=0) + 2
    lines = []
    for left, right in rows:
        if len(left) + 2 > column and right:
            lines.append(indent + left)
            left = ""
        start = f"{indent}{left:{column}}"
        wrapped = textwrap.wrap(
            right, width, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
        )
        lines += wrapped or [start.rstrip()]
    return lines


def _wrapped(text: str, width: int) -> str:
    """A text of a yaml. Indented lines are commands, which stay whole, with what they do."""
    lines = []
    for line in text.splitlines():
        command, does = [*re.split(r"(?<=\S)\s{2,}(?=\S)", line, maxsplit=1), ""][:2]
        if not line.startswith(" "):
            lines += textwrap.wrap(line, width, break_on_hyphens=False) or [""]
        elif not does or len(line) <= width:
            lines.append(line)
        else:
            together = f"{command}  {does}"
            lines += [together] if len(together) <= width else [command, f"      {does}"]
    return "\n".join(lines)
