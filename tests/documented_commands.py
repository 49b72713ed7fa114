"""The commands of a page: what is in its `sh` blocks.

A block that cannot run on a fresh clone is marked on the line before it:

    <!-- not run: needs a GPU -->

The reason is one of REASONS, or ends with `; tests/test_x.py runs it`.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from conftest import ROOT

REASONS = ("GPU", "download", "cluster", "server", "package", "account", "earlier", "stopped", "files")
OTHER_NAMES = ("bash", "shell", "console", "zsh")  # of a block of commands


class Command(NamedTuple):
    """One command of a page."""

    file: str
    line: int  # of its first line, from 1
    text: str
    reason: str | None  # why its block is not run


class Fault(NamedTuple):
    """What is wrong, and where."""

    file: str
    line: int
    text: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}\n    {self.what}"


def read_page(text: str, file: str) -> tuple[list[Command], list[Fault]]:
    """The commands of a page, and what is wrong with its blocks."""
    commands: list[Command] = []
    faults: list[Fault] = []
    lines = text.splitlines()
    before, number = "", 0  # the last line that is not empty
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"\s*(`{3,}|~{3,})\s*([\w-]*)", line)
        number += 1
        if fence is None:
            if re.match(r"( {4}|\t)\s*(python \S+\.py|torchrun|srun) ", line):
                faults.append(Fault(file, number, line.strip(), "a command outside of a ```sh block is not checked"))
            before = line.strip() or before
            continue
        start = number
        while number < len(lines) and not lines[number].strip().startswith(fence[1]):
            number += 1
        block, language = lines[start:number], fence[2]
        number += 1
        is_file = "".join(block).lstrip().startswith("#!")  # a script, as for sbatch
        if language in OTHER_NAMES and not is_file:
            faults.append(Fault(file, start, line.strip(), "write ```sh: other blocks of commands are not checked"))
        elif language in ("sh", *OTHER_NAMES):
            reason = _reason(before)
            if reason is not None and not _is_known(reason):
                what = f"no reason ({', '.join(REASONS)}), and no test that exists"
                faults.append(Fault(file, start, before, what))
            commands += _commands(block, file, start + 1, reason)
        before = ""
    return commands, faults


def _reason(line: str) -> str | None:
    mark = re.fullmatch(r"<!--\s*not run:\s*(.*?)\s*-->", line)
    return mark[1] if mark else None


def _is_known(reason: str) -> bool:
    """Whether a reason is one of REASONS, as in `needs a GPU`, or a test that runs the block."""
    if other := runner_of(reason):
        return (ROOT / other).is_file()
    words = re.sub(r"^((needs|starts|an?|the|two|several) )*", "", reason, flags=re.IGNORECASE)
    return words.lower().startswith(tuple(known.lower() for known in REASONS))


def runner_of(reason: str | None) -> str | None:
    """The test that runs a block, as its mark says: `; tests/test_x.py runs it`."""
    found = re.search(r"; (tests/\S+\.py) runs it$", reason or "")
    return found[1] if found else None


def _commands(block: Sequence[str], file: str, line: int, reason: str | None) -> Iterator[Command]:
    """The commands of a block. Lines that end in a backslash or within quotes go on."""
    variables: dict[str, str] = {}
    text, first, end = "", line, None
    for number, row in enumerate(block, start=line):
        if end is not None:  # within a text that a command reads, from <<END to END
            end = None if row.strip() == end else end
            continue
        text, first = (f"{text}{row.strip()}", first) if text else (row.strip(), number)
        if text.endswith("\\"):
            text = text[:-1]
            continue
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # an open quote
            text += "\n"
            continue
        assigned = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0]) if len(words) == 1 else None
        if assigned:
            variables[assigned[1]] = _expanded(assigned[2], variables)
        elif words:
            yield Command(file, first, _expanded(text, variables), reason)
        here = re.search(r"<<\s*['\"]?(\w+)", text)
        text, end = "", here[1] if here else None
    if text:
        yield Command(file, first, text.strip(), reason)


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), text)
