"""Measures a trained run on raw rows with labels, through `prediction`."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import torch

from tf4ctr.data import faults
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.transforms import finite
from tf4ctr.inference.evaluation import Scores, measure
from tf4ctr.inference.prediction import predict

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
            scored = pl.read_parquet(Path(scratch) / "scored.parquet")
            columns = [pl.col("p").cast(pl.Float64), faults.label(spec).cast(pl.Float32).alias("__label")]
            columns += [pl.col(spec.group).cast(pl.String).alias("__group")] if spec.group else []
            columns += [finite(pl.col(str(spec.weight))).alias("__weight")] if spec.weighted_metrics else []
            frames.append(scored.select(columns))
    rows = pl.concat(frames)
    p = rows["p"].clip(SMALLEST, 1 - SMALLEST).to_torch()
    scores = Scores(
        {"fused": torch.logit(p)},
        rows["__label"].to_torch(),
        rows["__group"].rank("dense").fill_null(0).cast(pl.Int64).to_torch() if spec.group else None,
        torch.empty(0),
        weight=rows["__weight"].to_torch() if spec.weighted_metrics else None,
    )
    results = measure(scores, resamples=0, seed=0)
    return {name: results[name] for name in ("auc", "logloss", "gauc") if name in results}
