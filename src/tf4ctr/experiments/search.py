"""sweep=optuna: a search for good settings instead of a grid. It can be resumed."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tf4ctr.errors import InputError
from tf4ctr.experiments import runs
from tf4ctr.experiments.outcomes import Ending, read_outcome
from tf4ctr.training.pruning import STUDY

log = logging.getLogger(__name__)

OBJECTIVE = "objective"  # the attribute of a study
LESS_IS_BETTER = ("logloss", "ece")  # ends of keys of metrics.json, as of uncalibrated_logloss


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
    """Run trials as jobs of the sweep in `folder`; log the best trial and draw search.png.

    Trials of an earlier call count: unfinished ones run first, then new ones until there are
    `n_trials`.

    Args:
        sweeper: has the launcher and checks the configs of the jobs.
        arguments: overrides of the command line. Those with several values are searched, the others
            belong to every job.
        params: the space to search if the command line has none: override -> `interval(a, b)`,
            `tag(log, interval(a, b))`, `int(interval(a, b))`, `choice(a, b)` or `range(a, b)`. What
            has one value on the command line is not searched.
        objective: key of metrics.json; see `direction` for which values are good.
        n_trials: number of trials, those of earlier calls included.
        n_jobs: number of trials that the launcher gets at once.
        storage: URL of the study.
        sampler: `sampler(seed=)` proposes settings.
        pruner: see `TrialPruning`.
        seed: of the proposals.

    Raises:
        InputError: there is nothing to search, Optuna does not know the space, `objective` is
            not a defined metric, the search in the folder was started with another one, or another
            process searches there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the jobs have logs of their own
    runs.hold(folder)  # a second search would take this one's trials for stopped ones
    fixed, space = _split(arguments, params)
    study = _open_study(objective, storage, pruner)
    # for sweep.resume=; not before, so that a refused command does not replace the one that started
    OmegaConf.save(sweeper.config, folder / "multirun.yaml")
    study.sampler = sampler(seed=seed + len(study.trials))  # a resumed search gets other proposals
    for batch in _batches(study, space, n_trials, n_jobs):
        jobs = [[*fixed, *_overrides(trial.params)] for trial in batch]
        sweeper.validate_batch_is_legal(jobs)
        sweeper.launcher.launch(jobs, initial_job_idx=batch[0].number)  # type: ignore[union-attr]
        for trial in batch:
            study.tell(trial.number, *_result(folder / str(trial.number), objective))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        log.info("no trial has finished: see error.txt and pruned.txt in the folders of the jobs")
        return
    _log_best(study, objective)
    draw(study, objective, folder / "search.png")


def direction(objective: str) -> Literal["minimize", "maximize"]:
    """Optuna's word for what to do with a metric: less logloss and ECE is better, else more."""
    return "minimize" if objective.endswith(LESS_IS_BETTER) else "maximize"


def _open_study(objective: str, storage: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """The study in `storage`, a new one if there is none.

    Raises:
        InputError: it has results of another objective, or another direction.
    """
    wanted = direction(objective)
    study = optuna.create_study(study_name=STUDY, storage=storage, direction=wanted, pruner=pruner, load_if_exists=True)
    kept = study.direction.name.lower()  # Optuna does not change that of a study
    before = study.user_attrs.get(OBJECTIVE, objective if kept == wanted else f"an objective to {kept}")
    has_results = any(trial.value is not None or trial.intermediate_values for trial in study.trials)
    if kept != wanted or (before != objective and has_results):
        raise InputError(
            f"hydra.sweeper.objective is {objective}, but the search in {storage} was started with {before}: repeat"
            " that one, or start a new search in another folder"
        )
    study.set_user_attr(OBJECTIVE, objective)
    return study


def _split(arguments: Sequence[str], params: Mapping[str, Any]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Overrides that every job has, and the space to search."""
    parser = OverridesParser.create()
    overrides = parser.parse_overrides(list(arguments))
    searched = [override for override in overrides if override.is_sweep_override()]
    fixed = [override for override in overrides if not override.is_sweep_override()]
    keys = {override.get_key_element().lstrip("+") for override in fixed}  # the command line comes first
    free = [f"{key}={value}" for key, value in params.items() if key.lstrip("+") not in keys]
    searched = searched or parser.parse_overrides(free)
    if not searched:
        raise InputError(
            "sweep=optuna has nothing to search: name a space, as in 'optimizer.lr=tag(log, interval(1e-4, 1e-2))'"
        )
    return [str(override.input_line) for override in fixed], {
        override.get_key_element(): distribution(override) for override in searched
    }


def _log_best(study: optuna.Study, objective: str) -> None:
    best = study.best_trial
    settings = " ".join(_overrides(best.params))
    message = "best of %d trials: job %d, %s %.6f, %s"
    log.info(message, len(study.trials), best.number, objective, best.value, settings)


def _overrides(params: Mapping[str, Any]) -> list[str]:
    # five digits are precise enough for a random proposal, and short enough to read and repeat
    return [f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]


def _batches(
    study: optuna.Study, space: dict[str, BaseDistribution], n_trials: int, n_jobs: int
) -> Iterator[list[optuna.Trial] | list[FrozenTrial]]:
    for unfinished in study.get_trials(states=(TrialState.RUNNING,)):
        yield [unfinished]
    while (remaining := n_trials - len(study.trials)) > 0:
        try:
            yield [study.ask(space) for _ in range(min(remaining, n_jobs))]
        except ValueError as error:
            raise InputError(
                f"this search was started with another space ({error}): start a new one in another folder"
            ) from error


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution for Hydra's `choice`, `range` and `interval`.

    `tag(log, ...)` gives a logarithmic scale.

    Raises:
        InputError: an interval downwards, without an end, or not above 0 on a logarithmic scale; a
            range on a logarithmic scale, without a number, or downwards.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(value, str(override.input_line))
    if isinstance(value, RangeSweep):
        if "log" in value.tags:
            raise InputError(
                f"{override.input_line}: a range has even steps; for a logarithmic scale use interval(a, b)"
            )
        numbers: list[Any] = list(value.range())
        if not numbers or value.step <= 0:
            raise InputError(f"{override.input_line}: expected a range of at least one number with a step above 0")
        kind = IntDistribution if isinstance(value.step, int) and isinstance(value.start, int) else FloatDistribution
        # not the last of `numbers`, whose rounding errors add up: Optuna would not reach it
        last = round(numbers[0] + (len(numbers) - 1) * value.step, 12)
        return kind(numbers[0], last, step=value.step)  # type: ignore[arg-type]
    choices: Iterator[Any] = override.sweep_iterator(transformer=Transformer.encode)
    return CategoricalDistribution(list(choices))


def _interval(value: IntervalSweep, text: str) -> BaseDistribution:
    """The distribution of an interval; `text` is the override that has it."""
    low, high, log_scale = value.start or 0, value.end or 0, "log" in value.tags
    if not -math.inf < low <= high < math.inf:  # nor if one is NaN
        raise InputError(f"{text}: expected interval(a, b) with two finite numbers, a not above b")
    if log_scale and low <= 0:
        raise InputError(f"{text}: a logarithmic scale has no {low:g}: expected interval(a, b) with a above 0")
    whole = isinstance(low, int) and isinstance(high, int)
    return (IntDistribution if whole else FloatDistribution)(low, high, log=log_scale)  # type: ignore[arg-type]


def _result(folder: Path, objective: str) -> tuple[float | None, TrialState]:
    """Value and state of the trial whose job is in `folder`."""
    outcome = read_outcome(folder)
    if outcome.ending is Ending.PRUNED:
        return None, TrialState.PRUNED
    if outcome.ending not in (Ending.TRAINED, Ending.DRY_RUN):
        return None, TrialState.FAIL
    if objective not in outcome.metrics:
        known = ", ".join(outcome.metrics)
        raise InputError(f"hydra.sweeper.objective is '{objective}': job {folder.name} has {known}")
    value = outcome.metrics[objective]
    if value is None or math.isnan(value):
        raise InputError(
            f"hydra.sweeper.objective is '{objective}', which is undefined in job {folder.name}:"
            " choose another metric, such as val/monitor"
        )
    return value, TrialState.COMPLETE


def draw(study: optuna.Study, objective: str, path: Path) -> None:
    """search.png: the value of each trial by its number, and by each parameter."""
    from matplotlib.figure import Figure

    trials = study.get_trials(states=(TrialState.COMPLETE,))
    values = [float(trial.value) for trial in trials if trial.value is not None]
    names = sorted({name for trial in trials for name in trial.params})
    figure = Figure(figsize=(3.2 * (len(names) + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    numbers = [trial.number for trial in trials]
    axes[0].plot(numbers, values, "o", markersize=4)
    better = min if direction(objective) == "minimize" else max
    best = [better(values[: end + 1]) for end in range(len(values))]
    axes[0].step(numbers, best, where="post", color="C1")
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel(objective)
    for axis, name in zip(axes[1:], names, strict=True):
        # earlier trials may have had another space
        having = [(trial, value) for trial, value in zip(trials, values, strict=True) if name in trial.params]
        axis.plot([trial.params[name] for trial, _ in having], [value for _, value in having], "o", markersize=4)
        axis.set_xlabel(name)
        space = having[0][0].distributions[name]
        if getattr(space, "log", False):
            axis.set_xscale("log")
        if isinstance(space, CategoricalDistribution):
            axis.tick_params(axis="x", rotation=45)
    figure.savefig(path, dpi=120)
