"""curves.png: loss and metrics of a training over its epochs."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import polars as pl
from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def draw_curves(folder: Path) -> Path | None:
    """Draw `folder/curves.png` from `folder/metrics.csv`: training terms, logloss and AUC by head.

    A solid vertical line marks the best validation, dotted ones where the learning rate fell.

    Returns:
        the picture's path; None if there is no metrics.csv (logger=none).
    """
    source = folder / "metrics.csv"
    if not source.exists():
        return None
    from matplotlib.figure import Figure

    rows = pl.read_csv(source, schema_overrides={"epoch": pl.Float64})
    best, falls = best_epoch(rows), learning_rate_falls(rows)
    panels = {
        "training loss and its terms": [name for name in rows.columns if name.startswith("train/")],
        "validation logloss": [name for name in rows.columns if name.startswith("val/") and name.endswith("logloss")],
        "validation AUC": [name for name in rows.columns if name.startswith("val/") and name.endswith("/auc")],
    }
    panels["validation gAUC"] = [name for name in rows.columns if name == "val/gauc"]
    panels = {title: names for title, names in panels.items() if names}  # an undefined metric has no column
    colours = _colours(rows.columns)
    figure = Figure(figsize=(4.2 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            drawn = rows.drop_nulls(name)  # an epoch without validation has no value
            axis.plot(drawn["epoch"], drawn[name], marker=".", label=name, color=colours[name])
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


def _colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per head (val/HEAD/METRIC, train/tf_HEAD) per name; else the fused head's."""
    heads = dict.fromkeys(name.split("/")[1] for name in names if name.count("/") == 2)
    palette = {f"tf_{head}": f"C{number}" for number, head in enumerate(heads, start=1)}
    palette |= {head: palette[f"tf_{head}"] for head in heads}
    return {
        name: "0.5" if name == "train/loss" else palette.get(name.split("/")[1], "C0") for name in names if "/" in name
    }
