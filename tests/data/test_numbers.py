import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf4ctr.data import numbers
from tf4ctr.data.numbers import Distribution, scaled
from tf4ctr.data.schema import Scaling
from tf4ctr.errors import InputError


def distribution(*batches):
    """The distribution of some batches, missing values included."""
    result = Distribution("x")
    for batch in batches:
        values = pl.DataFrame({"x": pl.Series(batch, dtype=pl.Float64)})
        result.add(values.select(result.query(pl.col("x"))).item().struct.unnest())
    return result


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_batches_give_the_numbers_of_the_whole(batches):
    values = np.array([value for batch in batches for value in batch])
    result = distribution(*batches)
    assert result.rows == len(values)
    ranks = [0, 0.25, 0.5, 1]
    if len(values):
        assert result.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert result.quantiles(ranks) == np.quantile(values, ranks, method="inverted_cdf").tolist()
        spread = result.scaling("standard").spread
        assert spread == pytest.approx(values.std() or 1, rel=1e-5, abs=1e-5) or spread == 1
    halves = distribution(*batches[::2])
    halves.join(distribution(*batches[1::2]))
    assert halves.quantiles(ranks) == result.quantiles(ranks)
    assert halves.rows == result.rows


def test_more_values_than_are_kept_move_a_quantile_by_little(monkeypatch):
    monkeypatch.setattr(numbers, "MAX_VALUES", 1000)
    values = np.random.default_rng(0).normal(size=20_000)
    result = distribution(*np.split(values, 40))
    ranks = np.linspace(0, 1, 21)
    places = np.searchsorted(np.sort(values), result.quantiles(ranks)) / len(values)
    assert np.abs(places - ranks).max() < 0.05
    assert result.mean == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("standard", [-np.sqrt(1.5), 0, np.sqrt(1.5), 3 * np.sqrt(1.5)]),
        ("minmax", [0, 0.5, 1, 2]),
        ("quantile", [0, 0.5, 1, 1]),
        ("none", [1, 2, 3, 5]),
    ],
)
def test_scalings(kind, expected):
    scaling = distribution([1.0, 2.0, 3.0, None]).scaling(kind)
    rows = pl.DataFrame({"x": [1.0, 2.0, 3.0, 5.0, None]}).select(scaled(pl.col("x"), scaling))
    assert rows.schema["x"] == pl.Float32
    *values, missing = rows["x"]
    # a rank is that of the middle of the quantiles that a value fills
    assert values == pytest.approx(expected, rel=1e-5, abs=0.34 if kind == "quantile" else 1e-6)
    assert missing is None


@pytest.mark.parametrize("kind", ["standard", "minmax", "quantile", "none"])
@pytest.mark.parametrize(
    "values", [[3.3] * 7, [None, None], [1e300, -1e300], [7.0], [1494028800.0] * 3 + [1494028801.0]]
)
def test_constant_missing_and_huge_numbers_stay_finite(kind, values):
    scaling = distribution(values).scaling(kind)
    found = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}).select(scaled(pl.col("x"), scaling))["x"]
    assert found.null_count() == sum(value is None for value in values)
    if kind != "none":
        assert found.drop_nulls().is_finite().all()
        assert (found.drop_nulls().abs() < 10).all()


def test_a_large_offset_does_not_cost_digits():
    times = [1494028800.0 + second for second in range(100)]
    scaling = distribution(times).scaling("standard")
    rows = pl.DataFrame({"x": times}).select(scaled(pl.col("x"), scaling))["x"].to_numpy()
    np.testing.assert_allclose(rows, (np.arange(100) - 49.5) / np.arange(100).std(), atol=1e-4)


def test_a_rank_is_monotonic_and_ends_at_zero_and_one():
    values = np.random.default_rng(0).exponential(size=1000).round(1)
    scaling = distribution(values).scaling("quantile")
    ranks = scaling(np.sort(values))
    assert (np.diff(ranks) >= 0).all()
    assert ranks[0] < 0.1
    assert ranks[-1] == 1
    assert np.isnan(scaling(np.array([np.nan])))
    assert Scaling("quantile")(np.array([3.0])) == [0]


def test_where_a_split_by_time_cuts():
    assert distribution([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]).after([0.8, 0.9]) == [4, 5]  # each in a row of its own
    assert distribution([1] * 8 + [2, 3]).after([0.8, 0.9]) == [2, 3]
    assert distribution([1] * 98 + [2, 3]).after([0.8, 0.9]) == [2, 3]
    with pytest.raises(InputError, match="column 'x' has 2 different moments, 3 are needed"):
        distribution([1, 1, 2]).after([0.8, 0.9])
