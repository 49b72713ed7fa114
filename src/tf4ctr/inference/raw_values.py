"""Scaled numbers -> the raw ones that they come from, for people to read.

Needs no torch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.numbers import scaled
from tf4ctr.data.schema import Scaling

BINS = 10  # of a number at most: they fit on one screen
DIGITS = 6  # of the limits between them; more only if two limits would look the same
MAX_DIGITS = 17  # with so many any two float64 differ
# |y| -> |x| for each y of NUMBER_TRANSFORMS; all of them keep the sign
INVERSES: dict[str | None, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    None: np.abs,
    "log1p": np.expm1,
    "sqrt": np.square,
}


def transform_of(name: str, fields: Sequence[FieldSpec]) -> str | None:
    """The transform of a field."""
    return {field.name: field.transform for field in fields}[name]


def raw_numbers(scaled_N: NDArray[np.float32], scaling: Scaling, transform: str | None) -> NDArray[np.float64]:
    """Undo scaling and transform, [N]; a missing value (NaN) stays missing.

    With the quantile scaling a value between two quantiles of the training split is interpolated,
    one outside of them is the nearest one, and all are NaN if there are no quantiles.
    """
    values_N = scaled_N.astype(np.float64)
    if scaling.kind != "quantile":
        values_N = values_N * scaling.spread + scaling.center
    elif scaling.quantiles:
        values_N = np.interp(values_N, scaling.scaled_quantiles, scaling.quantiles)
    else:
        values_N = np.full_like(values_N, np.nan)
    return _untransformed(values_N, transform)


def _untransformed(values_N: NDArray[np.float64], transform: str | None) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # expm1 of a huge number is infinite
        return np.sign(values_N) * INVERSES[transform](np.abs(values_N))


def raw_texts(scaled_N: NDArray[np.float32], scaling: Scaling, transform: str | None) -> list[str | None]:
    """`raw_numbers` with as many digits as float32 holds, at most; None for a missing value."""
    neighbours = (scaled_N, np.nextafter(scaled_N, -np.inf), np.nextafter(scaled_N, np.inf))
    values = np.stack([raw_numbers(array_N, scaling, transform) for array_N in neighbours], 1).tolist()
    return [None if np.isnan(value) else number_text(_shortest(value, low, high)) for value, low, high in values]


def _shortest(value: float, low: float, high: float) -> float:
    """The number with the fewest digits from `low` to `high`, near `value`."""
    if low <= 0 <= high:
        return 0.0
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, MAX_DIGITS + 1))
    return next((number for number in rounded if low <= number <= high), value)


def number_text(value: float) -> str:
    """A number as Python writes it, a whole one without `.0`."""
    return repr(value).removesuffix(".0")


def _rounded(value: float, digits: int) -> float:
    """A number with `digits` significant digits, or with all digits before the point."""
    return float(round(value)) if 10**digits <= abs(value) < np.inf else float(f"{value:.{digits}g}")


def example_number(scaling: Scaling, transform: str | None) -> float:
    """A typical raw value: the median of the training split; 0 if all its values are missing."""
    if not scaling.quantiles:
        return 0.0
    middle = np.array(scaling.quantiles[len(scaling.quantiles) // 2])
    return _rounded(float(_untransformed(middle, transform)), DIGITS)


def quantile_bins(
    scaled_N: NDArray[np.float32], scaling: Scaling, transform: str | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Put numbers into at most 10 bins of equally many training rows.

    A number with few different values has fewer bins.

    Returns:
        The bin of each value, [N], and the bins' names: intervals of raw values as `[1.5, 3.2)`,
        and last `(missing)`.
    """
    limits = _limits(scaling)
    # scaled as preparation scales the rows: a value that equals a limit is on the right side of it
    series = pl.Series(limits, dtype=pl.Float64)
    scaled_K = pl.select(scaled(pl.lit(series), scaling)).to_series().to_numpy()
    scaled_K, first = np.unique(scaled_K, return_index=True)
    bins_N = np.searchsorted(scaled_K, scaled_N, side="right")
    bins_N[np.isnan(scaled_N)] = len(scaled_K) + 1
    texts = ["-inf", *_distinct(_untransformed(limits[first], transform).tolist()), "inf"]
    names = [f"{'[' if number else '('}{texts[number]}, {texts[number + 1]})" for number in range(len(texts) - 1)]
    return bins_N, [*names, "(missing)"]


def _limits(scaling: Scaling) -> NDArray[np.float64]:
    """The different inner deciles of the training split that are above its lowest value."""
    quantiles = np.array(scaling.quantiles, dtype=np.float64)
    if not len(quantiles):
        return quantiles
    places = np.linspace(0, len(quantiles) - 1, BINS + 1).round().astype(int)[1:-1]
    return np.unique(quantiles[places][quantiles[places] > quantiles[0]])


def _distinct(values: list[float]) -> list[str]:
    """The texts of different numbers, with as many digits as they need to differ."""
    for digits in range(DIGITS, MAX_DIGITS):
        texts = [number_text(_rounded(value, digits)) for value in values]
        if len(set(texts)) == len(values):
            return texts
    return list(map(number_text, values))
