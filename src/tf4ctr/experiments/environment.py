"""What a run was started with: command line, time, versions, commit, machine."""

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from tf4ctr import __version__
from tf4ctr.experiments.runs import ROOT
from tf4ctr.files import write_whole

FILE = "environment.json"
PACKAGES = ("torch", "lightning", "hydra-core", "polars", "numpy")
CODE = ("src", "conf", "pyproject.toml")  # what decides what a run does; notes beside it do not


def record_start(folder: Path, command: Sequence[str], overrides: Sequence[str], resumed: bool) -> None:
    """Write the facts about this start to `folder`/environment.json, which is a list of starts.

    A run that is resumed has one entry for each start: the machine or the code can be another one.

    Args:
        folder: of the run.
        command: the command line, `sys.argv`.
        overrides: of the config; in a sweep those of the job.
        resumed: keep the earlier starts; else they are those of another run in the same folder.
    """
    path = folder / FILE
    earlier = json.loads(path.read_text()) if resumed and path.exists() else []
    write_whole(path, json.dumps([*earlier, facts(command, overrides)], indent=2) + "\n")


def facts(command: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """The facts about this start; the memory is in GiB. A fact that cannot be found is null."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "overrides": list(overrides),
        "versions": {
            "tf4ctr": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "git": git_state(ROOT),
        "machine": {
            "platform": platform.platform(),
            "cpu": _cpu_name(),
            "cores": psutil.cpu_count(logical=False),
            "threads": os.cpu_count(),
            "memory": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        },
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of a folder, and whether its code or configs differ from it.

    None without git, or if the folder is in no repository.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--", *CODE))}


def _git(folder: Path, *command: str) -> str | None:
    """What a git command prints; None if it fails."""
    try:
        process = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def _cpu_name() -> str | None:
    """The CPU's name; Linux has it in a file, and `platform` knows it elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
