import numpy as np
import polars as pl
import pytest

from tf4ctr.data.fields import SCALES, FieldSpec
from tf4ctr.data.numbers import Distribution, scaled
from tf4ctr.data.schema import Scaling
from tf4ctr.data.transforms import NUMBER_TRANSFORMS
from tf4ctr.inference.raw_values import INVERSES, example_number, quantile_bins, raw_numbers, raw_texts

TRANSFORMS = [None, *NUMBER_TRANSFORMS]
VALUES = (np.random.default_rng(0).exponential(20, 4000) - 5).round(2)


def fit(values, scale, transform=None):
    """A scaling as preparation fits it, and the scaled values."""
    field = FieldSpec("x", kind="number", transform=transform, scale=scale)
    column = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}).select(field.value())
    distribution = Distribution("x")
    distribution.add(column.select(distribution.query(pl.col("x"))).item().struct.unnest())
    scaling = distribution.scaling(scale)
    return scaling, column.select(scaled(pl.col("x"), scaling)).fill_null(float("nan"))["x"].to_numpy()


def test_every_transform_has_an_inverse():
    assert set(INVERSES) == set(TRANSFORMS)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_scaling_and_transform_are_undone(scale, transform):
    scaling, scaled_N = fit(VALUES, scale, transform)
    raw_N = raw_numbers(scaled_N, scaling, transform)
    if scale == "quantile":  # between two of 257 quantiles
        ranks = np.searchsorted(np.sort(VALUES), raw_N) - np.searchsorted(np.sort(VALUES), VALUES)
        assert np.abs(ranks).max() <= 2 * len(VALUES) / 256
        assert raw_N.min() == pytest.approx(VALUES.min())
        assert raw_N.max() == pytest.approx(VALUES.max())
    else:
        np.testing.assert_allclose(raw_N, VALUES, rtol=1e-5, atol=1e-5)
        texts = raw_texts(scaled_N, scaling, transform)  # VALUES have two decimals
        assert [float(str(text)) for text in texts] == VALUES.tolist()


def test_raw_texts_have_no_more_digits_than_float32():
    values = [19.99, 0, 1234567, -3.5, 1e12, None, 100]
    scaling, scaled_N = fit(values, "none")
    assert raw_texts(scaled_N, scaling, None) == ["19.99", "0", "1234567", "-3.5", "1000000000000", None, "100"]
    scaling, scaled_N = fit([0, 0, 5, 12, 7, None], "standard")
    assert raw_texts(scaled_N, scaling, None) == ["0", "0", "5", "12", "7", None]


def test_values_of_a_number_without_training_values():
    for kind, expected in (("standard", "2.5"), ("quantile", None)):
        scaling, _ = fit([None], kind)
        assert raw_texts(np.array([2.5], np.float32), scaling, None) == [expected]
        bins, names = quantile_bins(np.array([2.5, np.nan], np.float32), scaling, None)
        assert [names[number] for number in bins] == ["(-inf, inf)", "(missing)"]
        assert example_number(scaling, None) == 0


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_bins_are_deciles_in_raw_units(scale, transform):
    scaling, scaled_N = fit(VALUES, scale, transform)
    bins, names = quantile_bins(scaled_N, scaling, transform)
    assert len(names) == 11
    assert names[-1] == "(missing)"
    np.testing.assert_allclose(np.bincount(bins), 400, atol=25)
    limits = [float(text) for name in names[:-1] for text in name[1:-1].split(", ")]
    assert (limits[0], limits[-1]) == (-np.inf, np.inf)
    assert limits[1:-1:2] == limits[2::2]  # one interval begins where the one before ends
    for number in range(10):
        inside = VALUES[bins == number]
        assert inside.min() >= limits[2 * number] - 1e-9
        assert inside.max() < limits[2 * number + 1]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0] * 70 + [1] * 30, ["(-inf, 1)", "[1, inf)"]),
        ([1, 2, 3, 4, 5] * 9, ["(-inf, 2)", "[2, 3)", "[3, 4)", "[4, 5)", "[5, inf)"]),
        ([7] * 9, ["(-inf, inf)"]),
        ([0.25] + [12.5] * 9 + [300], ["(-inf, 12.5)", "[12.5, inf)"]),
        ([1767225600 + number // 50 for number in range(100)], ["(-inf, 1767225601)", "[1767225601, inf)"]),
    ],
)
@pytest.mark.parametrize("scale", ["standard", "quantile", "minmax"])
def test_few_different_values_have_a_bin_each(values, names, scale):
    scaling, scaled_N = fit(values, scale)
    bins, found = quantile_bins(scaled_N, scaling, None)
    assert found == [*names, "(missing)"]
    for value, number in zip(values, bins, strict=True):
        low, high = map(float, names[number][1:-1].split(", "))
        assert low <= value < high


def test_limits_that_are_near_have_as_many_digits_as_they_need():
    values = [100_000 + number / 1000 for number in range(1000)]
    scaling, scaled_N = fit(values, "minmax")
    _, names = quantile_bins(scaled_N, scaling, None)
    assert len(set(names)) == 11


def test_values_beyond_the_training_range_are_in_the_outer_bins():
    scaling, _ = fit(VALUES, "quantile")
    bins, names = quantile_bins(scaling(np.array([-1e9, 1e9])).astype(np.float32), scaling, None)
    assert bins.tolist() == [0, len(names) - 2]


def test_the_example_is_the_median():
    for scale in SCALES:
        scaling, _ = fit([1.5, 19.99, 19.99, 80, 5000], scale, "log1p")
        assert example_number(scaling, "log1p") == 19.99
    assert Scaling("none").quantiles == ()
