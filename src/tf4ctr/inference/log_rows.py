"""Measures trained runs on raw rows with labels, through `prediction`."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from tf4ctr.data import faults
from tf4ctr.data.readers import check_columns
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.transforms import finite
from tf4ctr.errors import InputError, check_whole
from tf4ctr.inference.ensemble_metrics import measure_runs
from tf4ctr.inference.evaluation import Scores, measure
from tf4ctr.inference.input_rows import prepared_values
from tf4ctr.inference.members import Member, head_names
from tf4ctr.inference.prediction import predict, predict_frame

SMALLEST = 1e-7  # probabilities are float32: nearer to 0 and 1 a logloss would be infinite


def measure_rows(run: Path, spec: DatasetSpec, sources: Iterable[Path]) -> dict[str, float]:
    """AUC and logloss, and gAUC if the dataset names a group, of a run on raw rows.

    The values are those of `evaluation.measure`. A value that the run does not know is out of
    vocabulary, and histories are those that the run has kept, up to the moment of each row.

    Args:
        run: folder of a trained run.
        spec: its dataset; says what the label, the group and the weight are.
        sources: parquet files with the raw columns.

    Raises:
        InputError: see `predict`.
    """
    frames = []
    with tempfile.TemporaryDirectory(prefix="tf4ctr-") as scratch:
        for source in sources:
            predict(run, source, Path(scratch) / "scored.parquet")
            frames.append(pl.read_parquet(Path(scratch) / "scored.parquet").select("p", *_measured_columns(spec)))
    rows = pl.concat(frames)
    p = rows["p"].cast(pl.Float64).clip(SMALLEST, 1 - SMALLEST).to_torch()
    results = measure(_scores({"fused": torch.logit(p)}, rows), resamples=0, seed=0)
    return {name: results[name] for name in ("auc", "logloss", "gauc") if name in results}


def measure_frame(members: Sequence[Member], frame: pl.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    """All metrics of `measure_runs` on the rows of a frame, with all heads.

    Args:
        members: the run, or those of an ensemble. The first one's dataset says what the label, the
            group and the weight are.
        frame: rows with the raw columns, and those of label, group and weight.
        resamples, seed: see `measure_runs`.

    Raises:
        InputError: see `predict_frame`; a label or a weight is invalid, or so are `resamples` or
            `seed`.
    """
    check_whole("bootstrap", resamples, 0)
    check_whole("seed", seed, 0)
    rows = _checked(members[0].spec, frame)
    scored, _ = predict_frame(members, frame, heads=True, logits=True)
    heads = {"p": "fused", **{f"p_{name}": name for name in head_names(members)}}
    logits = {head: scored[name].cast(pl.Float64).to_torch() for name, head in heads.items()}
    return measure_runs(_scores(logits, rows), len(members), resamples, seed)


def _checked(spec: DatasetSpec, frame: pl.DataFrame) -> pl.DataFrame:
    """The `_measured_columns` of a frame.

    Raises:
        InputError: one is missing or a list, or a label or a weight is invalid.
    """
    own = [spec.label, *([spec.group] if spec.group else []), *([str(spec.weight)] if spec.weighted_metrics else [])]
    check_columns("frame", frame.schema, own)
    for name in own:
        if frame.schema[name].is_nested():
            raise InputError(f"frame: column '{name}' is {frame.schema[name]}, expected one value per row")
    rows = frame.select(prepared_values(spec, frame.schema, list(dict.fromkeys(own))))
    checks = [faults.label_check(spec), *([faults.weight_check(str(spec.weight))] if spec.weighted_metrics else [])]
    for check in checks:
        invalid = rows.select(check.invalid).to_series().arg_true()
        if len(invalid):
            found = rows[check.column][invalid[0]]
            raise InputError(
                f"frame, row {invalid[0] + 1} (counted from 1): column '{check.column}' is {found!r}, expected"
                f" {check.expected}"
            )
    return rows.select(_measured_columns(spec))


def _measured_columns(spec: DatasetSpec) -> list[pl.Expr]:
    """Label, group and weight of raw rows."""
    columns = [faults.label(spec).cast(pl.Float32).alias("__label")]
    columns += [pl.col(spec.group).cast(pl.String).alias("__group")] if spec.group else []
    columns += [finite(pl.col(str(spec.weight))).alias("__weight")] if spec.weighted_metrics else []
    return columns


def _scores(logits: dict[str, Tensor], rows: pl.DataFrame) -> Scores:
    """The scores of rows with `_measured_columns`."""
    has_group, has_weight = "__group" in rows.columns, "__weight" in rows.columns
    group = rows["__group"].rank("dense").fill_null(0).cast(pl.Int64).to_torch() if has_group else None
    weight = rows["__weight"].to_torch() if has_weight else None
    return Scores(logits, rows["__label"].to_torch(), group, torch.empty(0), weight=weight)
