"""curves.png: loss and metrics of a training over its epochs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import polars as pl
from lightning.pytorch.utilities import rank_zero_only

from tf4ctr.training.head_colours import head_colours

TERMS = "training loss and its terms"
STYLES = {"solid": "-", "dash": "--", "dot": ":"}  # plotly's names -> matplotlib's
ORDER = {"fused": 0, "simple": 1, "complex": 3}  # of the heads; others are between


@rank_zero_only
def draw_curves(folder: Path) -> Path | None:
    """Draw `folder/curves.png` from `folder/metrics.csv`: training terms, logloss and AUC by head.

    The dashed lines beside the validation logloss are those of the training: the means over the
    steps since the validation before. The dotted line is without the calibration. A solid vertical
    line marks the best validation, dotted ones where the learning rate fell.

    Returns:
        the picture's path; None if there is no metrics.csv (logger=none).
    """
    source = folder / "metrics.csv"
    if not source.exists():
        return None
    from matplotlib.figure import Figure

    rows = pl.read_csv(source, infer_schema_length=None, schema_overrides={"epoch": pl.Float64})
    best, falls = best_epoch(rows), learning_rate_falls(rows)
    heads = heads_of(rows.columns)
    panels = panels_of(rows.columns, heads)
    colours = head_colours(heads)
    figure = Figure(figsize=(4.2 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            drawn = rows.drop_nulls(name)  # an epoch without validation has no value
            axis.plot(
                drawn["epoch"],
                drawn[name],
                marker=".",
                label=name,
                color="0.5" if name == "train/loss" else colours[head_of(name, heads)],
                linestyle=STYLES[style_of(name, title)],
            )
        if best is not None:
            axis.axvline(best, color="0.3", linewidth=0.8, label=f"best: {best:g}")
        for number, epoch in enumerate(falls):
            label = "learning rate falls" if number == 0 else None
            axis.axvline(epoch, color="0.3", linewidth=0.8, linestyle=":", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # below: it covers no line
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def best_epoch(rows: pl.DataFrame) -> float | None:
    """The epochs trained before the best validation of a metrics.csv; None if it has none."""
    monitor = next((name for name in ("val/monitor", "val/auc") if name in rows.columns), None)
    if monitor is None or rows[monitor].null_count() == len(rows):
        return None
    return rows["epoch"][cast(int, rows[monitor].arg_max())]


def learning_rate_falls(rows: pl.DataFrame) -> list[float]:
    """The epochs trained before the learning rate fell, in a metrics.csv."""
    if "lr" not in rows.columns:
        return []
    rates = rows.drop_nulls("lr").select("epoch", falls=pl.col("lr").shift(-1) < pl.col("lr"))
    return rates.filter("falls")["epoch"].to_list()


def style_of(name: str, title: str) -> str:
    """The style of the line of a column in the panel `title`, one of `STYLES`."""
    if name == "val/uncalibrated_logloss":
        return "dot"
    return "dash" if name.startswith("train/") and title != TERMS else "solid"


def heads_of(names: Iterable[str]) -> list[str]:
    """The heads among the columns of a metrics.csv: fused, and each HEAD of val/HEAD/METRIC."""
    found = {name.split("/")[1] for name in names if name.count("/") == 2}
    return sorted({"fused", *found}, key=lambda head: (ORDER.get(head, 2), head))


def head_of(name: str, heads: Iterable[str]) -> str:
    """The head of val/HEAD/METRIC, or of train/TERM_HEAD; any other name is the fused head's."""
    part = name.split("/")[1]
    return max((head for head in heads if f"_{part}".endswith(f"_{head}")), key=len, default="fused")


def panels_of(names: Iterable[str], heads: Sequence[str]) -> dict[str, list[str]]:
    """The columns of each panel, by head; an undefined metric has no column, and then no panel."""
    by_head = sorted(names, key=lambda name: heads.index(head_of(name, heads)) if "/" in name else -1)
    train = [name for name in by_head if name.startswith("train/")]
    val = [name for name in by_head if name.startswith("val/")]
    logloss = [name for name in val if name.endswith("logloss")]
    if logloss:
        logloss += [name for name in train if name.startswith("train/bce")]
    panels = {
        TERMS: train,
        "logloss in training and validation": logloss,
        "validation AUC": [name for name in val if name.endswith("/auc")],
        "validation gAUC": [name for name in val if name == "val/gauc"],
    }
    return {title: columns for title, columns in panels.items() if columns}
