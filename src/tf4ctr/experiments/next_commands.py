"""What a user may do with a finished run: its files, and commands to copy."""

import os
import shlex
import sys
from pathlib import Path

from tf4ctr.experiments.outcomes import jobs_in
from tf4ctr.experiments.runs import ROOT
from tf4ctr.experiments.sweep_arguments import _config_dirs as config_dirs

FILES = ("index.html", "metrics.json", "metrics.csv", "curves.png", "focus.png", "train.log", "checkpoints/best.ckpt")
TRAINED = ("metrics.json", "checkpoints/best.ckpt")  # of a run that report.py compares


def files_line(folder: Path) -> str:
    """The folder of a run, and which of its files there are."""
    return f"{folder} has " + ", ".join(name for name in FILES if (folder / name).exists())


def next_commands(folder: Path, rows: Path | None = None) -> list[str]:
    """Commands for a finished run, with paths from the current folder.

    Args:
        folder: of the run.
        rows: a file of raw rows to score, None if none is known.
    """
    run = f"run={_shown(folder)}"
    commands = [
        f"evaluate.py {run}",
        f"predict.py {run} input={_shown(rows) if rows else 'FILE'} output=scores.parquet",
        f"export.py {run}",
    ]
    runs = [job for job in jobs_in(folder.parent) if all((job / name).exists() for name in TRAINED)]
    if folder in runs and len(runs) > 1:
        commands.append(f"report.py runs={_shown(folder.parent)}")
    return [f"python {_shown(ROOT / 'src')}/{command}" for command in commands]


def script_words(name: str) -> list[str]:
    """The first words of a command line that goes on with this one, not yet quoted for the shell.

    They are `python`, the script of the entry point `name`, and the folders of further yamls that
    this command line names: without them its choices would be unknown.
    """
    return ["python", f"{_from_here(ROOT / 'src')}/{name}.py", *config_dirs(sys.argv[1:])]


def _shown(path: Path) -> str:
    """A path as the shell takes it: short if it is below the current folder."""
    return shlex.quote(_from_here(path))


def _from_here(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
