"""A framework against plain over all models of a leaderboard: what holds for how many of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from tf4ctr.experiments.comparison import number_text
from tf4ctr.experiments.differences import IS_BASE, holm, pairs_of

MODEL = ["dataset", "framework", "model", "setting"]
LEAST = 2  # models of a framework: with one, the leaderboard's own line says it all
NOISE = 0.0003  # an AUC that is lower by no more than this is not called lower
LEVEL = 0.05  # of p after Holm's correction
METRICS = {"auc": "test/auc", "logloss": "test/logloss", "gauc": "test/gauc"}
NOTES = (
    "Each model is compared with itself under framework=plain, by the mean difference over the seeds that both have. A"
    " model with several settings counts once for each.",
    f"**significant**: p below {LEVEL} after Holm's correction for the number of differences in all tables here."
    " Without more words it is by the t-tests of the tables below, each with the deviation of its own few seeds."
    " **One deviation**: t-tests with the deviation over seeds that all models of the column have together. They need"
    " fewer seeds, but assume that all models vary alike. **Bartlett**'s test is of this: where its p is small, the"
    " count is too good for models that vary more than others.",
    "**Wilcoxon**: the signed-rank test over the models' mean differences. Models with parts in common are not"
    " independent, so its p is too small.",
)
TITLES = {
    "models": "models",
    "seeds": "seeds of a model",
    "auc above": "AUC above plain",
    "auc not below": f"AUC not below plain by more than {NOISE}",
    "auc median": "median difference of AUC",
    "above": "significantly above",
    "below": "significantly below",
    "above, one deviation": "significantly above, one deviation",
    "below, one deviation": "significantly below, one deviation",
    "deviation": "the one deviation",
    "equal p": "p (Bartlett), equal deviations",
    "auc p": "p (Wilcoxon), AUC",
    "logloss better": "logloss better",
    "logloss median": "median difference of logloss",
    "logloss p": "p (Wilcoxon), logloss",
    "gauc above": "gAUC above plain",
    "gauc median": "median difference of gAUC",
}
FORMATS = {"auc median": "+.5f", "logloss median": "+.4f", "gauc median": "+.5f", "deviation": ".5f"}
FORMATS |= {"auc p": ".2g", "logloss p": ".2g", "equal p": ".2g"}


def against_plain(trained: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """One row per dataset and framework, of those with at least `LEAST` models that plain has too.

    Args:
        trained: the runs, see `leaderboard.collect_models`.
        table: of `leaderboard.leaderboard` for these runs.

    Returns:
        `dataset`, `framework` and `TITLES`; medians and p are null without the metric.
    """
    models = _differences(trained)
    models = models.join(table.select(*MODEL, "p (Holm)"), MODEL, "left", nulls_equal=True, maintain_order="left")
    groups = models.partition_by("dataset", "framework", maintain_order=True)
    models = pl.concat([_with_one_deviation(group) for group in groups]) if groups else models
    corrected = holm(models["p"].to_list()) if groups else []
    models = models.with_columns(pl.Series("p, one deviation", corrected, pl.Float64))
    groups = [
        group for group in models.partition_by("dataset", "framework", maintain_order=True) if len(group) >= LEAST
    ]
    return pl.DataFrame([_summary(group) for group in groups], infer_schema_length=None)


def _differences(trained: pl.DataFrame) -> pl.DataFrame:
    """One row per model: `seeds`, mean differences by metric, and those of AUC `by seed`."""
    known = {name: column for name, column in METRICS.items() if column in trained.columns}
    runs = trained.filter(pl.col("framework") != "plain")
    pairs = pairs_of(runs, trained.filter(IS_BASE), MODEL, ["dataset", "model"], [*known.values()])
    difference = {name: pl.col(column) - pl.col(f"{column} base") for name, column in known.items()}
    return (
        pairs.with_columns(**difference)
        .drop_nulls("auc")
        .group_by(MODEL, maintain_order=True)
        .agg(pl.len().alias("seeds"), pl.col("auc").alias("by seed"), pl.col(known).mean())
        .sort("dataset", "framework", maintain_order=True)
    )


def _with_one_deviation(models: pl.DataFrame) -> pl.DataFrame:
    """Add `deviation`, that of the differences of all models, and `p` of each one's t-test with it.

    s^2 = sum_i (n_i - 1) s_i^2 / sum_i (n_i - 1), and t_i = mean_i / (s / sqrt(n_i)) with that many
    degrees of freedom, as in an analysis of variance. Null if no model has two seeds.
    """
    from scipy.stats import t  # an extra, which `leaderboard` has asked for

    seeds, means = models["seeds"].to_numpy().astype(float), models["auc"].to_numpy()
    freedom = (seeds - 1).sum()
    squares = ((seeds - 1) * models["by seed"].list.var().fill_null(0).to_numpy()).sum()
    if squares == 0:  # no model has two seeds, or all differences are equal
        return models.with_columns(p=pl.lit(None, pl.Float64), deviation=pl.lit(None, pl.Float64))
    deviation = np.sqrt(squares / freedom)
    p = 2 * t.sf(np.abs(means) / (deviation / np.sqrt(seeds)), freedom)
    return models.with_columns(pl.Series("p", p, pl.Float64), deviation=pl.lit(float(deviation)))


def _summary(models: pl.DataFrame) -> dict[str, Any]:
    """What holds for how many of the models of one dataset and framework."""
    least, most = min(models["seeds"].to_list()), max(models["seeds"].to_list())
    row = {name: models[name][0] for name in ("dataset", "framework", "deviation")}
    row |= {"models": len(models), "seeds": str(least) if least == most else f"{least} to {most}"}
    row["equal p"] = _equal_deviations(models["by seed"])
    row["auc not below"] = int((models["auc"] >= -NOISE).sum())
    for name in ("auc", "gauc", "logloss"):
        if name not in models.columns or models[name].null_count() == len(models):
            continue
        values = models[name].drop_nulls()
        better = "logloss better" if name == "logloss" else f"{name} above"
        row[better] = int(((values < 0) if name == "logloss" else (values > 0)).sum())
        row[f"{name} median"], row[f"{name} p"] = values.median(), _signed_rank(values)
    for column, text in (("p (Holm)", ""), ("p, one deviation", ", one deviation")):
        significant = models.filter(pl.col(column) < LEVEL)["auc"]
        row[f"above{text}"], row[f"below{text}"] = int((significant > 0).sum()), int((significant < 0).sum())
    return row


def _equal_deviations(by_seed: pl.Series) -> float | None:
    """p of Bartlett's test that the models with at least two seeds have the same deviation."""
    from scipy.stats import bartlett

    several = [values.to_numpy() for values in by_seed if len(values) > 1]
    if len(several) < 2 or any(values.var() == 0 for values in several):
        return None
    return float(bartlett(*several).pvalue)


def _signed_rank(values: pl.Series) -> float | None:
    from scipy.stats import wilcoxon

    return float(wilcoxon(values.to_numpy()).pvalue) if (values != 0).any() else None


def rows_of(table: pl.DataFrame) -> list[list[str]]:
    """The table as text, turned: a column per dataset and framework, the titles first."""
    runs: Sequence[dict[str, Any]] = table.to_dicts()
    names = [name for name in TITLES if name in table.columns and table[name].null_count() < len(table)]
    titles = ["minus plain", *(f"{run['framework']}, {run['dataset']}" for run in runs)]
    return [
        titles,
        *([TITLES[name], *(number_text(run[name], FORMATS.get(name, "")) for run in runs)] for name in names),
    ]


def table_of(table: pl.DataFrame) -> Table:
    """The same for a terminal."""
    titles, *rows = rows_of(table)
    shown = Table(title="frameworks", title_justify="left")
    for place, title in enumerate(titles):
        shown.add_column(title, justify="right" if place else "left")
    for row in rows:
        shown.add_row(*row)
    return shown
