"""Look at raw files and draft their conf/dataset/NAME.yaml."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tf4ctr.data.describing import doubts, drafting, sniffing, survey
from tf4ctr.data.describing.labels import find_label
from tf4ctr.data.describing.sniffing import Source
from tf4ctr.data.describing.survey import Survey
from tf4ctr.data.describing.verdicts import Choice, decide, find_group, find_split
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, did_you_mean


class Hints(NamedTuple):
    """What the user knows; None for what is to be found out.

    Attributes:
        label: the column of clicks.
        positive: what makes a click of it, as `label.positive` of a dataset.
        group: the column of users.
        time: the column of moments that splits the rows.
        header: names of the columns of delimited text without a header line.
        quote: of delimited text; None if quotes mean nothing.
        sample_rows: rows that are looked at before all of them are read.
    """

    label: str | None = None
    positive: str | Sequence[str] | None = None
    group: str | None = None
    time: str | None = None
    header: Sequence[str] | None = None
    quote: str | None = '"'
    sample_rows: int = 100_000


class Draft(NamedTuple):
    """The text of conf/dataset/NAME.yaml, and what the terminal shows of it.

    Attributes:
        text: of the file.
        table: what becomes of each column, and from what it was decided.
        summary: lines about label, split and group, notes and warnings.
    """

    text: str
    table: Table
    summary: list[str]


def describe(inputs: Sequence[str], name: str, root: Path, hints: Hints | None = None) -> Draft:
    """Draft the yaml of a dataset.

    Args:
        inputs: files, folders, and names with wildcards.
        name: of the dataset.
        root: folder of the project; paths below it are written as `${root:}/...`.
        hints: what the user knows.

    Raises:
        InputError: files that cannot be read, no label, or no column that could be a field.
    """
    hints = hints or Hints()
    _check_hints(name, hints)
    source = sniffing.find(inputs, hints.header, hints.quote, hints.label)
    _check_columns(source, hints)
    facts = _read(source, hints)
    try:
        label = find_label(facts, hints.label, hints.positive)
    except InputError as error:
        raise InputError("\n".join([f"{source.folder}: {error}", *source.notes])) from None
    verdicts = decide(facts, label, hints.group, hints.time)
    group = find_group(facts, label, hints.group)
    split = Choice(None, "the files are split already") if source.has_splits else find_split(facts, label, hints.time)
    by_chance = split.value is None and not source.has_splits
    warnings = doubts.find(facts, verdicts, hints.group, by_chance)
    decisions = drafting.Decisions(name, root, source, facts, label, verdicts, group, split, warnings)
    text = drafting.text(decisions)
    _check(text, source)
    return Draft(text, drafting.table(decisions), drafting.summary(decisions))


def _check_hints(name: str, hints: Hints) -> None:
    if not re.fullmatch(r"\w[\w-]*", name):
        raise InputError(f"name={name}: expected letters, digits, '-' and '_', as it names conf/dataset/NAME.yaml")
    if isinstance(hints.header, str):
        raise InputError(f"header={hints.header}: expected a list of names, header=[click,user,item]")
    if type(hints.sample_rows) is not int or hints.sample_rows < 1:
        raise InputError(f"sample_rows={hints.sample_rows}: expected a whole number from 1 on")


def _check_columns(source: Source, hints: Hints) -> None:
    if not source.columns:
        raise InputError(f"{source.folder}: the files have no column in common that can be read")
    for option in ("label", "group", "time"):
        column = getattr(hints, option)
        if column in source.unreadable:
            raise InputError(f"{option}={column}: the column cannot be read: {source.unreadable[column]}")
        if column is not None and column not in source.columns:
            unknown = f"{option}={column}: unknown column, {did_you_mean(column, source.columns)}"
            raise InputError("\n".join([unknown, *source.notes]))
    if hints.time is not None and source.has_splits:
        raise InputError(
            f"time={hints.time}: the files are split already, by their names: leave time out,"
            " or give the files of one split as input"
        )


def _read(source: Source, hints: Hints) -> Survey:
    with Progress(TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("rows read", total=None)
        facts = survey.read(source, hints.sample_rows, hints.time, lambda rows: bar.advance(task, rows))
    if not facts.rows:
        raise InputError(f"{source.folder}: the files have no rows")
    return facts


def _check(text: str, source: Source) -> None:
    """Read the draft as preparation does, so that none is written that it refuses.

    Raises:
        InputError: an invalid option, or files that the layout does not find.
    """
    config: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(text), resolve=False)  # type: ignore[assignment]
    if not config["fields"]:
        raise InputError(f"{source.folder}: each column beside the label is left out as a field")
    spec = DatasetSpec.from_config({**config, "raw_dir": source.folder, "prepared_dir": source.folder})
    spec.raw_files(source.folder)
