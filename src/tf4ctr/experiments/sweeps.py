"""Sweeps: a failed job does not stop the others, and a stopped sweep can be resumed."""

import logging
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from tf4ctr.errors import Pruned
from tf4ctr.experiments.next_commands import script_words
from tf4ctr.experiments.outcomes import Ending, clear_outcome, jobs_in, read_outcome, write_error, write_pruned

log = logging.getLogger(__name__)


def is_job() -> bool:
    """Whether this run is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_job(
    run: Callable[[DictConfig], float | None], config: DictConfig, explain: Callable[[BaseException], str | None]
) -> float | None:
    """Run one job of a sweep, unless it was trained before.

    A pruned job leaves pruned.txt in its folder, a failed one error.txt. Nothing is raised, so that
    the other jobs run.

    Args:
        run: trains with the config; returns the best validation score.
        explain: returns the message for a mistake of the user, None for any other error.

    Returns:
        the best validation score; None if the job has none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    earlier = read_outcome(folder)
    if earlier.ending is Ending.TRAINED:
        log.info("job %s has finished before: %s", folder.name, folder)
        return earlier.metrics.get("val/monitor")
    clear_outcome(folder)
    try:
        return run(config)
    except Pruned as pruned:
        write_pruned(folder, str(pruned))
        log.info("job %s %s", folder.name, pruned)
    except Exception as error:
        message = explain(error)
        write_error(folder, message or traceback.format_exc())
        log.error("job %s failed, the other jobs go on: %s", folder.name, message or "", exc_info=message is None)
    except BaseException:  # stopped
        from tf4ctr.reporting import say

        words = [*script_words("train"), "-m", f"sweep.resume={folder.parent}"]
        say(f"stopped; to resume the sweep: {shlex.join(words)}")
        raise
    return None


class SweepEnd(Callback):
    """Hydra callback of conf/train.yaml that ends a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the table of the jobs. Exit with status 1 if a job failed or did not finish."""
        folder = Path(config.hydra.sweep.dir)
        jobs = jobs_in(folder)
        if not jobs:  # a search with n_trials=0
            return
        from tf4ctr.experiments.comparison import show_comparison

        failed = any(read_outcome(job).ending in (Ending.FAILED, Ending.STOPPED) for job in jobs)
        try:
            show_comparison([folder], folder)
        except Exception:  # Hydra would reduce it to a warning
            log.exception("the table of the sweep in %s could not be shown", folder)
            failed = True
        if failed:  # Hydra catches a callback's exceptions, but not SystemExit
            sys.exit(1)
