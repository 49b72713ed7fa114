"""sweep=optuna: a search instead of a grid, its trials kept in a storage that survives a restart, the hopeless ones pruned."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.plugins.sweeper import Sweeper
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tf4ctr.errors import InputError
from tf4ctr.training.pruning import STUDY

log = logging.getLogger(__name__)


def search(
    sweeper: Sweeper,
    folder: Path,
    arguments: Sequence[str],
    *,
    params: Mapping[str, Any],
    objective: str,
    n_trials: int,
    n_jobs: int,
    storage: str,
    sampler: Callable[..., optuna.samplers.BaseSampler],
    pruner: optuna.pruners.BasePruner,
    seed: int,
) -> None:
    """Try `n_trials` settings, each a job of the sweep in `folder`; log the best one and leave search.png.

    Trials that an earlier call began and did not end go on first, and the finished ones count: a search that was stopped goes on.

    Args:
        sweeper: with the launcher, and what checks the jobs' configs.
        arguments: overrides of the command line; those that name several values are searched, the others are every job's.
        params: the space where the command line names none: override -> `interval(a, b)`, `tag(log, interval(a, b))`,
            `int(interval(a, b))`, `choice(a, b)` or `range(a, b)`.
        objective: key of metrics.json to maximise.
        n_jobs: trials that the launcher gets at a time.
        storage: URL of the study.
        sampler: `sampler(seed=)` proposes.
        pruner: see `TrialPruning`.
        seed: of the proposals.

    Raises:
        InputError: nothing to search, or a space that Optuna does not know.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the jobs' own logs tell of them
    given = OverridesParser.create().parse_overrides(list(arguments))
    searched = [each for each in given if each.is_sweep_override()]
    searched = searched or OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    space = {each.key_or_group: distribution(each) for each in searched}
    if not space:
        raise InputError(
            "sweep=optuna has nothing to search: name a space, as in 'optimizer.lr=tag(log, interval(1e-4, 1e-2))'"
        )
    fixed = [str(each.input_line) for each in given if not each.is_sweep_override()]
    study = optuna.create_study(
        study_name=STUDY, storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
    )
    study.sampler = sampler(seed=seed + len(study.trials))
    for batch in _batches(study, space, n_trials, n_jobs):
        jobs = [[*fixed, *_overrides(trial.params)] for trial in batch]
        sweeper.validate_batch_is_legal(jobs)
        sweeper.launcher.launch(jobs, initial_job_idx=batch[0].number)  # type: ignore[union-attr]
        for trial in batch:
            study.tell(trial.number, *_outcome(folder / str(trial.number), objective))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        log.info("no trial came to its end: see error.txt in the jobs' folders")
        return
    best = study.best_trial
    log.info(
        "best of %d trials: job %d, %s %.6f, %s",
        len(study.trials),
        best.number,
        objective,
        best.value,
        " ".join(_overrides(best.params)),
    )
    draw(study, objective, folder / "search.png")


def _overrides(params: Mapping[str, Any]) -> list[str]:
    # five digits: what is proposed is random beyond them, and people read and repeat these
    return [f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]


def _batches(
    study: optuna.Study, space: dict[str, BaseDistribution], n_trials: int, n_jobs: int
) -> Iterator[list[optuna.Trial] | list[FrozenTrial]]:
    for begun in study.get_trials(states=(TrialState.RUNNING,)):
        yield [begun]
    while (left := n_trials - len(study.trials)) > 0:
        try:
            yield [study.ask(space) for _ in range(min(left, n_jobs))]
        except ValueError as error:
            raise InputError(f"this search began with another space ({error}): start one in a new folder") from error


def distribution(override: Override) -> BaseDistribution:
    """What Hydra's `choice`, `range` and `interval` say, in Optuna's words; `tag(log, ...)` for a logarithmic scale.

    Raises:
        InputError: a range of fractions on a logarithmic scale.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)  # type: ignore[arg-type]
    if isinstance(value, RangeSweep):
        if "log" in value.tags:
            raise InputError(
                f"{override.input_line}: a range has even steps; on a logarithmic scale take interval(a, b)"
            )
        numbers: list[Any] = list(value.range())
        kind = IntDistribution if isinstance(value.step, int) and isinstance(value.start, int) else FloatDistribution
        return kind(numbers[0], numbers[-1], step=value.step)  # type: ignore[arg-type]
    choices: Iterator[Any] = override.sweep_iterator(transformer=Transformer.encode)
    return CategoricalDistribution(list(choices))


def _outcome(folder: Path, objective: str) -> tuple[float | None, TrialState]:
    """What a job came to, from what it left in its folder."""
    if (metrics := folder / "metrics.json").exists():
        found = json.loads(metrics.read_text())
        if objective not in found:
            raise InputError(f"hydra.sweeper.objective is '{objective}': the runs have {', '.join(found)}")
        return found[objective], TrialState.COMPLETE
    error = folder / "error.txt"
    return None, TrialState.PRUNED if error.exists() and error.read_text().startswith("pruned") else TrialState.FAIL


def draw(study: optuna.Study, objective: str, path: Path) -> None:
    """search.png: each trial's value over its number, the best so far as a line, and every parameter beside the value."""
    from matplotlib.figure import Figure  # not at the top: most of a second

    done = study.get_trials(states=(TrialState.COMPLETE,))
    values = [float(trial.value) for trial in done if trial.value is not None]
    names = sorted({name for trial in done for name in trial.params})
    figure = Figure(figsize=(3.2 * (len(names) + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    axes[0].plot([trial.number for trial in done], values, "o", markersize=4)
    axes[0].step(
        [trial.number for trial in done],
        [max(values[: end + 1]) for end in range(len(values))],
        where="post",
        color="C1",
    )
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel(objective)
    for axis, name in zip(axes[1:], names, strict=True):
        space = done[0].distributions[name]
        axis.plot([trial.params[name] for trial in done], values, "o", markersize=4)
        axis.set_xlabel(name)
        if getattr(space, "log", False):
            axis.set_xscale("log")
        if isinstance(space, CategoricalDistribution):
            axis.tick_params(axis="x", rotation=45)
    figure.savefig(path, dpi=120)
