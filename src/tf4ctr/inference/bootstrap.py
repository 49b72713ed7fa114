"""The bootstrap over rows: how much metrics vary if the rows are drawn again.

Needs no torch. Shapes: N rows, T ties (rows of equal score in a group), G groups.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Measure = Callable[[NDArray[np.float64]], float]  # how often each row counts, [N] -> a metric


def bootstrap(
    measures: Mapping[str, Measure], rows: int, resamples: int, seed: int, weight_N: NDArray[Any] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Measure resamples of the rows: -> each metric of them, [resamples].

    All metrics are measured on the same resamples. A resample contains each row Poisson(1) times.
    For the sizes of click logs, this is the same as drawing as many rows with replacement, and the
    rows are sorted only once. Rows count as independent of each other, also those of one group.

    Args:
        measures: name -> function of how often each row counts, [N].
        rows: their number N.
        resamples: their number.
        seed: of the resamples.
        weight_N: of the rows; None for equal ones.
    """
    random, samples = np.random.default_rng(seed), {name: np.empty(resamples) for name in measures}
    for number in range(resamples):
        times_N = random.poisson(1.0, rows).astype(np.float64)
        times_N = times_N if weight_N is None else times_N * weight_N
        for name, measure in measures.items():
            samples[name][number] = measure(times_N)
    return samples


def mean(value_N: NDArray[Any]) -> Measure:
    """The mean of a value of the rows, as a `Measure`."""
    return lambda times_N: float(times_N @ value_N / times_N.sum())


class Ranking:
    """Rows in the order of their scores: sorted once, measured often.

    Args:
        score_N: any monotone score.
        label_N: 0 or 1.
        group_N: integers; None if all rows are one group.
    """

    def __init__(self, score_N: NDArray[Any], label_N: NDArray[Any], group_N: NDArray[Any] | None = None) -> None:
        self.has_nan = bool(np.isnan(score_N).any())
        self.order = np.argsort(score_N) if group_N is None else np.lexsort((score_N, group_N))
        self.label_N = label_N[self.order].astype(np.float64)
        group_N = np.zeros(len(score_N)) if group_N is None else group_N[self.order]
        begins_group = np.diff(group_N.astype(np.float64), prepend=np.nan) != 0
        begins_tie = begins_group | (np.diff(score_N[self.order], prepend=np.nan) != 0)
        self.tie_T = np.flatnonzero(begins_tie)  # first row of each tie
        self.group_G = np.flatnonzero(begins_group[self.tie_T])  # first tie of each group
        self.ties_G = np.diff(self.group_G, append=len(self.tie_T))

    def auc(self, times_N: NDArray[np.float64]) -> float:
        """AUC, ties counted half; with groups gAUC, see `metrics.grouped_auc`.

        NaN if no group has both classes, or a score is NaN.

        Args:
            times_N: how often each row counts, at least 0, in the order of `score_N`.
        """
        if self.has_nan:
            return float("nan")
        times_N = times_N[self.order]
        positive_T = np.add.reduceat(times_N * self.label_N, self.tie_T)
        negative_T = np.add.reduceat(times_N, self.tie_T) - positive_T
        before_T = np.cumsum(negative_T) - negative_T
        below_T = before_T - np.repeat(before_T[self.group_G], self.ties_G) + negative_T / 2
        pairs_G, positive_G, negative_G = (
            np.add.reduceat(values_T, self.group_G) for values_T in (positive_T * below_T, positive_T, negative_T)
        )
        both = (positive_G > 0) & (negative_G > 0)
        if not both.any():
            return float("nan")
        area_G = pairs_G[both] / (positive_G[both] * negative_G[both])
        return float(np.average(area_G, weights=(positive_G + negative_G)[both]))
