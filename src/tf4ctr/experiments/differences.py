"""Differences between settings: the paired t-test over seeds, and Holm's correction."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from tf4ctr.errors import InputError

# the runs of a leaderboard that those of the other frameworks are compared with
IS_BASE = (pl.col("framework") == "plain") & (pl.col("setting") == pl.col("model"))


def compare(trained: pl.DataFrame, base: pl.DataFrame, keys: Sequence[str], shared: Sequence[str]) -> pl.DataFrame:
    """One row per value of `keys` with its `difference` from `base`, `p` and `p (Holm)`.

    Args:
        trained, base, keys, shared: see `pairs_of`, for test/auc.

    Raises:
        InputError: no run has a test AUC, or scipy is missing.
    """
    if "test/auc" not in trained.columns:
        raise InputError("there is nothing to compare: no run has a test AUC, as its test rows all have the same label")
    pairs = pairs_of(trained, base, keys, shared, ["test/auc"]).rename({"test/auc base": "base"})
    groups = pairs.partition_by(keys, maintain_order=True)
    rows = [{**{key: group[key][0] for key in keys}, **paired(group)} for group in groups]
    table = pl.DataFrame(rows, {**dict.fromkeys(keys, pl.String), "difference": pl.Float64, "p": pl.Float64})
    return table.with_columns(pl.Series("p (Holm)", holm(table["p"].to_list()), pl.Float64))


def pairs_of(
    trained: pl.DataFrame, base: pl.DataFrame, keys: Sequence[str], shared: Sequence[str], metrics: Sequence[str]
) -> pl.DataFrame:
    """One row per value of `keys` and seed: its `metrics`, and those of its pair as `METRIC base`.

    Runs with the same seed are one pair: their metrics are averaged first, as a repeated run is no
    further evidence. `METRIC base` is null without a pair.

    Args:
        trained, base: runs to compare, and those to compare with; columns `keys`, seed, `metrics`.
        shared: of `keys`, those in which both runs of a pair are equal, beside the seed.
    """
    means = [pl.col(name).mean() for name in metrics]
    own = trained.group_by([*keys, "seed"], maintain_order=True).agg(means)
    others = base.group_by([*shared, "seed"], maintain_order=True).agg(mean.name.suffix(" base") for mean in means)
    return own.join(others, [*shared, "seed"], "left", nulls_equal=True, maintain_order="left")


def paired(pairs: pl.DataFrame) -> dict[str, float | None]:
    """`difference`, the mean of test/auc - base, and `p` of the two-sided paired t-test.

    `p` is null with fewer than two pairs, `difference` without one.

    Args:
        pairs: one row per seed, with the columns test/auc and base.

    Raises:
        InputError: scipy is missing.
    """
    try:
        from scipy.stats import ttest_rel  # an extra
    except ImportError as error:
        raise InputError('the t-test of differences needs scipy: pip install -e ".[report]"') from error
    pairs = pairs.drop_nulls(["test/auc", "base"])
    auc, base = pairs["test/auc"].to_numpy(), pairs["base"].to_numpy()
    p = float(ttest_rel(auc, base).pvalue) if len(pairs) > 1 else float("nan")
    # equal differences, all 0, have no p
    return {"difference": float((auc - base).mean()) if len(pairs) else None, "p": None if np.isnan(p) else p}


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for the number of comparisons (Holm 1979); null stays null.

    The k-th smallest of m is multiplied by m - k + 1, is at least the one before it, at most 1.
    """
    known = np.array([number for number, p in enumerate(ps) if p is not None], dtype=int)
    p = np.array([ps[number] for number in known], dtype=float)
    order = p.argsort(kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    result: list[float | None] = [None] * len(ps)
    for number, value in zip(known[order], corrected, strict=True):
        result[number] = float(value)
    return result
