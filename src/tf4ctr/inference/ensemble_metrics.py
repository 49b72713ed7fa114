"""Scores several runs on a split as one ensemble, and measures what it gains over them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from omegaconf import DictConfig

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.inference.bootstrap import Measure
from tf4ctr.inference.evaluation import Scores, intervals, measure, measures_of, score
from tf4ctr.inference.members import ensemble_of
from tf4ctr.models.network import Network

LoadedRun = tuple[Network, Schema, DictConfig]  # as `load_run` returns it


def check_same_data(runs: Mapping[Path, LoadedRun], is_moved: bool) -> None:
    """Check that all runs were trained on the same prepared dataset.

    Args:
        runs: by their folders.
        is_moved: whether the user names the folder of the dataset, so that those of the runs do not
            matter.

    Raises:
        InputError: a run has another folder of the dataset, other fields, another vocabulary, or
            other weights of the rows; names it.
    """
    (first, (_, schema, trained)), *others = runs.items()
    for folder, (_, other_schema, other) in others:
        for option in ("weighted_metrics", *([] if is_moved else ["prepared_dir"])):
            here, there = (config.dataset.get(option, False) for config in (trained, other))
            if here != there:
                _refuse(first, folder, f"dataset.{option} is {here} and {there}")
        fields = _differing_fields(schema, other_schema)
        fields = fields or _differing_values(first / "vocabulary", folder / "vocabulary")
        if fields:
            _refuse(first, folder, f"these fields differ: {', '.join(fields)}")
        if schema != other_schema:
            _refuse(first, folder, "the name of the dataset, the label, the group or the order of the fields differs")
        if not schema.has_rows_of(other_schema):
            _refuse(first, folder, "it was prepared again in between, with other rows")


def _refuse(first: Path, other: Path, reason: str) -> None:
    raise InputError(
        f"run=: {first} and {other} were not trained on the same prepared dataset: {reason}. An ensemble is measured"
        " on rows that all its runs have; prepared_dir=FOLDER names them if they have moved"
    )


def _differing_fields(schema: Schema, other: Schema) -> list[str]:
    """Names of the fields that only one schema has, or that differ."""
    here, there = ({field.name: field for field in one.fields} for one in (schema, other))
    return [name for name in {**here, **there} if here.get(name) != there.get(name)]


def _differing_values(folder: Path, other: Path) -> list[str]:
    """Names of the fields whose known values differ."""
    return [path.stem for path in sorted(folder.glob("*.parquet")) if not _same_values(path, other / path.name)]


def _same_values(path: Path, other: Path) -> bool:
    if not other.exists():
        return False
    return path.samefile(other) or pl.read_parquet(path).equals(pl.read_parquet(other))


def score_runs(runs: Sequence[LoadedRun], prepared_dir: Path, split: str, batch_size: int, weighted: bool) -> Scores:
    """The scores of a run on a split, or of an ensemble, whose heads are its runs.

    The runs are scored one after the other, so that a GPU has one of them at a time.

    Args:
        runs: that `check_same_data` accepts.
        prepared_dir, split, batch_size, weighted: see `evaluation.score`.
    """
    fused = []
    for network, schema, _ in runs:
        scores = score(network, schema, prepared_dir, split, batch_size, weighted)
        if len(runs) == 1:
            return scores
        fused.append(scores.logits["fused"])
        network.cpu()
    return scores._replace(logits=ensemble_of(fused))


def measure_runs(scores: Scores, count: int, resamples: int, seed: int) -> dict[str, float]:
    """The metrics of the scores of one run, see `measure`; of several also their `gains`.

    Args:
        scores: of `score_runs`.
        count: number of runs.
        resamples, seed: see `measure`.
    """
    results = measure(scores, resamples, seed)
    return results | (gains(scores, resamples, seed) if count > 1 else {})


def gains(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """The metrics of an ensemble minus the mean of those of its runs.

    A positive gain of AUC and gAUC, and a negative one of logloss, is better.

    Args:
        scores: of an ensemble.
        resamples: bootstrap resamples for the intervals; 0 for no intervals. Ensemble and runs are
            measured on the same resamples.
        seed: of the resamples.

    Returns:
        `gain/auc`, `gain/logloss`, `gain/gauc` (if the rows have groups), their 95 % intervals
        `gain/auc_low`, ..., and `run_1/gauc`, ... of the runs.
    """
    weight_N = np.ones(len(scores.label)) if scores.weight is None else scores.weight.double().numpy()
    is_grouped = scores.group is not None
    of_heads = {name: measures_of(scores, logit_N, is_grouped) for name, logit_N in scores.logits.items()}
    fused, runs = of_heads["fused"], {name: own for name, own in of_heads.items() if name != "fused"}
    measures = {f"gain/{metric}": _gain(fused[metric], [run[metric] for run in runs.values()]) for metric in fused}
    results = {f"{name}/gauc": run["gauc"](weight_N) for name, run in runs.items() if "gauc" in run}
    results |= {name: measure(weight_N) for name, measure in measures.items()}
    return results | (intervals(scores, measures, resamples, seed) if resamples else {})


def _gain(fused: Measure, runs: Sequence[Measure]) -> Measure:
    def gain(times_N: NDArray[np.float64]) -> float:
        return fused(times_N) - float(np.mean([run(times_N) for run in runs]))

    return gain
