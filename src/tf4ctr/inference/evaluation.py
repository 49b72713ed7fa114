"""A trained run on a split: metrics of every head with bootstrap intervals, calibration, and all of it by the values of a field."""

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
from tf4ctr.metrics import auc, grouped_auc
from tf4ctr.models.network import Network

BINS = 20  # of the calibration error (equal widths) and of the picture (equal numbers of rows)
SHOWN_VALUES = 20


class Scores(NamedTuple):
    """What a network says of a split's rows, in the file's order: `logits` [N] float64 by head, fused first; `label` [N]; `group` [N] or
    None; `ids` [N, W]."""

    logits: dict[str, Tensor]
    label: Tensor
    group: Tensor | None
    ids: Tensor


@torch.inference_mode()
def score(network: Network, schema: Schema, prepared_dir: Path, split: str, batch_size: int) -> Scores:
    """Run `network` over a split of a prepared dataset, on a GPU where there is one.

    Raises:
        InputError: the dataset is not prepared, or otherwise than the network's.
    """
    if Schema.load(prepared_dir) != schema:
        raise InputError(
            f"{prepared_dir} has other fields or vocabularies than the run was trained on: prepare it with the run's settings"
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
        {name: torch.cat(each) for name, each in parts.items()},
        torch.cat(label),
        torch.cat(group) if schema.group else None,
        torch.cat(ids),
    )


def measure(scores: Scores, resamples: int, seed: int) -> dict[str, float]:
    """AUC and logloss of every head, fused ones without a prefix; of the fused head gAUC, the calibration error `ece` (mean distance of
    click rate and probability over 20 equal bins), `predicted_over_observed` clicks, and 95 % intervals of AUC and logloss, `..._low` and
    `..._high`, from `resamples` bootstrap resamples (none where it is 0)."""
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
    if resamples:
        found = bootstrap(
            fused_N.numpy(), scores.label.numpy(), _logloss(fused_N, scores.label).numpy(), resamples, seed
        )
        for name, values in zip(("auc", "logloss"), found.T, strict=True):
            results[f"{name}_low"], results[f"{name}_high"] = (
                float(each) for each in np.quantile(values, (0.025, 0.975))
            )
    return results


def _logloss(logit_N: Tensor, label_N: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit_N, label_N.to(logit_N.dtype), reduction="none")


def bootstrap(
    score_N: NDArray[Any], label_N: NDArray[Any], loss_N: NDArray[Any], resamples: int, seed: int
) -> NDArray[np.float64]:
    """AUC and mean loss of `resamples` resamples of the rows, [resamples, 2].

    Each row stands in a resample Poisson(1) times, which at the size of click logs is drawing as many rows with replacement; so the rows
    are sorted once.
    """
    order = np.argsort(score_N)
    label, loss = label_N[order].astype(np.float64), loss_N[order]
    ties = np.flatnonzero(np.diff(score_N[order], prepend=np.nan) != 0)  # where each run of equal scores begins
    random, found = np.random.default_rng(seed), np.empty((resamples, 2))
    for number in range(resamples):
        times = random.poisson(1.0, len(label)).astype(np.float64)
        positive, every = np.add.reduceat(times * label, ties), np.add.reduceat(times, ties)
        negative = every - positive
        below = np.cumsum(negative) - negative / 2  # a tie counts half
        found[number] = (positive @ below) / (positive.sum() * negative.sum()), (times @ loss) / times.sum()
    return found


def check_field(field: str, schema: Schema) -> int:
    """The field's number.

    Raises:
        InputError: there is no such field.
    """
    names = [each.name for each in schema.fields]
    if field not in names:
        raise InputError(f"by={field}: {schema.dataset} has no such field, {did_you_mean(field, names)}")
    return names.index(field)


def by_value(scores: Scores, schema: Schema, field: str, folder: Path) -> pl.DataFrame:
    """One row a value of `field`, most frequent first: `value`, `rows`, `click_rate`, `predicted` (mean probability),
    `predicted_over_observed`, `auc` (null where a class is missing). A row with a list counts for each of its values.

    Args:
        folder: `vocabulary/` of the run.

    Raises:
        InputError: there is no such field.
    """
    number = check_field(field, schema)
    first = sum(each.width for each in schema.fields[:number])
    ids_NW = scores.ids[:, first : first + schema.fields[number].width] - schema.offsets[number]
    probability = torch.sigmoid(scores.logits["fused"])
    columns = [
        pl.DataFrame(
            {
                "id": ids.numpy(),
                "score": scores.logits["fused"].numpy(),
                "p": probability.numpy(),
                "label": scores.label.numpy(),
            }
        )
        for ids in ids_NW.unbind(1)
    ]
    rows = pl.concat(columns)
    if len(columns) > 1:
        rows = rows.filter(pl.col("id") != 0)  # padding behind a list's values
    clicks, count = pl.col("label").sum(), pl.len().cast(pl.Float64)
    area = ((pl.col("rank") * pl.col("label")).sum() - clicks * (clicks + 1) / 2) / (
        clicks * (count - clicks)
    )  # Mann and Whitney
    summary = (
        rows.with_columns(pl.col("score").rank().over("id").alias("rank"))
        .group_by("id")
        .agg(
            rows=pl.len(),
            click_rate=pl.col("label").mean(),
            predicted=pl.col("p").mean(),
            predicted_over_observed=pl.col("p").sum() / clicks,
            auc=pl.when((clicks > 0) & (clicks < count)).then(area),
        )
        .sort("rows", "id", descending=[True, False])
    )
    return summary.select(value_names(field, folder)[summary["id"]].alias("value"), pl.exclude("id"))


def extremes(scores: Scores, schema: Schema, count: int, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The `count` hardest rows and the easiest ones, the extreme ones first: `row` (from 1, of the split), `label`, `q` (the probability
    that the fused head gives to the true class), `q_simple`, ... of the other heads, and every field's value, a list's joined by `|`.

    Args:
        folder: `vocabulary/` of the run.
    """
    sign = 2 * scores.label.double() - 1
    q = {
        "q" if name == "fused" else f"q_{name}": torch.sigmoid(sign * logit).numpy()
        for name, logit in scores.logits.items()
    }
    order = torch.argsort(sign * scores.logits["fused"], stable=True)
    names = {field.name: value_names(field.name, folder) for field in schema.fields}

    def rows(chosen: Tensor) -> pl.DataFrame:
        columns: dict[str, Any] = {"row": (chosen + 1).numpy(), "label": scores.label[chosen].int().numpy()}
        columns |= {name: each[chosen.numpy()] for name, each in q.items()}
        ids, first = scores.ids[chosen].long(), 0
        for field, offset in zip(schema.fields, schema.offsets, strict=True):
            values = (ids[:, first : first + field.width] - offset).tolist()
            columns[field.name] = [
                "|".join(names[field.name][each] for each in row if each or field.width == 1) for row in values
            ]
            first += field.width
        return pl.DataFrame(columns)

    return rows(order[:count]), rows(order.flip(0)[:count])


def rows_table(title: str, rows: pl.DataFrame) -> Table:
    """Single rows, as `extremes` gives them; the fields' values in one column, or a terminal's width would not hold them."""
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
    """A row each metric, with its interval where there is one."""
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
    """Click rate against probability in bins of equally many rows, for every head; on the diagonal a head is right on average."""
    from matplotlib.figure import Figure  # not at the top: most of a second

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
