"""Where curves go: metrics.csv, one row an epoch, and Weights & Biases."""

import csv
import logging
import netrc
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

log = logging.getLogger(__name__)


class EpochCSV(Logger):
    """metrics.csv with one row an epoch: what training and validation logged in it.

    Rewritten at every epoch. When a run resumes, the rows of later epochs (written by the stretch that is gone) are dropped.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = {int(row["epoch"]): dict(row) for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        kept = {key: value for key, value in metrics.items() if key.startswith(("train/", "val/", "lr"))}
        if not kept:
            return
        epoch = int(metrics["epoch"]) + 1
        self.rows = {number: row for number, row in self.rows.items() if number <= epoch}
        self.rows.setdefault(epoch, {"epoch": epoch}).update(kept, step=step)
        columns = ["epoch", "step", *sorted({key for row in self.rows.values() for key in row} - {"epoch", "step"})]
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows.values())
        partial.replace(self.path)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """config.yaml in the run's folder has them."""


def wandb_logger(
    save_dir: str, project: str, name: str, group: str | None = None, entity: str | None = None, id: str | None = None
) -> WandbLogger:
    """Make the Weights & Biases logger: online with a key, else offline with one line that says so; never a prompt.

    `WANDB_MODE` wins over both. A run of the same `id` is written again, a new one made where it is None.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "offline":
        log.info("W&B: no API key found, logging offline; later: wandb sync %s/wandb/offline-run-*", save_dir)
    import wandb  # not at the top: half a second that a run without W&B should not pay

    settings = wandb.Settings(silent=True, show_warnings=False, console="off", disable_git=True)
    wandb.setup(settings=settings)  # or it warns of a setting that is Lightning's, not the person's
    return WandbLogger(
        project=project, name=name, group=group, entity=entity, save_dir=save_dir, mode=mode, id=id, settings=settings
    )


def send_pictures(loggers: list[Logger], folder: Path) -> None:
    """Put every picture of a run's folder into its W&B run, where there is one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for picture in sorted(folder.glob("*.png")):
                logger.log_image(picture.stem, [str(picture)])


def send_report(folder: Path, rows: list[list[str]]) -> None:
    """Put a sweep's table (`rows`, the title first) and pictures into W&B, as one run in the group of its jobs, if they went there.

    Sent again, it takes the place of the earlier one.
    """
    configs = (OmegaConf.load(path) for path in sorted(folder.glob("*/config.yaml")))
    nodes = [node for config in configs if (node := OmegaConf.select(config, "logger.wandb")) is not None]
    if not nodes:
        return
    name = f"report-{folder.parent.name}-{folder.name}"
    logger = wandb_logger(str(folder), nodes[0].project, name, nodes[0].group, nodes[0].entity, id=name)
    logger.log_table("report", columns=rows[0], data=rows[1:])
    send_pictures([logger], folder)
    close_wandb()


def close_wandb() -> None:
    """End the W&B run, if there is one: the next job of a multirun, in the same process, gets a run of its own."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
