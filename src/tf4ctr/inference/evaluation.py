"""Scores a trained run on a split and measures it: metrics of all heads, calibration."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from torch import Tensor

from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import Batch, DiskStream
from tf4ctr.errors import InputError
from tf4ctr.inference.bootstrap import Measure, Ranking, bootstrap, mean
from tf4ctr.metrics import auc, grouped_auc
from tf4ctr.models.network import Network
from tf4ctr.training.head_colours import head_colours

log = logging.getLogger(__name__)

BINS = 20  # of the calibration error (equal widths) and of the picture (equal numbers of rows)


class Scores(NamedTuple):
    """The scores of a split's rows, in the file's order.

    Attributes:
        logits: float64 [N] of each head, fused first.
        label: [N].
        group: [N], or None.
        ids: [N, W].
        numbers: scaled, NaN where missing, [N, numbers], or None for a dataset without numbers.
        weight: [N], or None if all rows count alike in the metrics.
    """

    logits: dict[str, Tensor]
    label: Tensor
    group: Tensor | None
    ids: Tensor
    numbers: Tensor | None = None
    weight: Tensor | None = None

    def number(self, schema: Schema, name: str) -> NDArray[np.float32]:
        """The scaled values of a number, [N]."""
        assert self.numbers is not None
        return self.numbers[:, schema.number_columns.index(name)].numpy()


@torch.inference_mode()
def score(
    network: Network, schema: Schema, prepared_dir: Path, split: str, batch_size: int, weighted: bool = False
) -> Scores:
    """Run `network` over a split of a prepared dataset, on a GPU if there is one.

    Args:
        weighted: whether the rows count their weights in the metrics.

    Raises:
        InputError: the dataset is not prepared, or its schema is not the network's.
    """
    prepared = Schema.load(prepared_dir)
    if prepared != schema:
        raise InputError(
            f"{prepared_dir} has other fields or vocabularies than the run was trained on. Take back what was changed"
            " in the dataset's yaml or files, or prepare the earlier ones into a folder of their own with"
            " dataset.prepared_dir="
        )
    if not prepared.has_rows_of(schema):
        raise InputError(
            f"{prepared_dir} has other rows or other known values than the run was trained on: it was prepared again,"
            " with another label condition, split or min_count, or from other files. So its test rows may be training"
            " rows of the run. Prepare the earlier ones again, into a folder of their own, and name it with"
            " prepared_dir="
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stream, network = DiskStream(prepared_dir, split, batch_size, shuffle_rows=10 * batch_size), network.to(device)
    parts: dict[str, list[Tensor]] = {}
    batches = []
    for batch in track(stream, f"score {split}", transient=True):
        numbers = None if batch.numbers is None else batch.numbers.to(device)
        of_head = network.by_head(network(batch.ids.to(device), numbers))
        for name, logit_B in of_head.items():
            parts.setdefault(name, []).append(logit_B.double().cpu())
        batches.append(batch)
    rows = Batch(*(None if column[0] is None else torch.cat(column) for column in zip(*batches, strict=True)))  # type: ignore[arg-type]
    return Scores(
        {name: torch.cat(logits_of_batches) for name, logits_of_batches in parts.items()},
        rows.label,
        rows.group,
        rows.ids,
        rows.numbers,
        rows.weight if weighted else None,
    )


def measure(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """Compute the metrics of a split.

    Args:
        resamples: bootstrap resamples for the intervals; 0 for no intervals.
        seed: of the resamples.

    Returns:
        `auc` and `logloss` of the fused head; `HEAD/auc` and `HEAD/logloss` of the other heads. Of
        the fused head also `gauc` (if the rows have groups), `ece` (see `calibration_error`) and
        `predicted_over_observed` clicks. The 95 % intervals of each AUC, logloss and gAUC are
        `auc_low`, `auc_high`, ... All of them are weighted if the rows have weights.
    """
    results = {}
    label_N, weight_N = scores.label, scores.weight
    for name, logit_N in scores.logits.items():
        prefix = "" if name == "fused" else f"{name}/"
        results[f"{prefix}auc"] = float(auc(logit_N, label_N, weight_N))
        results[f"{prefix}logloss"] = float(_mean(_logloss(logit_N, label_N), weight_N))
    fused_N = scores.logits["fused"]
    if scores.group is not None:
        results["gauc"] = float(grouped_auc(fused_N, label_N, scores.group, weight_N))
    p_N = torch.sigmoid(fused_N)
    results["ece"] = float(calibration_error(p_N, label_N, weight_N))
    results["predicted_over_observed"] = float(_weighted(p_N, weight_N).sum() / _weighted(label_N, weight_N).sum())
    return results | (intervals(scores, _measures(scores), resamples, seed) if resamples else {})


def _weighted(values_N: Tensor, weight_N: Tensor | None) -> Tensor:
    return values_N if weight_N is None else values_N * weight_N.double()


def _mean(values_N: Tensor, weight_N: Tensor | None) -> Tensor:
    return values_N.mean() if weight_N is None else _weighted(values_N, weight_N).sum() / weight_N.double().sum()


def calibration_error(p_N: Tensor, label_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """The mean distance of click rate and mean probability over 20 equal bins of the probability.

    Each bin counts its share of the rows (Naeini et al., AAAI 2015). torchmetrics'
    `binary_calibration_error` is the same without weights.

    Args:
        p_N: probabilities, float64 [N].
        label_N: 0 or 1, [N].
        weight_N: of the rows, [N]; None for equal ones.

    Returns:
        float64 scalar; NaN if a probability is NaN.
    """
    if p_N.isnan().any():
        return p_N.new_tensor(torch.nan)
    count_N = torch.ones_like(p_N) if weight_N is None else weight_N.double()
    limits = torch.linspace(0, 1, BINS + 1, dtype=p_N.dtype)
    bin_N = torch.bucketize(p_N, limits, right=True) - 1

    def totals(values_N: Tensor) -> Tensor:
        return torch.zeros_like(limits).scatter_add_(0, bin_N, values_N)

    rows = totals(count_N)
    distance = torch.nan_to_num(totals(label_N * count_N) / rows) - torch.nan_to_num(totals(p_N * count_N) / rows)
    return (distance.abs() * (rows / rows.sum())).sum()


def _measures(scores: Scores) -> dict[str, Measure]:
    """AUC and logloss of all heads, and gAUC."""
    measures: dict[str, Measure] = {}
    for name, logit_N in scores.logits.items():
        prefix, is_grouped = ("", scores.group is not None) if name == "fused" else (f"{name}/", False)
        own = measures_of(scores, logit_N, is_grouped)
        measures |= {f"{prefix}{metric}": measure for metric, measure in own.items()}
    return measures


def measures_of(scores: Scores, logit_N: Tensor, is_grouped: bool) -> dict[str, Measure]:
    """`auc` and `logloss` of logits for the rows of `scores`, and `gauc` if `is_grouped`."""
    label_N = scores.label.numpy()
    measures: dict[str, Measure] = {
        "auc": Ranking(logit_N.numpy(), label_N).auc,
        "logloss": mean(_logloss(logit_N, scores.label).numpy()),
    }
    if is_grouped and scores.group is not None:
        # float32 as `grouped_auc` takes it
        measures["gauc"] = Ranking(logit_N.float().numpy(), label_N, scores.group.numpy()).auc
    return measures


def intervals(scores: Scores, measures: Mapping[str, Measure], resamples: int, seed: int) -> dict[str, float]:
    """The 95 % intervals of measures, `NAME_low` and `NAME_high`, see `bootstrap`.

    Resamples without a positive row, or a negative one, have no AUC: the interval is of the others.
    """
    weight_N = None if scores.weight is None else scores.weight.double().numpy()
    has_nan = any(bool(logit_N.isnan().any()) for logit_N in scores.logits.values())
    results: dict[str, float] = {}
    for name, values in bootstrap(measures, len(scores.label), resamples, seed, weight_N).items():
        if undefined := int(np.isnan(values).sum()):
            log.warning(
                "%s: %s of %s resamples have %s; its interval is of the others",
                *(name, f"{undefined:,}", f"{resamples:,}", _why_undefined(name, has_nan)),
            )
        low, high = np.quantile(values[~np.isnan(values)], (0.025, 0.975)) if undefined < resamples else (np.nan,) * 2
        results |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return results


def _why_undefined(name: str, has_nan: bool) -> str:
    """What resamples without a measure have: only AUC and gAUC need rows of both labels."""
    if has_nan:
        return "rows for which the network's output is NaN"
    return "rows of one label only" if name.endswith("auc") else "no rows that count"


def _logloss(logit_N: Tensor, label_N: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit_N, label_N.to(logit_N.dtype), reduction="none")


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


def reliability(scores: Scores) -> pl.DataFrame:
    """Click rate and probability of each head, in up to 20 bins with equal numbers of rows.

    Returns:
        `head`, `rows` in the bin, and the means over these rows, weighted if they have weights:
        `predicted` probability and `clicked`. A bin whose rows all have weight 0 is left out.
    """
    points = []
    for name, logit_N in scores.logits.items():
        p_N = torch.sigmoid(logit_N)
        for part in (part for part in torch.argsort(logit_N).tensor_split(BINS) if len(part)):
            weight = None if scores.weight is None else scores.weight[part]
            if weight is not None and not weight.sum():
                continue  # no row counts
            predicted, clicked = float(_mean(p_N[part], weight)), float(_mean(scores.label[part], weight))
            points.append({"head": name, "rows": len(part), "predicted": predicted, "clicked": clicked})
    return pl.DataFrame(points)


def draw_reliability(points: pl.DataFrame, path: Path) -> None:
    """Draw what `reliability` returns; on the diagonal a head is right on average."""
    from matplotlib.figure import Figure  # importing it takes most of a second

    heads = points["head"].unique(maintain_order=True).to_list()
    colours = head_colours(heads)
    figure = Figure(figsize=(4.8, 4.7), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for head in heads:
        line = points.filter(head=head)
        axis.plot(line["predicted"], line["clicked"], marker=".", color=colours[head], label=head)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("click rate")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(4, len(heads)))
    figure.savefig(path, dpi=120)
