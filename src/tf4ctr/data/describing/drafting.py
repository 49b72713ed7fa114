"""What was decided about raw files -> the text of conf/dataset/NAME.yaml, and a table."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.markup import escape
from rich.table import Table

from tf4ctr.data.describing.labels import Label, clicks_of, counts_of
from tf4ctr.data.describing.sniffing import Source
from tf4ctr.data.describing.survey import Column, Survey
from tf4ctr.data.describing.verdicts import LEFT_OUT, Choice, Verdict, date_of, null_words

SHOWN_VALUES, SHOWN_CHARACTERS = 3, 24  # of a column, so that its line stays readable
SMALL = 1000  # rows; in fewer, most values occur once
L2 = {500_000: 0.05, 5_000_000: 0.01, 20_000_000: 1e-4}  # rows -> embedding_l2, as published settings have it
LARGE_L2 = 1e-5  # of still more rows
STEPS, SMALLEST_BATCH, LARGEST_BATCH = 100, 32, 8192  # an epoch has so many steps, if the batch allows it
MANY_BATCHES = 200  # of an epoch: its validation is less noisy, and the published patience suffices


class Decisions(NamedTuple):
    """What was decided about a dataset.

    Attributes:
        name: of the dataset.
        root: folder of the project; paths below it are written as `${root:}/...`.
        source, survey: the files and what is in them.
        label: the label.
        verdicts: what becomes of each column.
        group, split: the options, and why.
        warnings: about columns, see `doubts`.
    """

    name: str
    root: Path
    source: Source
    survey: Survey
    label: Label
    verdicts: Mapping[str, Verdict]
    group: Choice
    split: Choice
    warnings: Sequence[str]


def text(decisions: Decisions) -> str:
    """The text of the yaml; each line has a comment with its reason."""
    lines = [*_top(decisions), *_fields(decisions), *_rest(decisions), *_training(decisions.survey.rows)]
    return "\n".join(lines) + "\n"


def _top(decisions: Decisions) -> list[str]:
    source, root = decisions.source, decisions.root
    below = source.folder.is_relative_to(root)
    raw_dir = f"${{root:}}/{source.folder.relative_to(root)}" if below else flow(str(source.folder))
    return [
        f"# {decisions.name}: drafted by src/describe.py from {_size(decisions)}, all of them read.",
        "# Each line says why. Change what you know better.",
        *(f"# Note: {_plain(note)}" for note in source.notes),
        *(f"# Warning: {_plain(warning)}" for warning in decisions.warnings),
        f"name: {flow(decisions.name)}",
        f"raw_dir: {raw_dir}  # the folder of the files",
        f"prepared_dir: ${{root:}}/data/prepared/{decisions.name}  # what preparation writes",
    ]


def _fields(decisions: Decisions) -> list[str]:
    lines, names = ["fields:"], set[str]()
    for name, verdict in decisions.verdicts.items():
        comment = _plain(f"{verdict.reason}; {evidence(decisions.survey.columns[name], verdict)}")
        if verdict.role == LEFT_OUT:
            lines.append(f"  # {LEFT_OUT}: {_plain(name)}: {comment}")
        for options in verdict.fields:
            field = _field(name, options, names)
            names.add(field["name"])
            lines.append(f"  - {flow(field if len(field) > 1 else field['name'])}  # {verdict.role}: {comment}")
    unreadable = decisions.source.unreadable.items()
    return lines + [f"  # {LEFT_OUT}: {_plain(name)}: {_plain(reason)}" for name, reason in unreadable]


def _field(column: str, options: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """An entry of `fields`, named as the column, or as the transform if that name is taken."""
    wanted = str(options["transform"]) if column in taken and "transform" in options else column
    name = base = re.sub(r"[^\w.-]+", "_", wanted).strip("_.-") or "column"
    number = 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return {"name": name, **({"column": column} if name != column else {}), **options}


def _rest(decisions: Decisions) -> list[str]:
    columns, label, source = decisions.survey.columns, decisions.label, decisions.source
    numbers = [columns[name] for name, verdict in decisions.verdicts.items() if verdict.role == "number"]
    words = sorted({word for column in numbers for word in null_words(column)})
    found = _plain(", ".join(column.name for column in numbers if null_words(column)))
    why_words = f"missing values in every column; found in {found}" if words else "missing values are empty cells"
    small = decisions.survey.rows < SMALL
    return [
        f"label: {flow(label._asdict() if label.positive else label.column)}  # {_plain(_clicks(decisions))}",
        "weight: null  # or a column of the rows' weights in the loss",
        f"group: {flow(decisions.group.value)}  # {_plain(decisions.group.reason)}",
        f"split: {flow(decisions.split.value)}  # {_plain(decisions.split.reason)}",
        "split_seed: 0  # of the 8:1:1 split of files without splits",
        f"null_values: {flow(words)}  # {why_words}",
        f"min_count: {1 if small else 2}  # training rows that a value needs to be known{'; there are few' * small}",
        "limit_rows: null  # or a number of rows, the first ones of each split",
        "layouts:",
        f"  - {flow(source.layout)}  # {_files(source)}",
        f"source: {flow(f'Its files were in {source.folder}.')}  # shown if they are missing",
    ]


def _training(rows: int) -> list[str]:
    l2 = next((l2 for limit, l2 in L2.items() if rows < limit), LARGE_L2)
    fitting = 2 ** (rows // STEPS).bit_length() // 2
    batch = min(LARGEST_BATCH, max(SMALLEST_BATCH, fitting))
    batches = math.ceil(rows / batch)
    patience = "  patience: 2  # of early stopping; an epoch has many batches", "  lr_patience: 0"
    return [
        "",
        "# Defaults of other groups for this dataset: values to begin a search with.",
        "training:",
        f"  embedding_l2: {l2}  # for {rows:,} rows; more rows need less",
        "  dropout: 0.2  # that of most published settings",
        f"  batch_size: {batch}  # for {rows:,} rows: {batches:,} batches",
        *(patience if batches >= MANY_BATCHES else ()),
    ]


def summary(decisions: Decisions) -> list[str]:
    """Label, split and group with their reasons, and what to look at: lines for the terminal."""
    split = decisions.split.value
    return [
        _with_reason("label", decisions.label.column, _clicks(decisions)),
        _with_reason("split", f"by {split['by']}" if split else None, decisions.split.reason),
        _with_reason("gAUC group", decisions.group.value, decisions.group.reason),
        *(f"note: {_plain(note)}" for note in decisions.source.notes),
        *(f"warning: {_plain(warning)}" for warning in decisions.warnings),
    ]


def _with_reason(what: str, value: str | None, reason: str) -> str:
    return _plain(f"{what}: {reason}" if value is None else f"{what}: {value} ({reason})")


def table(decisions: Decisions) -> Table:
    """What was decided about each column, and from what."""
    table = Table(title=f"{decisions.name}: {_size(decisions)}", title_justify="left")
    for title, style in {"column": "bold", "becomes": "cyan", "because": None, "evidence": None}.items():
        table.add_column(title, style=style, overflow="fold")
    rows = {
        name: (verdict.role, verdict.reason, evidence(decisions.survey.columns[name], verdict))
        for name, verdict in decisions.verdicts.items()
    }
    rows |= {name: (LEFT_OUT, reason, "") for name, reason in decisions.source.unreadable.items()}
    for name, cells in rows.items():
        cells_shown = [escape(_plain(cell)) for cell in (name, *cells)]
        table.add_row(*cells_shown, style="dim" if cells[0] == LEFT_OUT else None)
    return table


def evidence(column: Column, verdict: Verdict) -> str:
    """The facts of a column in words: its values, their range or lengths, examples."""
    if not column.present:
        return f"{column.rows:,} missing"
    if column.moments.rows and not verdict.fields:
        shown = " to ".join(date_of(column, value) for value in column.moments.quantiles([0, 1]))
    else:
        shown = f"e.g. {examples(column)}"
    return ", ".join([_distinct(column), *_extent(column, verdict), _missing(column), shown])


def _distinct(column: Column) -> str:
    count = column.distinct
    if not column.values.exact:
        return f"about {float(f'{count:.3g}'):,.0f} values"
    return f"{count:,} values" if count > 1 else "1 value"


def _extent(column: Column, verdict: Verdict) -> list[str]:
    if column.is_list:
        shortest, longest = min(column.lengths), max(column.lengths)
        return [f"{shortest} to {longest} per row" if shortest < longest else f"{longest} per row"]
    if verdict.role == "number":
        low, middle, high = column.numbers.quantiles([0, 0.5, 1])
        return [f"{_number(low)} to {_number(high)}, median {_number(middle)}"]
    return []


def _missing(column: Column) -> str:
    if not column.missing:
        return "none missing"
    share = column.missing / column.rows
    return f"{share:.1%} missing" if share >= 0.001 else f"{column.missing:,} missing"


def examples(column: Column) -> str:
    """The most frequent values."""
    return ", ".join(map(shown, column.values.counts["value"].head(SHOWN_VALUES)))


def shown(value: str) -> str:
    """The beginning of a value."""
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."


def _clicks(decisions: Decisions) -> str:
    """Why it is the label, and the share of clicks: in all rows if each value was counted."""
    rows = counts_of(decisions.survey, decisions.label)
    total = int(rows["count"].sum())
    share = int((clicks_of(rows, decisions.label) * rows["count"]).sum()) / total
    return f"{decisions.verdicts[decisions.label.column].reason}; {share:.2%} of {total:,} rows are clicks"


def _size(decisions: Decisions) -> str:
    return f"{decisions.survey.rows:,} rows in {_files(decisions.source)}"


def _files(source: Source) -> str:
    count = len(source.paths)
    return f"{count} {source.layout['reader']} file{'s' if count > 1 else ''}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"


def _plain(words: str) -> str:
    """One line that can be printed."""
    return "".join(sign if sign.isprintable() else " " for sign in words)


def flow(value: Any) -> str:
    """A value in one line of yaml, as OmegaConf reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # without quotes if it begins with a letter and is no word such as null or no
    if re.fullmatch(r"[A-Za-z/][\w.*/-]*", value) and OmegaConf.create(f"text: {value}").text == value:
        return value
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)
