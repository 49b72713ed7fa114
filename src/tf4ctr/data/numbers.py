"""The distribution of numbers in one pass and bounded memory, and the scaling that it gives."""

import math
import sys
from collections.abc import Sequence

import numpy as np
import polars as pl

from tf4ctr.data.schema import Scaling
from tf4ctr.data.transforms import occurrences
from tf4ctr.errors import InputError

RANKS = 256  # steps between the quantiles that are kept: the most bins that a network can ask for
MAX_VALUES = 2**18  # different values that are kept exactly; beyond, neighbours are joined
DIGITS = 6  # of center and spread: the same whatever the order of sums
LARGEST = float(np.finfo(np.float32).max)
CONSTANT = 1e-12  # a spread below this share of the values is rounding, not spread


class Distribution:
    """The distribution of a number over any number of batches.

    Up to `MAX_VALUES` different values the quantiles are exact. Beyond, each join of neighbours
    moves a quantile by at most 1 / MAX_VALUES of the rows.

    Attributes:
        rows: values that are not missing.
        mean: of them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows, self.mean, self._squares = 0, 0.0, 0.0
        self._values = pl.DataFrame(schema={name: pl.Float64, "count": pl.Int64})
        self._pending: list[pl.DataFrame] = []

    def query(self, value: pl.Expr) -> pl.Expr:
        """The expression that counts one batch, see `occurrences`; `count` is Int64."""
        return occurrences(value, pl.Int64)

    def add(self, values: pl.DataFrame) -> None:
        """Add one batch: its different values, and their `count`."""
        if not len(values):
            return
        numbers, counts = values[self.name].to_numpy(), values["count"].to_numpy()
        rows, mean = int(counts.sum()), float(np.average(numbers, weights=counts))
        self._add_moments(rows, mean, float(counts @ (numbers - mean) ** 2))
        self._pending.append(values)
        if sum(map(len, self._pending)) > MAX_VALUES + len(self._values):
            self._merge()

    def join(self, other: "Distribution") -> None:
        """Add what another process has counted."""
        self._add_moments(other.rows, other.mean, other._squares)
        self._pending += [other._values, *other._pending]
        self._merge()

    def _add_moments(self, rows: int, mean: float, squares: float) -> None:
        """Mean and sum of squared distances of two sets (Chan et al., 1979)."""
        if not rows:
            return
        total, distance = self.rows + rows, mean - self.mean
        self._squares += squares + distance**2 * self.rows * rows / total
        self.mean += distance * rows / total
        self.rows = total

    def _merge(self) -> None:
        merged = (
            pl.concat([self._values, *self._pending]).group_by(self.name).agg(pl.col("count").sum()).sort(self.name)
        )
        if len(merged) > MAX_VALUES:
            step = max(1, self.rows * 2 // MAX_VALUES)
            place = (pl.col("count").cum_sum() - 1) // step
            merged = merged.group_by(place.alias("place"), maintain_order=True).agg(
                pl.col(self.name).last(), pl.col("count").sum()
            )
            merged = merged.drop("place")
        self._values, self._pending = merged, []

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """For each rank, 0 to 1, the smallest value that has this share at or below it."""
        self._merge()
        if not len(self._values):
            return []
        below = self._values["count"].cum_sum().to_numpy()
        wanted = np.ceil(np.asarray(ranks) * self.rows).clip(1)
        return self._values[self.name].to_numpy()[np.searchsorted(below, wanted)].tolist()

    def after(self, ranks: Sequence[float]) -> list[float]:
        """For each rank the value whose share of smaller values is nearest to it.

        Each is above the one before, and above the smallest value.

        Raises:
            InputError: too few different values.
        """
        self._merge()
        values, counts = self._values[self.name].to_numpy(), self._values["count"].to_numpy()
        if len(values) <= len(ranks):
            raise InputError(
                f"column '{self.name}' has {len(values)} different moments, {len(ranks) + 1} are needed to split by it:"
                " numbers, or dates as YYYY-MM-DD hh:mm:ss"
            )
        below, chosen, first = np.cumsum(counts) - counts, [], 1
        for number, rank in enumerate(ranks):
            last = len(values) - (len(ranks) - number - 1)
            place = first + int(np.abs(below[first:last] / self.rows - rank).argmin())
            chosen.append(float(values[place]))
            first = place + 1
        return chosen

    def scaling(self, kind: str) -> Scaling:
        """Fit a scaling; a constant or an all-missing number keeps a spread of 1."""
        quantiles = tuple(self.quantiles([number / RANKS for number in range(RANKS + 1)]))
        center, spread = 0.0, 0.0
        if kind == "standard" and quantiles:
            center, spread = self.mean, math.sqrt(self._squares / self.rows)
            if not math.isfinite(spread):  # the squares of numbers beyond 1e154 overflow
                center, spread = 0.0, max(map(abs, quantiles))
        elif kind == "minmax" and quantiles:
            center, spread = quantiles[0], min(quantiles[-1] - quantiles[0], sys.float_info.max)
        spread = _rounded(spread) if quantiles and spread > CONSTANT * max(map(abs, quantiles)) else 1.0
        return Scaling(kind, round(center / spread, DIGITS) * spread, spread, quantiles)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def scaled(value: pl.Expr, scaling: Scaling) -> pl.Expr:
    """A number -> the scaled one, float32; a missing value stays null."""
    if scaling.kind == "quantile":

        def ranks(values: pl.Series) -> pl.Series:
            return pl.Series(values.name, scaling(values.fill_null(float("nan")).to_numpy())).fill_nan(None)

        return value.map_batches(ranks, return_dtype=pl.Float64, is_elementwise=True).cast(pl.Float32)
    # clipped, as a number beyond float32 would become infinite
    return ((value - scaling.center) / scaling.spread).clip(-LARGEST, LARGEST).cast(pl.Float32)
