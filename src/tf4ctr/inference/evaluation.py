"""Scores a trained run on a split and measures it: metrics of all heads, calibration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from torch import Tensor

from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import Batch, DiskStream
from tf4ctr.errors import InputError
from tf4ctr.metrics import auc, grouped_auc
from tf4ctr.models.network import Network

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
        numbers = None if batch.numbers is None else batch.numbers.to(device)
        logits = network(batch.ids.to(device), numbers)
        heads = {"fused": logits.fused, **(logits.heads() if network.heads else {})}
        for name, logit_B in heads.items():
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
        the fused head also `gauc` (if the rows have groups), `ece` (see `calibration_error`),
        `predicted_over_observed` clicks, and the 95 % intervals `auc_low`, `auc_high`,
        `logloss_low` and `logloss_high`. All of them are weighted if the rows have weights.
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
    return results | (_intervals(scores, resamples, seed) if resamples else {})


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
    """
    count_N = torch.ones_like(p_N) if weight_N is None else weight_N.double()
    limits = torch.linspace(0, 1, BINS + 1, dtype=p_N.dtype)
    bin_N = torch.bucketize(p_N, limits, right=True) - 1

    def totals(values_N: Tensor) -> Tensor:
        return torch.zeros_like(limits).scatter_add_(0, bin_N, values_N)

    rows = totals(count_N)
    distance = torch.nan_to_num(totals(label_N * count_N) / rows) - torch.nan_to_num(totals(p_N * count_N) / rows)
    return (distance.abs() * (rows / rows.sum())).sum()


def _intervals(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """The 95 % intervals of the fused head's AUC and logloss."""
    fused_N = scores.logits["fused"]
    loss_N = _logloss(fused_N, scores.label)
    weight_N = None if scores.weight is None else scores.weight.numpy()
    samples = bootstrap(fused_N.numpy(), scores.label.numpy(), loss_N.numpy(), resamples, seed, weight_N)
    results: dict[str, float] = {}
    for name, values in zip(("auc", "logloss"), samples.T, strict=True):
        low, high = np.quantile(values, (0.025, 0.975))
        results |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return results


def _logloss(logit_N: Tensor, label_N: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit_N, label_N.to(logit_N.dtype), reduction="none")


def bootstrap(
    score_N: NDArray[Any],
    label_N: NDArray[Any],
    loss_N: NDArray[Any],
    resamples: int,
    seed: int,
    weight_N: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """AUC and mean loss of `resamples` resamples of the rows, [resamples, 2].

    A resample contains each row Poisson(1) times. For the sizes of click logs, this is the same as
    drawing as many rows with replacement, and the rows are sorted only once. With weights both
    figures are weighted.
    """
    order = np.argsort(score_N)
    weight = None if weight_N is None else weight_N[order].astype(np.float64)
    label, loss = label_N[order].astype(np.float64), loss_N[order]
    ties = np.flatnonzero(np.diff(score_N[order], prepend=np.nan) != 0)  # first row of each run of equal scores
    random, samples = np.random.default_rng(seed), np.empty((resamples, 2))
    for number in range(resamples):
        times = random.poisson(1.0, len(label)).astype(np.float64)
        times = times if weight is None else times * weight
        positive, rows = np.add.reduceat(times * label, ties), np.add.reduceat(times, ties)
        negative = rows - positive
        below = np.cumsum(negative) - negative / 2  # a tie counts half
        samples[number] = (positive @ below) / (positive.sum() * negative.sum()), (times @ loss) / times.sum()
    return samples


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
        weights = [None if scores.weight is None else scores.weight[part] for part in bins]
        predicted, clicked = (
            [float(_mean(values_N[part], weight)) for part, weight in zip(bins, weights, strict=True)]
            for values_N in (torch.sigmoid(logit_N), scores.label)
        )
        axis.plot(predicted, clicked, marker=".", label=name)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("click rate")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
