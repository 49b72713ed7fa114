"""What an entry point does around its main function: resolvers first, and errors told as a person would tell them."""

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.experiments.sweeps import resumed


def run(main: Callable[[], Any]) -> None:
    """Call a `@hydra.main` function; a mistake in the config or the input ends it with one clear message and exit status 2.

    Anything else is a fault of ours and keeps its traceback.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing them
    for number in (
        signal.SIGTERM,
        signal.SIGUSR1,
    ):  # what a scheduler sends before it kills: as Ctrl-C, so a checkpoint is saved
        signal.signal(number, signal.default_int_handler)
    try:
        sys.argv[1:] = resumed(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        Console(stderr=True).print("[yellow]stopped by hand[/]")
        sys.exit(130)
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")
        sys.exit(2)


def quiet_lightning() -> None:
    """Keep what Lightning says of itself off the terminal, once it is imported (it sets its loggers' level then)."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # its use of torch's tree utilities, a folder that a resumed run is meant to find full, and metrics that are the same on all ranks
    for noise in (
        ".*LeafSpec.*is deprecated",
        "Checkpoint directory .* exists and is not empty",
        ".*`self.log\\(.*, sync_dist=True\\)`",
    ):
        warnings.filterwarnings("ignore", noise)


def keep_memory() -> None:
    """Let the C library keep memory that was freed. A step frees what it took, hundreds of megabytes on a CPU, and glibc hands that back to
    the kernel, which has to clear every page again for the next step: up to a fifth of the step's time. Nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # before 2.35 glibc takes no more


def is_first_rank() -> bool:
    """Whether this process is the one, of those that train together, that writes and talks."""
    from lightning.pytorch.utilities import rank_zero_only  # here, not at the top: --help should not wait for torch

    return getattr(rank_zero_only, "rank") == 0  # noqa: B009, an attribute that its type does not tell of


def explain(error: BaseException) -> str | None:
    """Return the message for a mistake of the person, None for any other error."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, MissingConfigException) and cause.options:
            group, _, option = str(cause.missing_cfg_file).rpartition("/")
            if group == "hydra/launcher" and option.startswith(("joblib", "ray", "submitit")):
                extra = option.split("_")[0]
                return f"launcher={extra} needs a package that is not installed: pip install -e '.[{extra}]'"
            return f"{group}={option}: there is no such option, {did_you_mean(option, cause.options)}"
    if isinstance(error, ConfigCompositionException):
        for cause in causes:
            if (
                isinstance(cause, OmegaConfBaseException)
                and isinstance(cause.parent_node, DictConfig)
                and cause.key is not None
            ):
                known = [str(key) for key in cause.parent_node if not str(key).startswith("_")]
                return f"{cause.full_key}: there is no such option, {did_you_mean(str(cause.key), known)}"
    if isinstance(
        error, ConfigCompositionException | MissingConfigException | OverrideParseException | OmegaConfBaseException
    ):
        return "; ".join(dict.fromkeys(str(cause).strip() for cause in causes))
    if isinstance(error, HydraException):
        return str(error)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
