"""What every entry point does around its main function: compose the config, report errors."""

import ctypes
import functools
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import hydra
import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from tf4ctr import ranks
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.choices import choice_names, yaml_fault
from tf4ctr.experiments.help_text import asked, help_text
from tf4ctr.experiments.other_names import choice_hint, deeper_hint, option_hint
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.experiments.runs import ROOT
from tf4ctr.experiments.sweep_arguments import resumed


def run(main: Callable[[DictConfig], Any], config_name: str, several: bool = False) -> None:
    """Call `main` with the composed config conf/`config_name`.yaml, as `hydra.main` does.

    A mistake of the user (see `explain`) ends the process with one message and exit status 2. Any
    other error is a fault of the program and keeps its traceback. An interrupt has exit status 130.

    Args:
        main: does the work.
        config_name: of its config.
        several: whether `main` is one job of several processes if torchrun or srun starts them.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    # A scheduler sends these signals before it kills. As with Ctrl-C, a checkpoint is saved.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    mistakes: list[str] = []
    try:
        if _helped(config_name):
            return
        sys.argv[1:] = resumed(sys.argv[1:])
        if several:
            sys.argv += ranks.join(sys.argv[1:])
        compose = hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)
        compose(_collect_mistakes(main, mistakes))()
    except (KeyboardInterrupt, SystemExit) as error:
        if not any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error)):  # Lightning exits after one
            ranks.leave()
            raise
        _end(ranks.INTERRUPTED, "[yellow]stopped by hand[/]")
    except Exception as error:
        if (message := explain(error)) is None:
            _end_ranks_of_fault()
            raise
        mistakes.append(message)
    if mistakes:
        _end(2, "\n".join(f"[bold red]error:[/] {escape(message)}" for message in mistakes))
    ranks.leave()


def _helped(config_name: str) -> bool:
    """Whether the command line asked for help, and got it. Hydra adds its own to `--help all`."""
    topics = asked(sys.argv[1:])
    if topics is None:
        return False
    try:
        print(help_text(config_name, topics), flush=True)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        return True
    if "all" not in topics:
        return True
    print()
    others = [argument for argument in sys.argv[1:] if argument not in ("all", "help=all", "--help", "-h")]
    sys.argv[1:] = [*others, "--help"]
    return False


def _end(status: int, text: str) -> NoReturn:
    """End all processes of this run with an exit status and one message, in rich's markup."""
    ranks.fail(status, text)
    Console(stderr=True, soft_wrap=True).print(text)
    sys.exit(status)


def _end_ranks_of_fault() -> None:
    """If there are several, end them with the traceback of the current exception."""
    ranks.fail(1, f"[bold red]error:[/] {escape(traceback.format_exc())}", doubtful=True)


def _collect_mistakes(main: Callable[[DictConfig], Any], mistakes: list[str]) -> Callable[[DictConfig], Any]:
    """`main`, but a mistake of the user is appended to `mistakes` instead of raised.

    Hydra prints a line of its own for each exception that it gets. In a process of a launcher the
    exception is raised nevertheless, because the list does not come back from there.
    """
    process = os.getpid()

    @functools.wraps(main)
    def task(config: DictConfig) -> Any:
        try:
            return main(config)
        except Exception as error:
            message = explain(error)
            if message is None:
                _end_ranks_of_fault()  # before Hydra prints a line for each
            if message is None or os.getpid() != process:
                raise
            mistakes.append(message)
            return None

    return task


def quiet_lightning() -> None:
    """Hide Lightning's messages below warnings, and warnings that are no problem here.

    Call it after Lightning is imported, because the import sets the levels of its loggers.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for noise in (
        ".*LeafSpec.*is deprecated",  # Lightning's use of torch
        "Checkpoint directory .* exists and is not empty",  # a resumed run
        ".*`self.log\\(.*, sync_dist=True\\)`",  # our metrics are equal on all ranks
        ".*is smaller than the logging interval",  # the loss is also logged at every validation
    ):
        warnings.filterwarnings("ignore", noise)


def keep_memory() -> None:
    """Let the C library keep freed memory.

    A step frees hundreds of megabytes on a CPU. glibc returns them to the kernel, which clears
    every page again for the next step: up to a fifth of the step's time. Without glibc nothing is
    done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        mallopt(trim_threshold, 2**31 - 1)  # the largest int
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # the largest before glibc 2.35


def is_first_rank() -> bool:
    """Whether this process is rank 0, which writes files and prints."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank") == 0  # noqa: B009, an attribute that its type does not declare


def explain(error: BaseException) -> str | None:
    """Return the message for a mistake of the user, None for any other error."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, yaml.MarkedYAMLError):
            return yaml_fault(cause)
    for cause in causes:
        if isinstance(cause, MissingConfigException) and (message := _missing_choice(cause)):
            return message
    if isinstance(error, ConfigCompositionException) and (message := _unknown_option(causes)):
        return message
    if isinstance(error, OverrideParseException):  # `Wide&Deep` has a sign that Hydra does not read
        group, _, name = error.override.partition("=")
        if name.endswith((",", ",]")):  # the shell splits at a space, and `several.joined` adds the brackets
            return f"{error.override}: no space after a comma: {group}=A,B"
        if hint := choice_hint(group, name, choice_names(group)):
            return hint
        if not name:
            return f"{error.override}: expected KEY=VALUE; see --help"
        return f"{error.override}: this value cannot be read; a text with signs needs quotes: '{group}=\"{name}\"'"
    if isinstance(
        error, ConfigCompositionException | MissingConfigException | OverrideParseException | OmegaConfBaseException
    ):
        return "; ".join(dict.fromkeys(str(cause).strip() for cause in causes))
    if isinstance(error, InstantiationException):
        return _refused_value(str(error), causes)
    if isinstance(error, HydraException) and "sweep type : INTERVAL_SWEEP" in str(error):
        return "interval() needs sweep=optuna, which draws values from it; without it write the values: KEY=A,B"
    return str(error) if isinstance(error, HydraException) else None


def _unknown_option(causes: Sequence[BaseException]) -> str | None:
    """What to say about an option that the config does not have, None if the error is another."""
    text = "\n".join(str(cause) for cause in causes)
    written = re.search(r"To append to your (config|default list) use \+([^=\n]+)=(.*)", text)
    key, value = (written[2], written[3]) if written else ("", "")
    if written and written[1] == "default list":
        near = re.search(r"Did you mean to override (?:one of )?(.*)\?", text)
        others = " or ".join(f"{name}={value}" for name in (near[1].split(", ") if near else ()))
        adds = f"+{key}={value} adds another one" if "@" in key else ""
        return f"{key}={value}: " + "; ".join(filter(None, (f"write {others}" if others else "", adds)))
    for cause in causes:
        if (
            isinstance(cause, OmegaConfBaseException)
            and isinstance(node := cause.parent_node, DictConfig)
            and cause.key is not None
        ):
            at_top = written and cause.full_key == key and "." not in key
            if at_top and (hint := option_hint(key, value, node) or deeper_hint(key, value, node)):
                return hint
            known = [str(name) for name in node if not str(name).startswith("_")]
            hint = did_you_mean(str(cause.key), known)
            if written and "_target_" in node and not hint.startswith("did you mean"):
                hint += f"; if {node['_target_']} has it, write +{key}={value}"
            return f"{cause.full_key}: unknown option, {hint}"
    return None


def _refused_value(text: str, causes: Sequence[BaseException]) -> str:
    """What to say of a `_target_` that cannot be found or called; `text` is Hydra's message."""
    first = [*causes, *(cause for cause in causes if isinstance(cause, ImportError))][-1]
    name = type(first).__name__
    kind = "" if name in ("TypeError", "ValueError", "MisconfigurationException") else f"{name}: "
    called = re.search(r"target '([^']+)'", text)
    place = re.search(r"full_key: (\S+)", text)
    if called and "Error in call" in text:
        return f"{place[1] if place else called[1]}: {kind}{first}"
    return f"{text.partition(', set env var')[0].strip()}: {kind}{first}"


def _missing_choice(error: MissingConfigException) -> str | None:
    """What to say about a choice without a yaml, None if its group is not known.

    Hydra lists only the yamls beside the missing one, so not those of a group with subfolders.
    """
    file, (group, _, option) = str(error.missing_cfg_file), str(error.missing_cfg_file).partition("/")
    known = choice_names(group)
    if group == "hydra" or not any("/" in name for name in known):  # Hydra lists the choices
        return _unknown_choice(file, error.options) if error.options else None
    same_end = [name for name in known if name.endswith(f"/{option}")]
    below = [name for name in known if name.startswith(f"{option}/")]
    hint = f"did you mean {' or '.join(map(repr, (same_end or below)[:3]))}?" if same_end or below else ""
    return (
        f"{group}={option}: unknown option, {hint or did_you_mean(option, known)}"
        " Or write --config-dir=FOLDER if it is your own"
    )


def _unknown_choice(file: str, options: Iterable[str]) -> str:
    group, _, option = file.rpartition("/")
    if group == "hydra/launcher" and option.startswith(("joblib", "ray", "submitit")):
        extra = option.split("_")[0]
        return f"launcher={extra} needs a package that is not installed: pip install -e '.[{extra}]'"
    hint = choice_hint(group, option, options)
    return hint or f"{group}={option}: unknown option, {did_you_mean(option, options)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
