"""How a job of a sweep ended: it leaves metrics.json, pruned.txt or error.txt in its folder."""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from tf4ctr.files import write_whole

FILES = ("metrics.json", "pruned.txt", "error.txt")


class Ending(StrEnum):
    """How a job ended."""

    TRAINED = "trained"
    DRY_RUN = "dry run"
    PRUNED = "pruned"
    FAILED = "failed"
    STOPPED = "stopped"


class Outcome(NamedTuple):
    """How a job ended, why it did not train (None if it did), and its metrics.json."""

    ending: Ending
    reason: str | None
    metrics: Mapping[str, Any]


def read_outcome(folder: Path) -> Outcome:
    """The outcome of the job in `folder`; also of one that is still running, as stopped."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text()) if path.exists() else {}
    if any(name.startswith("test/") for name in metrics):
        return Outcome(Ending.TRAINED, None, metrics)
    for name, ending in (("pruned.txt", Ending.PRUNED), ("error.txt", Ending.FAILED)):
        if (folder / name).exists():
            reason = _reason((folder / name).read_text())
            # earlier code wrote the reason of a pruned job into error.txt
            return Outcome(Ending.PRUNED if reason.startswith("pruned") else ending, reason, metrics)
    if path.exists():
        return Outcome(Ending.DRY_RUN, "dry run, not trained", metrics)
    return Outcome(Ending.STOPPED, "stopped before its end", metrics)


def _reason(text: str) -> str:
    """One line: the last line of a traceback, all lines of any other text."""
    lines = text.strip().splitlines() or [""]
    return lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)


def write_pruned(folder: Path, reason: str) -> None:
    """Record in `folder` that its job was pruned."""
    write_whole(folder / "pruned.txt", f"{reason}\n")


def write_error(folder: Path, reason: str) -> None:
    """Record in `folder` that its job failed. `reason` is a message or a traceback."""
    write_whole(folder / "error.txt", f"{reason}\n")


def clear_outcome(folder: Path) -> None:
    """Remove what an earlier attempt of the job in `folder` recorded."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def jobs_in(folder: Path) -> list[Path]:
    """The folders of the jobs of the sweep in `folder`, ordered by number."""
    jobs = [path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")]
    return sorted(jobs, key=lambda job: (len(job.name), job.name))
