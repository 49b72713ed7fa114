"""The command line of a sweep that goes on: sweep.resume=, and hydra.sweep.dir= of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from tf4ctr.errors import InputError
from tf4ctr.experiments.outcomes import Ending, jobs_in, read_outcome
from tf4ctr.experiments.runs import left_checkpoint, quoted

CONFIG_DIR = ("-cd", "--config-dir")
FLAGS_WITH_VALUE = (*CONFIG_DIR, "-cn", "--config-name", "-cp", "--config-path", "-p", "--package")
WITHOUT_EFFECT = ("launcher", "dry_run", "page", "verbose")  # options that make no other job


def resumed(arguments: list[str]) -> list[str]:
    """Replace `-m sweep.resume=FOLDER` by the command line that started the sweep in FOLDER.

    Other command lines are returned unchanged.

    Raises:
        InputError: FOLDER contains no sweep, the command line has other overrides too, or it is
            another sweep for a folder that has one.
    """
    resume = [argument for argument in arguments if argument.startswith("sweep.resume=")]
    if not resume:
        _check_same_sweep(arguments)
        return arguments
    places = config_dirs(arguments)
    if others := [argument for argument in arguments if argument not in (*resume, *places, "-m", "--multirun")]:
        raise InputError(
            "sweep.resume uses the overrides that the sweep was started with and accepts no others:"
            f" remove {' '.join(others)}"
        )
    folder = Path(resume[-1].partition("=")[2]).expanduser().absolute()
    if not (folder / "multirun.yaml").is_file():
        raise InputError(f"sweep.resume={folder}: there is no multirun.yaml, so no sweep was started there")
    words = _started(folder / "multirun.yaml")
    kept = [word for word in words if not word.lstrip("+").startswith("hydra.sweep.dir=")]
    return [*places, "--multirun", *kept, f"hydra.sweep.dir={quoted(str(folder))}"]


def config_dirs(arguments: Sequence[str]) -> list[str]:
    """The arguments that say where further yamls are; a sweep does not record them."""
    return _with_values(arguments, CONFIG_DIR, ["--config-dir="])


def _check_same_sweep(arguments: Sequence[str]) -> None:
    """Check that a folder with finished jobs gets no jobs of another sweep.

    Such a job does not run again, so its results would be shown as those of other settings.

    Raises:
        InputError: hydra.sweep.dir= names the folder of a sweep with other overrides.
    """
    words = [word for word in arguments if word not in _flags(arguments)]
    try:
        given = OverridesParser.create().parse_overrides(words)
    except OverrideParseException:
        return  # Hydra says what is wrong
    named = [override.value() for override in given if override.key_or_group == "hydra.sweep.dir"]
    path = Path(str(named[-1])).expanduser() / "multirun.yaml" if named else None
    if path is None or not path.is_file() or not any(_has_begun(job) for job in jobs_in(path.parent)):
        return
    before, now = (_makes_jobs(OverridesParser.create().parse_overrides(each)) for each in (_started(path), words))
    if before != now:
        differing = [word for word in (*before, *now) if word not in before or word not in now]
        raise InputError(
            f"{path.parent} has a sweep that was started with other overrides, or in another order"
            f" ({' '.join(differing or before)}): name another folder. report.py takes several sweeps:"
            " runs=FOLDER,OTHER"
        )


def _started(path: Path) -> list[str]:
    """The overrides in a multirun.yaml, as they were written."""
    overrides: dict[str, list[str]] = OmegaConf.to_container(OmegaConf.load(path).hydra.overrides, resolve=False)  # type: ignore[assignment]
    return [*overrides["hydra"], *overrides["task"]]


def _flags(arguments: Sequence[str]) -> list[str]:
    """The arguments that are no overrides, and the values of those that have one."""
    return _with_values(arguments, FLAGS_WITH_VALUE, ["-"])


def _with_values(arguments: Sequence[str], flags: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """Those of `flags`, each with the argument after it, and those with one of `prefixes`."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        if argument in flags:
            found += arguments[number : number + 2]
        elif argument.startswith(tuple(prefixes)):
            found.append(argument)
    return found


def _makes_jobs(overrides: Sequence[Override]) -> list[str]:
    """The overrides that decide which job has which settings, in their order."""
    return [
        str(override.input_line).replace(" ", "")
        for override in overrides
        if override.key_or_group.startswith("hydra.sweeper.params")
        or not (override.key_or_group.startswith("hydra") or override.key_or_group in WITHOUT_EFFECT)
    ]


def _has_begun(job: Path) -> bool:
    return read_outcome(job).ending is Ending.TRAINED or left_checkpoint(job) is not None
