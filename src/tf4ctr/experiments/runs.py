"""The run's folder: a fresh one for a new run, the old one for a run that goes on."""

import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tf4ctr.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

# what must not change between the two halves of a run
FIXED = ("seed", "dataset", "embedding", "backbone", "ssem", "dfm", "loss", "optimizer", "stream")
# ... but where files lie may
MOVABLE = ("dataset.raw_dir", "dataset.prepared_dir", "dataset.source")


@functools.cache  # asked for more than once while a config is composed, and made once
def run_folder(ckpt: str | None, name: str) -> Path:
    """Return the folder of the run that `ckpt` belongs to, or make a new one, outputs/DATE/TIME-NAME, unique even within a second."""
    if ckpt:
        path = find_checkpoint(ckpt)
        if (path.parent.parent / "config.yaml").exists():
            return path.parent.parent
    now = datetime.now()
    parent = ROOT / "outputs" / f"{now:%Y-%m-%d}"
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        folder = parent / (f"{now:%H-%M-%S}-{name}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"{parent} already has a thousand runs of this second")


def find_checkpoint(ckpt: str) -> Path:
    """Turn `ckpt=` into a file: a path, or `last` for the newest last.ckpt in outputs/.

    Raises:
        InputError: there is none.
    """
    if ckpt == "last":
        found = sorted((ROOT / "outputs").glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"ckpt=last: no run in {ROOT / 'outputs'} has a checkpoints/last.ckpt")
        return found[-1]
    path = Path(ckpt).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"ckpt={ckpt}: there is no such file; give a path or ckpt=last")
    return path


def write_config(folder: Path, config: DictConfig) -> None:
    """Write the composed config as `folder/config.yaml`, whole or not at all."""
    partial = folder / "config.yaml.partial"
    partial.write_text(OmegaConf.to_yaml(config, resolve=True))
    partial.replace(folder / "config.yaml")


def check_same_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other settings than it began with.

    Raises:
        InputError: naming each setting that differs.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    before, now = (
        _flatten({key: node.get(key) for key in FIXED})
        for node in (OmegaConf.to_container(OmegaConf.load(path)), config)
    )
    changed = [
        f"  {key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now} - {*MOVABLE})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise InputError(
            f"{folder} was started with other settings:\n"
            + "\n".join(changed)
            + "\nRepeat its overrides beside ckpt=, or start a new run without ckpt="
        )


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
