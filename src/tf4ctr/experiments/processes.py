"""A training in a process of its own, as `python src/train.py` runs it."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from tf4ctr.errors import InputError
from tf4ctr.experiments import runs
from tf4ctr.experiments.outcomes import Ending, read_outcome
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.experiments.runs import ROOT, quoted

SHOWN_LINES = 30  # of what a failed training printed

# the imports of a training take seconds: a server process does them once, and forks
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tf4ctr.assembly", "tf4ctr.training.loggers", "tf4ctr.training.tables"])


def train(overrides: list[str], folder: Path) -> None:
    """Run a training, unless it has finished before; one that was stopped goes on.

    What it prints is in `folder`/output.txt.

    Args:
        overrides: of the command line, without those of the folder and the checkpoint.
        folder: of the run.

    Raises:
        InputError: the training reports a mistake of the user.
        RuntimeError: it failed otherwise.
        KeyboardInterrupt: it was stopped; it has saved its checkpoint.
    """
    if read_outcome(folder).ending is Ending.TRAINED:
        return
    folder.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_train, args=(overrides, folder))
    process.start()
    try:
        process.join()
    except BaseException:
        process.terminate()  # SIGTERM: the training saves, then ends
        process.join()
        raise
    _raise_failure(folder, process.exitcode, (folder / "output.txt").read_text(errors="replace").splitlines())


def _raise_failure(folder: Path, status: int | None, lines: Sequence[str]) -> None:
    """Raise what `train` says for an exit status that is not 0, given the printed lines."""
    if status == 0:
        return
    if status == 130:
        raise KeyboardInterrupt
    printed = "\n".join(lines[-SHOWN_LINES:])
    if status == 2:
        raise InputError(f"{folder}: the training was refused: {printed.rpartition('error:')[2].strip()}")
    raise RuntimeError(f"{folder}: the training ended with exit status {status}:\n{printed}")


def folder_for(overrides: list[str]) -> Path:
    """The folder that a training with these overrides gets: a new one, or that of `ckpt=`.

    Raises:
        HydraException: the overrides do not fit the config.
    """
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    if any(override.startswith("hydra.run.dir=") for override in overrides):
        return Path(config.hydra.run.dir).expanduser().absolute()
    choices = config.hydra.runtime.choices
    return runs.folder_of(config.ckpt, f"{choices.backbone}-{choices.dataset}")


def train_shown(overrides: list[str], folder: Path, quiet: bool) -> None:
    """Run a training and print what it prints, line by line.

    `train` forks from a server, which imports the caller's main module again: a script without
    `if __name__ == "__main__"` would start itself. Here the caller is any script or notebook.

    Args:
        overrides: of the command line.
        folder: of the run.
        quiet: print nothing.

    Raises:
        InputError, RuntimeError, KeyboardInterrupt: see `train`.
    """
    command = [sys.executable, str(ROOT / "src" / "train.py"), *overrides, f"hydra.run.dir={quoted(str(folder))}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={"COLUMNS": "120", **os.environ},
        start_new_session=True,  # Ctrl-C reaches this process once, as it is handed on
    )
    assert process.stdout is not None
    try:
        lines = _shown(process.stdout, quiet)
        process.wait()
    except BaseException:
        process.terminate()  # SIGTERM: the training saves, then ends
        process.communicate()
        raise
    _raise_failure(folder, process.returncode, lines)


def _shown(output: Iterable[str], quiet: bool) -> list[str]:
    """The lines of an output, printed as they come."""
    lines = []
    for line in output:
        lines.append(line.rstrip("\n"))
        if not quiet:
            print(lines[-1], flush=True)
    return lines


def _train(overrides: list[str], folder: Path) -> None:
    os.setsid()  # Ctrl-C reaches this process once, as `train` hands it on
    with (folder / "output.txt").open("a") as output, runs.folder_lock(folder):
        # a training whose parent was killed may have been at work here until now
        if read_outcome(folder).ending is Ending.TRAINED:
            return
        os.environ["COLUMNS"] = "160"
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        last = runs.left_checkpoint(folder)
        ckpt = [f"ckpt={quoted(str(last))}"] if last else []
        sys.argv = [str(ROOT / "src" / "train.py"), *overrides, *ckpt, f"hydra.run.dir={quoted(str(folder))}"]
        sys.path[0] = str(ROOT / "src")
        runpy.run_path(sys.argv[0], run_name="__main__")
