"""Measures a trained run on a split: metrics of all heads, calibration, metrics by value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from tf4ctr.data.encoding import value_names
from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import DiskStream
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.metrics import auc, auc_by_group, grouped_auc
from tf4ctr.models.network import Network

BINS = 20  # of the calibration error (equal widths) and of the picture (equal numbers of rows)
SHOWN_VALUES = 20  # of a field, on the terminal; they fit on one screen, and the csv file has all of them


class Scores(NamedTuple):
    """The scores of a split's rows, in the file's order.

    Attributes:
        logits: float64 [N] of each head, fused first.
        label: [N].
        group: [N], or None.
        ids: [N, W].
    """

    logits: dict[str, Tensor]
    label: Tensor
    group: Tensor | None
    ids: Tensor


@torch.inference_mode()
def score(network: Network, schema: Schema, prepared_dir: Path, split: str, batch_size: int) -> Scores:
    """Run `network` over a split of a prepared dataset, on a GPU if there is one.

    Raises:
        InputError: the dataset is not prepared, or its schema is not the network's.
    """
    if Schema.load(prepared_dir) != schema:
        raise InputError(
            f"{prepared_dir} has other fields or vocabularies than the run was trained on:"
            " prepare it with the run's settings"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stream, network = DiskStream(prepared_dir, split, batch_size, shuffle_rows=10 * batch_size), network.to(device)
    parts: dict[str, list[Tensor]] = {}
    batches = []
    for batch in track(stream, f"score {split}", transient=True):
        logits = network(batch.ids.to(device))
        heads = {"fused": logits.fused, **(logits.heads() if network.heads else {})}
        for name, logit_B in heads.items():
            parts.setdefault(name, []).append(logit_B.double().cpu())
        batches.append(batch)
    ids, label, group = zip(*batches, strict=True)
    return Scores(
        {name: torch.cat(logits_of_batches) for name, logits_of_batches in parts.items()},
        torch.cat(label),
        torch.cat(group) if schema.group else None,
        torch.cat(ids),
    )


def measure(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """Compute the metrics of a split.

    Args:
        resamples: bootstrap resamples for the intervals; 0 for no intervals.
        seed: of the resamples.

    Returns:
        `auc` and `logloss` of the fused head; `HEAD/auc` and `HEAD/logloss` of the other heads. Of
        the fused head also `gauc` (if the rows have groups), `ece` (calibration error: the mean
        distance of click rate and probability over 20 equal bins), `predicted_over_observed`
        clicks, and the 95 % intervals `auc_low`, `auc_high`, `logloss_low` and `logloss_high`.
    """
    results = {}
    for name, logit_N in scores.logits.items():
        prefix = "" if name == "fused" else f"{name}/"
        results[f"{prefix}auc"] = float(auc(logit_N, scores.label))
        results[f"{prefix}logloss"] = float(_logloss(logit_N, scores.label).mean())
    fused_N = scores.logits["fused"]
    if scores.group is not None:
        results["gauc"] = float(grouped_auc(fused_N, scores.label, scores.group))
    results["ece"] = float(binary_calibration_error(torch.sigmoid(fused_N), scores.label.long(), n_bins=BINS))
    results["predicted_over_observed"] = float(torch.sigmoid(fused_N).sum() / scores.label.sum())
    return results | (_intervals(scores, resamples, seed) if resamples else {})


def _intervals(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """The 95 % intervals of the fused head's AUC and logloss."""
    fused_N = scores.logits["fused"]
    loss_N = _logloss(fused_N, scores.label)
    samples = bootstrap(fused_N.numpy(), scores.label.numpy(), loss_N.numpy(), resamples, seed)
    results: dict[str, float] = {}
    for name, values in zip(("auc", "logloss"), samples.T, strict=True):
        low, high = np.quantile(values, (0.025, 0.975))
        results |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return results


def _logloss(logit_N: Tensor, label_N: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit_N, label_N.to(logit_N.dtype), reduction="none")


def bootstrap(
    score_N: NDArray[Any], label_N: NDArray[Any], loss_N: NDArray[Any], resamples: int, seed: int
) -> NDArray[np.float64]:
    """AUC and mean loss of `resamples` resamples of the rows, [resamples, 2].

    A resample contains each row Poisson(1) times. For the sizes of click logs, this is the same as
    drawing as many rows with replacement, and the rows are sorted only once.
    """
    order = np.argsort(score_N)
    label, loss = label_N[order].astype(np.float64), loss_N[order]
    ties = np.flatnonzero(np.diff(score_N[order], prepend=np.nan) != 0)  # first row of each run of equal scores
    random, samples = np.random.default_rng(seed), np.empty((resamples, 2))
    for number in range(resamples):
        times = random.poisson(1.0, len(label)).astype(np.float64)
        positive, rows = np.add.reduceat(times * label, ties), np.add.reduceat(times, ties)
        negative = rows - positive
        below = np.cumsum(negative) - negative / 2  # a tie counts half
        samples[number] = (positive @ below) / (positive.sum() * negative.sum()), (times @ loss) / times.sum()
    return samples


def check_field(field: str, schema: Schema) -> None:
    """Check the name of a field.

    Raises:
        InputError: the dataset has no field of this name.
    """
    names = [known.name for known in schema.fields]
    if field not in names:
        raise InputError(f"by={field}: {schema.dataset} has no such field, {did_you_mean(field, names)}")


def by_value(scores: Scores, schema: Schema, field: str, folder: Path) -> pl.DataFrame:
    """Measure each value of a field.

    Args:
        folder: `vocabulary/` of the run.

    Returns:
        One row per value, most frequent first: `value`, `rows`, `click_rate`, `predicted` (mean
        probability), `predicted_over_observed`, `auc` (null if a class is missing). A row with a
        list counts for each of its values.

    Raises:
        InputError: the dataset has no field of this name.
    """
    check_field(field, schema)
    ids_NW = scores.ids[:, schema.ids_of(field)] - schema.offset_of(field)
    width = ids_NW.shape[1]
    ids, fused, label = ids_NW.T.flatten(), scores.logits["fused"].repeat(width), scores.label.repeat(width)
    if width > 1:
        values = ids != 0  # the rest is padding
        ids, fused, label = ids[values], fused[values], label[values]
    auc_of_id, _, _ = auc_by_group(fused, label, ids)
    rows = pl.DataFrame({"id": ids.numpy(), "p": torch.sigmoid(fused).numpy(), "label": label.numpy()})
    summary = (
        rows.group_by("id")
        .agg(
            rows=pl.len(),
            click_rate=pl.col("label").mean(),
            predicted=pl.col("p").mean(),
            predicted_over_observed=pl.col("p").sum() / pl.col("label").sum(),
        )
        .sort("id")
        .with_columns(auc=pl.Series(auc_of_id.numpy()).fill_nan(None))
        .sort("rows", "id", descending=[True, False])
    )
    return summary.select(value_names(field, folder)[summary["id"]].alias("value"), pl.exclude("id"))


def extremes(scores: Scores, schema: Schema, count: int, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The `count` hardest rows and the `count` easiest rows, the most extreme first.

    Args:
        folder: `vocabulary/` of the run.

    Returns:
        Two frames with `row` (from 1, in the split), `label`, `q` (the fused head's probability of
        the true class), `q_simple`, ... of the other heads, and the value of each field. The values
        of a list are joined by `|`.
    """
    sign_N = 2 * scores.label.double() - 1
    q = {
        "q" if name == "fused" else f"q_{name}": torch.sigmoid(sign_N * logit_N).numpy()
        for name, logit_N in scores.logits.items()
    }
    order = torch.argsort(sign_N * scores.logits["fused"], stable=True)

    def rows(chosen: Tensor) -> pl.DataFrame:
        columns: dict[str, Any] = {"row": (chosen + 1).numpy(), "label": scores.label[chosen].int().numpy()}
        columns |= {name: q_N[chosen.numpy()] for name, q_N in q.items()}
        return pl.DataFrame(columns | _values(scores.ids[chosen], schema, folder))

    return rows(order[:count]), rows(order.flip(0)[:count])


def _values(ids_NW: Tensor, schema: Schema, folder: Path) -> dict[str, list[str]]:
    """The values of each field as text; those of a list are joined by `|`."""
    columns = {}
    for field in schema.fields:
        names = value_names(field.name, folder)
        rows = (ids_NW[:, schema.ids_of(field.name)].long() - schema.offset_of(field.name)).tolist()
        columns[field.name] = ["|".join(names[number] for number in row if number or field.width == 1) for row in rows]
    return columns


def rows_table(title: str, rows: pl.DataFrame) -> Table:
    """The rows that `extremes` returns. All fields share one column: a terminal is narrow."""
    table = Table(title=title, title_justify="left")
    measured = [name for name in rows.columns if name in ("row", "label", "q") or name.startswith("q_")]
    for name in measured:
        table.add_column(name, justify="right")
    table.add_column("values", overflow="fold")
    for row in rows.iter_rows(named=True):
        cells = [f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in measured]
        table.add_row(*cells, "  ".join(f"{name}={value}" for name, value in row.items() if name not in measured))
    return table


def metrics_table(title: str, results: Mapping[str, float]) -> Table:
    """One row per metric, with its interval if it has one."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric", style="bold")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in results.items():
        if not name.endswith(("_low", "_high")):
            interval = (
                f"{results[f'{name}_low']:.6f} to {results[f'{name}_high']:.6f}" if f"{name}_low" in results else ""
            )
            table.add_row(name, f"{value:.6f}", interval)
    return table


def values_table(field: str, values: pl.DataFrame) -> Table:
    """The most frequent values of a field."""
    title = f"by {field}" + (f": {SHOWN_VALUES} of {len(values):,} values" if len(values) > SHOWN_VALUES else "")
    table = Table(title=title, title_justify="left")
    for name in values.columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "value" else "right")
    for value, rows, *rates in values.head(SHOWN_VALUES).iter_rows():
        table.add_row(value, f"{rows:,}", *("" if rate is None else f"{rate:.5f}" for rate in rates))
    return table


def draw_reliability(scores: Scores, path: Path) -> None:
    """Draw click rate against probability for every head, in bins with equal numbers of rows.

    On the diagonal a head is right on average.
    """
    from matplotlib.figure import Figure  # importing it takes most of a second

    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, logit_N in scores.logits.items():
        order = torch.argsort(logit_N)
        bins = [part for part in order.tensor_split(BINS) if len(part)]
        predicted = [float(torch.sigmoid(logit_N[part]).mean()) for part in bins]
        axis.plot(predicted, [float(scores.label[part].mean()) for part in bins], marker=".", label=name)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("click rate")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
