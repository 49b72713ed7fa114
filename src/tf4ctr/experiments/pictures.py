"""Pictures that compare runs."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

log = logging.getLogger(__name__)

CURVES = {"val/auc": "validation AUC", "val/gauc": "validation gAUC", "val/logloss": "validation logloss"}
METRICS = {"test/auc": "test AUC", "test/gauc": "gAUC", "test/logloss": "logloss"}
COSTS = {"parameters": "parameters", "seconds": "seconds"}
SMALLER_IS_BETTER = ("test/logloss",)
ROW = ""  # the column of a grid's row labels
LONGEST = 70  # characters of a label: more leave no room for the panels
MOST_IN_LEGEND = 40  # more names are taller than the picture


def draw_all(folder: Path, trained: pl.DataFrame, names: Sequence[str]) -> None:
    """Draw dots.png, cost.png, curves.png and grid.png into `folder`; see the functions below.

    A picture of an earlier report that there is no reason for now is removed.

    Args:
        trained: one row per run that trained, see `comparison.Jobs`.
        names: of the columns that make the settings.
    """
    for name, figure in {
        "dots": dots(trained),
        "cost": cost(trained),
        "curves": curves(trained),
        "grid": grid(trained, names),
    }.items():
        (folder / f"{name}.png").unlink(missing_ok=True)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)


def dots(trained: pl.DataFrame) -> Figure | None:
    """Test AUC: one line per setting, the best first; a dot for each seed, a bar at their mean.

    One panel per dataset, as their AUCs do not compare. None if no run has a test AUC.
    """
    if "test/auc" not in trained.columns or not len(trained := trained.drop_nulls("test/auc")):
        return None
    parts = trained.partition_by("dataset", maintain_order=True)
    heights = [part["setting"].n_unique() for part in parts]
    figure = Figure(figsize=(9, sum(0.8 + 0.28 * height for height in heights)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[height + 2 for height in heights])[:, 0]
    for axis, part in zip(panels, parts, strict=True):
        means = part.group_by("setting", maintain_order=True).agg(pl.col("test/auc").mean())
        settings = means.sort("test/auc", descending=True, maintain_order=True)["setting"].to_list()
        for line, setting in enumerate(settings):
            auc = part.filter(setting=setting)["test/auc"].to_numpy()
            axis.plot(auc, [line] * len(auc), "o", color="C0", alpha=0.5, markersize=5)
            axis.plot(auc.mean(), line, "|", color="C3", markersize=13, markeredgewidth=2)
        axis.set_yticks(range(len(settings)), [_shortened(setting) for setting in settings], fontsize=8)
        axis.invert_yaxis()
        axis.grid(alpha=0.3)
        axis.set_xlabel("test AUC; dots are seeds, bars their means")
        if len(parts) > 1:
            axis.set_title(part["dataset"][0], fontsize=10)
    return figure


def cost(trained: pl.DataFrame) -> Figure | None:
    """Test AUC against parameters and against seconds, both logarithmic; a dot for each run.

    One row of panels per dataset. None if no run has both.
    """
    known = [name for name in COSTS if name in trained.columns and trained[name].null_count() < len(trained)]
    if not known or "test/auc" not in trained.columns or not len(trained := trained.drop_nulls("test/auc")):
        return None
    settings = trained["setting"].unique(maintain_order=True).to_list()
    parts = trained.partition_by("dataset", maintain_order=True)
    figure = Figure(figsize=(4.5 * len(known) + 2, 3.8 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), len(known), squeeze=False)
    for axes, part in zip(panels, parts, strict=True):
        for axis, name in zip(axes, known, strict=True):
            for (setting,), group in part.group_by("setting", maintain_order=True):
                color, _ = style_of(settings.index(setting))
                axis.plot(
                    group[name],
                    group["test/auc"],
                    MARKERS[settings.index(setting) // 10 % 5],
                    color=color,
                    label=setting,
                )
            axis.set_xscale("log")
            axis.tick_params(axis="x", which="both", labelsize=8, rotation=45)
            axis.set_xlabel(COSTS[name])
            axis.set_ylabel("test AUC" if len(parts) == 1 else f"test AUC, {part['dataset'][0]}")
            axis.grid(alpha=0.3)
    _legend(figure, list(panels.flat))
    return figure


MARKERS = "osD^v"


def style_of(number: int) -> tuple[str, str]:
    """Colour and line style of a setting; matplotlib has 10 colours."""
    return f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, without repetitions, outside of them."""
    lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = dict(list(lines.items())[:MOST_IN_LEGEND])
    figure.legend(shown.values(), [_shortened(label) for label in shown], loc="outside right upper", fontsize=7)


def curves(trained: pl.DataFrame) -> Figure | None:
    """Validation AUC, gAUC and logloss over epochs: one colour per setting, one line per run.

    None if no run has curves (logger=none).
    """
    settings = trained["setting"].unique(maintain_order=True).to_list()
    runs = [(row["setting"], json.loads(row["curves"] or "{}")) for row in trained.iter_rows(named=True)]
    known = [name for name in CURVES if any(name in run for _, run in runs)]
    if not known:
        return None
    figure = Figure(figsize=(4.5 * len(known) + 2, 4.5), layout="constrained")
    axes = figure.subplots(1, len(known), squeeze=False)[0]
    for axis, name in zip(axes, known, strict=True):
        for setting, run in runs:
            if name in run:
                # an epoch without validation has no value
                points = [point for point in zip(run["epoch"], run[name], strict=True) if point[1] is not None]
                color, line = style_of(settings.index(setting))
                axis.plot(*zip(*points, strict=True), label=setting, linewidth=1.2, color=color, linestyle=line)
        axis.set_xlabel("epoch")
        axis.set_ylabel(CURVES[name])
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def grid(trained: pl.DataFrame, names: Sequence[str]) -> Figure | None:
    """Mean test AUC, gAUC and logloss by two settings, one panel each; one row per dataset.

    None unless exactly two of `names` differ and every pair of their values was trained.
    """
    names = [name for name in names if trained[name].n_unique() > 1]
    metrics = [name for name in METRICS if name in trained.columns]
    if len(names) != 2 or not metrics or any(trained[name].null_count() for name in names):
        return None
    parts = trained.partition_by("dataset", maintain_order=True)
    tables = {metric: [_grid_table(part, names, metric) for part in parts] for metric in metrics}
    whole = {metric: grids for metric, grids in tables.items() if not any(_has_gap(table) for table in grids)}
    if not whole:
        return None
    rows, columns = (trained[name].n_unique() for name in names)
    size = (len(whole) * (1.5 + 1.1 * columns), len(parts) * (1.2 + 0.6 * rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(parts), len(whole), squeeze=False)
    for axes, (metric, grids) in zip(panels.T, whole.items(), strict=True):
        for axis, part, table in zip(axes, parts, grids, strict=True):
            title = METRICS[metric] if len(parts) == 1 else f"{METRICS[metric]}, {part['dataset'][0]}"
            _draw_grid(axis, table, names, title, metric in SMALLER_IS_BETTER)
    return figure


def _grid_table(part: pl.DataFrame, names: Sequence[str], metric: str) -> pl.DataFrame:
    first, second = names
    means = part.group_by(names, maintain_order=True).agg(pl.col(metric).mean())
    # a value of the second setting becomes a column, and may be called as the first setting is
    return means.rename({first: ROW}).pivot(second, index=ROW, values=metric)


def _has_gap(table: pl.DataFrame) -> bool:
    return any(table.null_count().row(0))


def _draw_grid(axis: Axes, table: pl.DataFrame, names: Sequence[str], title: str, reverse: bool) -> None:
    row_labels, column_labels = table[ROW].to_list(), table.columns[1:]
    values = table.select(column_labels).to_numpy()
    image = axis.imshow(values, cmap="viridis_r" if reverse else "viridis", aspect="auto")
    axis.figure.colorbar(image, label=title)
    axis.set_xticks(range(len(column_labels)), column_labels)
    axis.set_yticks(range(len(row_labels)), row_labels)
    axis.set_xlabel(names[1])
    axis.set_ylabel(names[0])
    _write_values(axis, values, reverse)


def _write_values(axis: Axes, values: np.ndarray, reverse: bool) -> None:
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        color = "white" if (value < middle) != reverse else "black"  # viridis is dark for small values
        axis.text(column, row, f"{value:.5f}", ha="center", va="center", fontsize=8, color=color)


def draw_searches(sources: Sequence[Path], folder: Path) -> None:
    """The pictures of those `sources` that are searches; earlier ones are removed."""
    for name in ("importance", "parallel"):
        (folder / f"{name}.png").unlink(missing_ok=True)
    for source in sources:
        draw_search(source, folder)


def draw_search(source: Path, folder: Path) -> None:
    """importance.png and parallel.png of a search: which parameters matter, and its trials.

    Importance is PED-ANOVA's: how much the distribution of a parameter differs between the best
    tenth of the trials and all. Nothing is drawn if `source` is no search, or has fewer than two
    finished trials of different values.
    """
    database = source / "search.db"
    if not database.exists():
        return
    try:
        import optuna  # an extra
        from optuna.visualization import matplotlib as drawing
    except ImportError:
        log.info('importance.png and parallel.png were not drawn: pip install -e ".[optuna]"')
        return
    from matplotlib import pyplot
    from omegaconf import OmegaConf

    from tf4ctr.training.pruning import STUDY

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{database}")
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len({trial.value for trial in done}) < 2:
        return
    started = source / "multirun.yaml"
    objective = OmegaConf.load(started).hydra.sweeper.objective if started.exists() else "objective"
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    draws: dict[str, Callable[[], Axes]] = {
        "importance": lambda: drawing.plot_param_importances(study, evaluator=evaluator, target_name=objective),
        "parallel": lambda: drawing.plot_parallel_coordinate(study, target_name=objective),
    }
    for name, draw in draws.items():
        with warnings.catch_warnings(), matplotlib.rc_context():  # Optuna sets a style for all pictures
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            figure = cast(Figure, draw().figure)
            figure.set_size_inches(12, 5)  # narrower, the numbers of the last axis are below the colour bar
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
