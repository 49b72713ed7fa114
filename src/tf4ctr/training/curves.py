"""curves.png: loss and metrics of a training over its epochs."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl
from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def draw_curves(folder: Path) -> Path | None:
    """Draw `folder/curves.png` from `folder/metrics.csv`: training terms, logloss and AUC by head.

    Returns:
        the picture's path; None if there is no metrics.csv (logger=none).
    """
    source = folder / "metrics.csv"
    if not source.exists():
        return None
    from matplotlib.figure import Figure

    rows = pl.read_csv(source, schema_overrides={"epoch": pl.Float64})
    panels = {
        "training loss and its terms": [name for name in rows.columns if name.startswith("train/")],
        "validation logloss": [name for name in rows.columns if name.startswith("val/") and name.endswith("logloss")],
        "validation AUC": [name for name in rows.columns if name.startswith("val/") and name.endswith("/auc")],
    }
    panels["validation gAUC"] = [name for name in rows.columns if name == "val/gauc"]
    panels = {title: names for title, names in panels.items() if names}  # an undefined metric has no column
    colours = _colours(rows.columns)
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            axis.plot(rows["epoch"], rows[name], marker=".", label=name, color=colours[name])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per head (val/HEAD/METRIC, train/tf_HEAD) per name; else the fused head's."""
    heads = dict.fromkeys(name.split("/")[1] for name in names if name.count("/") == 2)
    palette = {f"tf_{head}": f"C{number}" for number, head in enumerate(heads, start=1)}
    palette |= {head: palette[f"tf_{head}"] for head in heads}
    return {
        name: "0.5" if name == "train/loss" else palette.get(name.split("/")[1], "C0") for name in names if "/" in name
    }
