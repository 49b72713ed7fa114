"""The pages of docs/ that are made from conf/ and docstrings: the options and the model zoo.

A tool for developers: `python -m tf4ctr.experiments.reference_pages` writes them, and `make docs`
runs it. It needs griffe, which comes with the extra `docs`. Nothing is imported or composed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tf4ctr.experiments.choices import CONF, Choice, Group, Value, own_names, read_choice, read_groups, read_values
from tf4ctr.experiments.help_text import LONGEST, PLACES
from tf4ctr.experiments.runs import ROOT

if TYPE_CHECKING:
    from griffe import Module, Object

DOCS = ROOT / "docs"
MADE = "<!-- Made by make docs from conf/ and docstrings. Do not edit. -->"
PLAIN_ONLY = "; needs framework=plain"  # in the title of a backbone; they have a table of their own
AS_YAML = ("dataset", "experiment", "sweep")  # groups whose choices are best read as they are written
OPTION = ("option", "default", "what it is")
# the groups of the model zoo: heading, and what all their parts have in common
PARTS = {
    "encoder": (
        "Encoders",
        "An encoder maps the embeddings of all fields to its output, [B, H]. Set one with"
        " `encoder@backbone.simple=NAME` or `encoder@backbone.complex=NAME`, and its options with"
        " `backbone.simple.OPTION=VALUE` or `backbone.complex.OPTION=VALUE`.",
    ),
    "ssem": (
        "SSEM: sample selection",
        "The sample selection embedding module gives each encoder its own embeddings e_k of a sample.",
    ),
    "dfm": (
        "DFM: fusion",
        "The dynamic fusion module makes one logit z of the encoders' outputs h_k, and a logit z_k for each head.",
    ),
    "loss": ("Losses", "A loss is a mean over the rows of a batch."),
    "number": ("Numbers", "How a number x becomes the embedding e of its field."),
    "sequence": (
        "Histories",
        "How the past values of a user, h_1 to h_L, become the embedding of their field. t is the embedding of the"
        " target: the value of the row in the field that the history is `of`. Each goes with every backbone.",
    ),
}


class Part(NamedTuple):
    """The class that a yaml names, as its docstring describes it."""

    text: str  # without the sections below it
    helpers: dict[str, str]  # texts of the other classes and functions that it is written with
    arguments: dict[str, str]
    paper: str  # (Rendle, ICDM 2010), empty if the module's docstring names none


def config_reference() -> str:
    """docs/config-reference.md: every group with its choices and options, and other programs."""
    own = read_values((CONF / "train.yaml").read_text(), ("defaults", "hydra"))
    groups = read_groups("train")
    lines = [
        MADE,
        "# Options",
        "",
        "Every option is `KEY=VALUE` on the command line, and every choice of a group is `GROUP=CHOICE`."
        " [How configuration works](configuration.md) explains both. `python src/train.py --help GROUP`"
        " shows the same on the terminal.",
        "",
        "`${a.b}` is the value of `a.b`. `dataset.training` is in the yaml of the dataset, so these defaults depend"
        " on the dataset. A list is written in quotes: `'KEY=[1,2]'`.",
        "",
        "## train.py",
        "",
        *_options(own),
        "",
        "### Groups",
        "",
        *_table(
            ["group", "default", "what it sets"],
            ([f"[`{group.name}`](#{group.name})", _code(group.default), _prose(group.title)] for group in groups),
        ),
    ]
    for group in groups:
        lines += ["", *_group_section(group)]
    lines += ["", "## Other programs"]
    for name in sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "train"):
        lines += ["", *_program_section(name)]
    return "\n".join(lines) + "\n"


def model_zoo() -> str:
    """docs/models.md: every backbone, and every part that a model is made of, with its equation."""
    lines = [
        MADE,
        "# Model zoo",
        "",
        "A backbone is one or two encoders over embeddings. With two of them it runs inside TF4CTR (the default) and"
        " plain (`framework=plain`); with one it runs plain only. Any encoder of this page can replace another:"
        " `encoder@backbone.simple=cin`. [TF4CTR explained](tf4ctr.md) says how the parts work together,"
        " [Extending](extending.md) how to add one.",
        "",
        *_backbone_sections(),
        "",
        "## Letters",
        "",
        "B rows of a batch, F fields, D embedding size, H size of an encoder's output, K encoders. e_f is the"
        " embedding of field f, and x_f its value. `[a; b]` is a and b one after the other, `a * b` multiplies"
        " elementwise, `<a, b>` is the inner product.",
    ]
    for group, (heading, text) in PARTS.items():
        lines += ["", f"## {heading}", "", text]
        default = next(known.default for known in read_groups("train") if known.name == group)
        for choice in _choices(group):
            lines += ["", *_part_section(group, choice, choice.name == default)]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"config-reference.md": config_reference, "models.md": model_zoo}


def _group_section(group: Group) -> Iterator[str]:
    """A group: a table of its choices, and one of their options."""
    choices = _choices(group.name)
    yield from (f"### {group.name}", "", _prose(group.title) + _note(group.name), "")
    composed = {choice.name: [*map(_code, choice.bases), *map(_code, choice.sets)] for choice in choices}
    titles = [f"`{group.name}=`", "what it is"] + (["composed of"] if any(composed.values()) else [])
    rows = []
    for choice in choices:
        default = " (default)" if choice.name == group.default else ""
        name = f"[`{choice.name}`](models.md#{group.name}-{choice.name})" if group.name in PARTS else _code(choice.name)
        rows.append([name + default, _prose(choice.title), "<br>".join(composed[choice.name])])
    yield from _table(titles, rows)
    if group.name in AS_YAML:
        for choice in choices:
            lines = (CONF / group.name / f"{choice.name}.yaml").read_text().splitlines()
            yield from ("", *_folded(f"<code>{group.name}={choice.name}</code>", ["```yaml", *lines, "```"]))
    elif rows := [row for choice in choices for row in _choice_options(group.name, choice)]:
        of_several = sum(bool(choice.values) for choice in choices) > 1
        table = _table([f"`{group.name}=`", *OPTION], rows) if of_several else _table(OPTION, (row[1:] for row in rows))
        yield from ("", *(_folded("Options of each", table) if group.name == "encoder" else table))


def _note(group: str) -> str:
    """What else to know about a group: where its keys are, and where its choices are explained."""
    keys = f". Its keys begin with `{PLACES[group].replace(' or ', '` or `')}`" if group in PLACES else ""
    zoo = ". The [model zoo](models.md) explains each" if group in (*PARTS, "backbone") else ""
    return f"{keys}{zoo}."


def _choice_options(group: str, choice: Choice) -> Iterator[list[str]]:
    """The options of a choice; the first one has its name."""
    place = "" if choice.is_global or group in PLACES else f"{group}."
    for number, (key, *cells) in enumerate(_option_cells(_explained(group, choice))):
        yield [_code(choice.name) if number == 0 else "", key.replace("`", f"`{place}", 1), *cells]


def _program_section(name: str) -> Iterator[str]:
    """An entry point: what it does, how it is called, its options and groups."""
    text = (CONF / f"{name}.yaml").read_text()
    header: str = yaml.safe_load(text)["hydra"]["help"]["header"]
    based = re.search(r"^  - (?!_self_)(\w+)$", text, re.MULTILINE)
    yield from (f"### {name}.py", "", _prose(header.split("\n", 1)[0]), "")
    commands = [line.strip() for line in header.splitlines() if line.startswith("  ")]
    yield from ("```text", *commands, "```", "")
    if based:
        yield from (f"All options of {based[1]}.py, and:", "")
    elif groups := read_groups(name):
        yield from ("The group " + ", ".join(f"[`{group.name}`](#{group.name})" for group in groups) + ", and:", "")
    yield from _options(read_values(text, ("defaults", "hydra")))


def _backbone_sections() -> Iterator[str]:
    """Two tables: backbones with two encoders, and those with one."""
    rows: dict[bool, list[list[str]]] = {True: [], False: []}
    for choice in _choices("backbone"):
        encoders = {place.rpartition(".")[2]: name for place, _, name in (text.partition("=") for text in choice.sets)}
        parts = [f"[`{name}`](#encoder-{name})" for name in encoders.values()]
        rows[len(parts) == 2].append([_code(choice.name), _prose(choice.title.removesuffix(PLAIN_ONLY)), *parts])
    yield from ("## Backbones for TF4CTR and plain", "")
    yield from _table(["`backbone=`", "model", "simple encoder", "complex encoder"], rows[True])
    yield from ("", "## Backbones for plain only", "", "They have one encoder: add `framework=plain`.", "")
    yield from _table(["`backbone=`", "model", "encoder"], rows[False])


def _part_section(group: str, choice: Choice, default: bool) -> Iterator[str]:
    """A part of a model: what it is, its docstring, its options."""
    part = _part(group, choice)
    yield from (f"### {choice.name} {{#{group}-{choice.name}}}", "")
    title = choice.title + (f" {part.paper}" if group == "encoder" and part.paper not in choice.title else "")
    yield _prose(_sentence(title)) + (" **The default.**" if default else "")
    for base in choice.bases:
        yield from ("", f"As [`{base}`](#{group}-{base}), with another default:")
    if not choice.bases and part.text:
        yield from ("", *_paragraphs(part.text))
        for name, text in part.helpers.items() if group == "encoder" else ():
            yield from ("", f"`{name}`:", "", *_paragraphs(text))
    if choice.values:
        yield from ("", *_options(_explained(group, choice)))


def _paragraphs(text: str) -> list[str]:
    """A docstring in markdown. Indented lines are formulas, which stay as they are."""
    return [line if line.startswith("    ") else _prose(line) for line in text.splitlines()]


def _part(group: str, choice: Choice, key: str = "") -> Part:
    """The class of a choice, or of the choice that it begins from.

    With the key of an option it is the class that the option belongs to: of a callback, say.
    """
    node = _node(group, choice.name)
    for above in key.split(".")[:-1]:
        node = node[above]
    target = str(node.get("_target_", ""))
    if target.startswith("tf4ctr."):
        return _read_part(target)
    bases = filter(None, (read_choice(group, base) for base in choice.bases))
    return next((_part(group, base) for base in bases), Part("", {}, {}, ""))


@cache
def _node(group: str, name: str) -> Any:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}


def _explained(group: str, choice: Choice) -> Iterator[Value]:
    """The options of a choice. One without a comment in the yaml has the text of the docstring."""
    for value in choice.values:
        text = _part(group, choice, value.key).arguments.get(value.key.rpartition(".")[2], "")
        yield value._replace(comment=value.comment or text.removesuffix("."))


@cache
def _read_part(target: str) -> Part:
    """The docstring of a class or function of this project, read from its file."""
    from griffe import visit

    module_name, _, name = target.rpartition(".")
    path = (ROOT / "src" / Path(*module_name.split("."))).with_suffix(".py")
    source = path.read_text()
    module = visit(module_name, path, source)
    paper = re.search(r"\([^()]*\d{4}\)", module.docstring.value.split("\n\n")[0] if module.docstring else "")
    helpers = {helper: _text(module[helper]) for helper in _helpers(module, name, source.splitlines())}
    return Part(_text(module[name]), helpers, _arguments(module, name), paper[0] if paper else "")


def _arguments(module: "Module", name: str) -> dict[str, str]:
    """The arguments of a class or function, as its docstring explains them."""
    from griffe import DocstringSectionParameters

    docstring = module[name].docstring
    texts: dict[str, str] = {}
    for section in docstring.parse("google", warnings=False) if docstring else ():
        if isinstance(section, DocstringSectionParameters):
            for argument in section.value:  # one text may be of several: hidden_units, dropout
                texts |= dict.fromkeys(argument.name.split(", "), " ".join(argument.description.split()))
    for argument_name, text in texts.items():
        if elsewhere := re.fullmatch(r"see `(\w+)`\.?", text):
            other = module[elsewhere[1]]
            target = other.target_path if other.is_alias else other.path
            texts[argument_name] = _read_part(target).arguments.get(argument_name, "")
    return texts


def _helpers(module: "Module", name: str, lines: Sequence[str]) -> list[str]:
    """The classes that a class is written with, and functions that its docstring names.

    They are those of its own module.
    """
    found: list[str] = []
    waiting = [name]
    while waiting:
        member = module[waiting.pop(0)]
        code = "\n".join(lines[member.lineno - 1 : member.endlineno])
        for other, known in module.members.items():
            if other in (name, *found) or known.is_alias or not known.docstring:
                continue
            if (known.is_class and re.search(rf"\b{other}\(", code)) or f"`{other}`" in _text(member):
                found.append(other)
                waiting.append(other)
    return found


def _text(member: "Object") -> str:
    """The docstring of a class or function, without the sections below it."""
    from griffe import DocstringSectionText

    sections = member.docstring.parse("google", warnings=False) if member.docstring else []
    return next((section.value for section in sections if isinstance(section, DocstringSectionText)), "")


@cache
def _choices(group: str) -> list[Choice]:
    return [*filter(None, (read_choice(group, name) for name in own_names(group)))]


def _options(values: Iterable[Value]) -> list[str]:
    """A table of options."""
    return _table(OPTION, _option_cells(values))


def _option_cells(values: Iterable[Value]) -> Iterator[list[str]]:
    """Key, default and comment. A heading, which is a key without a value, keeps its comment."""
    for value in values:
        text = value.text if len(value.text) <= LONGEST else value.text[: LONGEST - 4] + " ..."
        yield [_code(value.key), _code(text), _prose(value.comment)]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in markdown; cells beyond its titles are left out."""
    lines = [titles, ["---"] * len(titles), *(row[: len(titles)] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Lines that are hidden until a reader opens them."""
    yield from ('<details markdown="1">', f"<summary>{title}</summary>", "", *lines, "", "</details>")


def _sentence(text: str) -> str:
    """A title as a sentence of its own."""
    first = text.split(" ")[0]
    text = text.replace(first, first.capitalize(), 1) if first.islower() else text  # xDeepFM stays
    return text + ("" if text.endswith(".") else ".")


def _code(text: str | None) -> str:
    """Text as code in a table's cell, where | ends the cell."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def _prose(text: str) -> str:
    """Text in which no sign is taken for markdown, except code in backticks. Pages become links."""
    parts = re.split(r"(`[^`]*`)", text)
    for number in range(0, len(parts), 2):
        plain = re.sub(r"([\\*\[\]]|(?<!\w)_)", r"\\\1", parts[number])
        plain = plain.replace("<", "&lt;").replace("|", "&#124;")
        parts[number] = re.sub(r"docs/([\w-]+)\.md", r"[docs/\1.md](\1.md)", plain)
    return "".join(parts)


def write_pages(folder: Path = DOCS) -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (folder / name).write_text(make())


if __name__ == "__main__":
    write_pages()
