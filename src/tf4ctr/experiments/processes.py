"""A training in a process of its own, as `python src/train.py` runs it."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

from filelock import FileLock

from tf4ctr.errors import InputError
from tf4ctr.experiments.outcomes import Ending, read_outcome
from tf4ctr.experiments.runs import ROOT

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
    if process.exitcode == 0:
        return
    if process.exitcode == 130:
        raise KeyboardInterrupt
    printed = "\n".join((folder / "output.txt").read_text(errors="replace").splitlines()[-SHOWN_LINES:])
    if process.exitcode == 2:
        raise InputError(f"{folder}: the training was refused: {printed.rpartition('error:')[2].strip()}")
    raise RuntimeError(f"{folder}: the training ended with exit status {process.exitcode}:\n{printed}")


def _train(overrides: list[str], folder: Path) -> None:
    os.setsid()  # Ctrl-C reaches this process once, as `train` hands it on
    with (folder / "output.txt").open("a") as output, FileLock(folder / ".lock"):
        # a training whose parent was killed may have been at work here until now
        if read_outcome(folder).ending is Ending.TRAINED:
            return
        os.environ["COLUMNS"] = "160"
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        last = folder / "checkpoints" / "last.ckpt"
        ckpt = [f"ckpt='{last}'"] if last.exists() else []
        sys.argv = [str(ROOT / "src" / "train.py"), *overrides, *ckpt, f"hydra.run.dir='{folder}'"]
        sys.path[0] = str(ROOT / "src")
        runpy.run_path(sys.argv[0], run_name="__main__")
