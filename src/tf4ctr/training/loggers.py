"""Where metrics are logged: metrics.csv, with one row per validation, and Weights & Biases."""

import csv
import io
import logging
import netrc
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from tf4ctr.files import write_whole

log = logging.getLogger(__name__)

# seconds that a run waits for W&B at its start, unless the variable WANDB_INIT_TIMEOUT is set
INIT_TIMEOUT = 20


class EpochCSV(Logger):
    """metrics.csv with one row per validation: its metrics, and the training since the last one.

    The column `epoch` has the epochs trained so far: 1 at the end of the first epoch, 1.25 after a
    quarter of the second one. An epoch without validation has a row of its training only.

    It is rewritten at every row. When a run resumes, the rows of later epochs are dropped.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: dict[float, dict[str, Any]] = {}  # by epoch
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = {float(row["epoch"]): dict(row) for row in csv.DictReader(file)}

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
        epoch = round(float(metrics["epoch"]), 4)  # as it was before it became a float32; an int outside of fit
        if epoch.is_integer():
            epoch = int(epoch)
        self.rows = {number: row for number, row in self.rows.items() if number <= epoch}
        self.rows.setdefault(epoch, {"epoch": epoch}).update(kept, step=step)
        columns = ["epoch", "step", *sorted({key for row in self.rows.values() for key in row} - {"epoch", "step"})]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_whole(self.path, text.getvalue())

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml in the run's folder has them."""


class OnlineIfReachable(WandbLogger):
    """Lightning's logger of W&B, but a run that cannot start online starts offline.

    A training goes on without a network, or with a key that the server refuses.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run. The first call starts it."""
        import wandb

        if self._experiment is not None or self._wandb_init["mode"] != "online":
            return super().experiment
        log.info("W&B: connecting")
        try:
            return super().experiment
        except (wandb.Error, TimeoutError) as error:
            log.warning(
                "W&B cannot be reached, or refuses the key: logging offline; later: wandb sync"
                " %s/wandb/offline-run-* (W&B says: %s)",
                self.save_dir,
                " ".join(str(error).split()),
            )
        self._wandb_init["mode"] = "offline"
        return super().experiment


def wandb_logger(
    save_dir: str, project: str, name: str, group: str | None = None, entity: str | None = None, id: str | None = None
) -> WandbLogger:
    """Build the Weights & Biases logger: online with a key, else offline.

    Offline it says so in one line. It never prompts for a key. `WANDB_MODE` overrides both.

    Args:
        save_dir: the run's folder.
        project, name, group, entity: as W&B calls them.
        id: a run of the same id is overwritten; None starts a new one.
    """
    import wandb  # takes half a second, which a run without W&B does not need

    settings = wandb.Settings(silent=True, show_warnings=False, console="off", disable_git=True)
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = INIT_TIMEOUT
    server = wandb.setup(settings=settings).settings.base_url  # set up here, it warns of nothing that Lightning chose
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key(server) else "offline")
    if mode == "offline":
        why = "WANDB_MODE=offline" if os.environ.get("WANDB_MODE") else "no API key found"
        log.info("W&B: %s, logging offline; later: wandb sync %s/wandb/offline-run-*", why, save_dir)
    return OnlineIfReachable(
        project=project, name=name, group=group, entity=entity, save_dir=save_dir, mode=mode, id=id, settings=settings
    )


def send_pictures(loggers: list[Logger], folder: Path) -> None:
    """Send every picture of a run's folder to its W&B run, if it has one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for picture in sorted(folder.glob("*.png")):
                logger.log_image(picture.stem, [str(picture)])


def send_report(folder: Path, rows: list[list[str]]) -> None:
    """Send a sweep's table and pictures to W&B, as one run in the group of its jobs.

    Nothing is sent if the jobs did not log to W&B. A second report replaces the first one.

    Args:
        folder: the sweep's folder.
        rows: the table, the titles first.
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


def wandb_address() -> str | None:
    """The address of this process' W&B run; None if it has none, or is offline."""
    run = _wandb_run()
    return run.url if run else None


def wandb_offline() -> str | None:
    """How to send this process' W&B run if it is offline, else None."""
    run = _wandb_run()
    return f"W&B: to send this run: wandb sync {Path(run.dir).parent}" if run and run.offline else None


def _wandb_run() -> Any:
    return sys.modules["wandb"].run if "wandb" in sys.modules else None


def close_wandb() -> None:
    """End the W&B run, if there is one: the next job in this process starts its own."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def _has_key(server: str) -> bool:
    """Whether there is a key for the W&B server of this address, where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    hosts = [urlparse(server).netloc]
    if server == wandb.Settings().base_url:
        hosts.append("api.wandb.ai")  # the default's older name: wandb takes its keys, too
    try:
        keys = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return any(keys.authenticators(host) for host in hosts)
