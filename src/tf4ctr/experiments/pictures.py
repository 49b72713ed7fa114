"""Pictures that compare the jobs of a sweep."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_curves(folder: Path, trained: pl.DataFrame, settings: list[str]) -> None:
    """curves.png: validation AUC over epochs, one colour per setting, one line per job.

    Nothing is drawn if no job has a metrics.csv.

    Args:
        folder: of the sweep.
        trained: `job` and `setting` of each job that trained.
        settings: all settings, in the order of the legend.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    for job in sorted(trained.iter_rows(named=True), key=lambda job: settings.index(job["setting"])):
        source = folder / job["job"] / "metrics.csv"
        if source.exists() and "val/auc" in (curve := _read_curve(source)).columns:
            _draw_curve(axis, curve, job["setting"], settings.index(job["setting"]))
    if not axis.lines:
        return
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation AUC")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(folder / "curves.png", dpi=120)


def _read_curve(source: Path) -> pl.DataFrame:
    # polars guesses a type from the first rows, and the epochs of these may all be whole numbers
    return pl.read_csv(source, schema_overrides={"epoch": pl.Float64})


def _draw_curve(axis: Axes, curve: pl.DataFrame, setting: str, number: int) -> None:
    label = setting if setting not in axis.get_legend_handles_labels()[1] else None
    style = ("-", "--", ":", "-.")[number // 10 % 4]  # matplotlib has 10 colours
    axis.plot(curve["epoch"], curve["val/auc"], label=label, linewidth=1.2, color=f"C{number % 10}", linestyle=style)


def draw_grid(folder: Path, trained: pl.DataFrame, overrides: list[str]) -> None:
    """grid.png: mean test AUC by two overrides.

    It is drawn if exactly two overrides differ and every pair of their values was trained.

    Args:
        folder: of the sweep.
        trained: one row per job, with the columns `overrides` and test/auc.
        overrides: that may differ between jobs.
    """
    names = [name for name in overrides if trained[name].n_unique() > 1]
    if len(names) != 2 or "test/auc" not in trained.columns or any(trained[name].null_count() for name in names):
        return
    means = trained.group_by(names, maintain_order=True).agg(pl.col("test/auc").mean())
    table = means.pivot(names[1], index=names[0], values="test/auc")
    if any(table.null_count().row(0)):
        return
    row_labels, column_labels = table[names[0]].to_list(), table.columns[1:]
    values = table.select(column_labels).to_numpy()
    figure = Figure(figsize=(1.5 + 1.1 * len(column_labels), 1.2 + 0.6 * len(row_labels)), layout="constrained")
    axis = figure.subplots()
    figure.colorbar(axis.imshow(values, cmap="viridis", aspect="auto"), label="test AUC")
    axis.set_xticks(range(len(column_labels)), column_labels)
    axis.set_yticks(range(len(row_labels)), row_labels)
    axis.set_xlabel(names[1])
    axis.set_ylabel(names[0])
    _write_values(axis, values)
    figure.savefig(folder / "grid.png", dpi=120)


def _write_values(axis: Axes, values: np.ndarray) -> None:
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < middle else "black"  # viridis is dark for small values
        axis.text(column, row, f"{value:.5f}", ha="center", va="center", fontsize=8, color=color)
