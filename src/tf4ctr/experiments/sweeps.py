"""Many runs by one command: a job that fails doesn't stop the others, a sweep that stopped goes on, a table stands at the end."""

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tf4ctr.errors import InputError, Pruned

log = logging.getLogger(__name__)


def is_job() -> bool:
    """Whether this run is one of a sweep's."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def job_name(default: str) -> str:
    """What a run is called: the overrides that set a job apart in its sweep, as in `dfm=sum seed=2019`; `default` outside of one."""
    if not (HydraConfig.initialized() and is_job()):
        return default
    hydra = HydraConfig.get()
    shared = OmegaConf.load(Path(hydra.runtime.output_dir).parent / "multirun.yaml").hydra.overrides.task
    return " ".join(each for each in hydra.overrides.task if each not in shared) or default


def sweep_name() -> str | None:
    """What the runs of a sweep have in common: DATE/TIME of its folder; None outside of one."""
    if not (HydraConfig.initialized() and is_job()):
        return None
    return "/".join(Path(HydraConfig.get().runtime.output_dir).parts[-3:-1])


def run_job(
    run: Callable[[DictConfig], float | None], config: DictConfig, explain: Callable[[BaseException], str | None]
) -> float | None:
    """One job of a sweep: not again where it was done before; what ends it early goes into its folder's error.txt and its log.

    Args:
        run: trains as the config says.
        explain: the message for a mistake of the person, None for any other error.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (done := folder / "metrics.json").exists():
        log.info("job %s was done before: %s", folder.name, folder)
        return json.loads(done.read_text()).get("val/monitor")
    (folder / "error.txt").unlink(missing_ok=True)
    try:
        return run(config)
    except Pruned as pruned:
        (folder / "error.txt").write_text(f"{pruned}\n")
        log.info("job %s %s", folder.name, pruned)
        return None
    except Exception as error:
        message = explain(error)
        (folder / "error.txt").write_text((message or traceback.format_exc()) + "\n")
        log.error("job %s failed, the others go on: %s", folder.name, message or "", exc_info=message is None)
        return None


def left_checkpoint(folder: Path) -> Path | None:
    """Where a job goes on that was stopped."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def resumed(arguments: list[str]) -> list[str]:
    """Turn `-m sweep.resume=FOLDER` into the command line that began the sweep in FOLDER; any other stays as it is.

    Raises:
        InputError: FOLDER holds no sweep, or other overrides stand beside.
    """
    named = [argument for argument in arguments if argument.startswith("sweep.resume=")]
    if not named:
        return arguments
    if others := [argument for argument in arguments if argument not in (*named, "-m", "--multirun")]:
        raise InputError(
            f"sweep.resume repeats the sweep's own overrides and takes no others: leave out {' '.join(others)}"
        )
    folder = Path(named[-1].partition("=")[2]).expanduser().absolute()
    if not (folder / "multirun.yaml").is_file():
        raise InputError(f"sweep.resume={folder}: there is no multirun.yaml, so no sweep began there")
    overrides = OmegaConf.load(folder / "multirun.yaml").hydra.overrides
    kept = [override for override in (*overrides.hydra, *overrides.task) if not override.startswith("hydra.sweep.dir=")]
    return ["--multirun", *kept, f"hydra.sweep.dir={folder}"]


class SweepEnd(Callback):
    """Shows the table of a sweep's jobs when it ends.

    And, as it is what launchers send to each process of theirs with the job, makes the configs' resolvers known there.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tf4ctr.experiments.resolvers import register_resolvers  # which imports this module

        register_resolvers()
        vars(self).update(state)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from tf4ctr.experiments.comparison import (
            show_comparison,  # here, not at the top: --help should not wait for polars
        )

        show_comparison(Path(config.hydra.sweep.dir))
