from datetime import UTC, datetime

import polars as pl
import pytest

from conftest import make_spec
from tf4ctr.data import periods
from tf4ctr.errors import InputError

FIRST = int(datetime(1998, 2, 27, tzinfo=UTC).timestamp())  # a Friday
DAYS = [0, 1, 2, 3, 3, 10]  # days after it


def write_log(folder, moments, rows_each=100):
    folder.mkdir(exist_ok=True)
    rows = [
        {"click": number % 2, "user": number % 9, "time": moment} for moment in moments for number in range(rows_each)
    ]
    pl.DataFrame(rows).write_csv(folder / "log.csv")
    return make_spec(
        folder,
        fields=["user"],
        group=None,
        layouts=[{"reader": "csv", "all": "log.csv"}],
        split={"by": "time", "valid": 0.1, "test": 0.1},
    )


def cut(spec, folder, every="day", min_rows=100, by="time"):
    return periods.cut(spec, by, every, min_rows, folder)


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("day", {"1998-02-27": 100, "1998-02-28": 100, "1998-03-01": 100, "1998-03-02": 200, "1998-03-09": 100}),
        ("week", {"1998-02-23": 300, "1998-03-02": 200, "1998-03-09": 100}),
        ("month", {"1998-02-01": 200, "1998-03-01": 400}),
    ],
)
def test_days_weeks_and_months(tmp_path, every, expected, is_text):
    moments = [FIRST + day * 86400 + 7000 for day in DAYS]
    shown = [f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}" for moment in moments] if is_text else moments
    spec = write_log(tmp_path / "raw", shown)
    found = cut(spec, tmp_path / "cut", every)
    assert {period.label: period.rows for period in found} == expected
    rows = []
    for period in found:
        train, valid = (pl.read_parquet(folder / "*.parquet") for folder in (period.train, period.valid))
        assert len(train) + len(valid) == period.rows
        assert 0.02 < len(valid) / period.rows < 0.25
        rows += [train, valid]
    log = pl.read_csv(tmp_path / "raw" / "log.csv", infer_schema=False)
    read = pl.concat(rows).select(pl.all().cast(pl.String))
    assert read.select(log.columns).sort(pl.all()).equals(log.sort(pl.all()))
    assert cut(spec, tmp_path / "cut", every) == found
    with pytest.raises(InputError, match="was cut with another min_rows"):
        cut(spec, tmp_path / "cut", every, min_rows=101)


def test_values_intervals_and_short_periods(tmp_path):
    spec = write_log(tmp_path / "raw", [14102100, 14102105, 14102123, 14102201, 14102310])
    assert [period.label for period in cut(spec, tmp_path / "values", "value")] == [
        "14102100", "14102105", "14102123", "14102201", "14102310"
    ]  # fmt: skip
    days = cut(spec, tmp_path / "days", 100)
    assert [(period.label, period.rows) for period in days] == [("14102100", 300), ("14102200", 100), ("14102300", 100)]
    joined = cut(spec, tmp_path / "joined", 100, min_rows=150)
    assert [(period.label, period.rows) for period in joined] == [("14102100", 300), ("14102200", 200)]


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [([5, 5], [0, 1]), ([2, 2, 2, 5, 1], [0, 0, 0, 1, 1]), ([1, 1], [0, 0]), ([9], [0]), ([1, 9, 3, 3], [0, 0, 1, 1])],
)
def test_short_intervals_are_joined(rows, numbers):
    assert periods.joined(rows, 5) == numbers


@pytest.mark.parametrize(
    ("moments", "options", "message"),
    [
        ([1, None], {}, "100 rows of toy have no moment"),
        ([FIRST * 1000, FIRST * 1000 + 1], {}, "not in seconds since 1970.*every=86400000"),
        ([1], {"by": "tme"}, "tme"),
    ],
)
def test_moments_that_are_none_are_refused(tmp_path, moments, options, message):
    spec = write_log(tmp_path / "raw", moments)
    with pytest.raises(InputError, match=message):
        cut(spec, tmp_path / "cut", **options)
    assert not (tmp_path / "cut").exists()


def test_a_short_line_is_named(tmp_path):
    spec = write_log(tmp_path / "raw", [1, 2])
    with (tmp_path / "raw" / "log.csv").open("a") as file:
        file.write("1,2\n")
    with pytest.raises(InputError, match="line 202: 2 cells"):
        cut(spec, tmp_path / "cut", "value")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, "day", 100), "by= is missing"),
        (("t", "dy", 100), "every is 'dy': did you mean 'day'"),
        (("t", -2, 100), "every is -2"),
        (("t", "day", 99), "min_rows is 99"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        periods.check_options(*options)
    periods.check_options("t", 0.5, 100)


def test_a_file_of_two_splits_is_cut_once(tmp_path):
    """As describe.py drafts a pair of a training and a test file."""
    spec = write_log(tmp_path / "raw", [FIRST + day * 86400 for day in DAYS])
    layout = {"reader": "csv", "train": "log.csv", "valid": "late.csv", "test": "late.csv"}
    spec = make_spec(tmp_path / "raw", fields=["user"], group=None, layouts=[layout])
    late = pl.DataFrame({"click": [0, 1] * 50, "user": [0] * 100, "time": [FIRST + 20 * 86400] * 100})
    late.write_csv(tmp_path / "raw" / "late.csv")
    assert [period.rows for period in cut(spec, tmp_path / "cut")][-2:] == [100, 100]


def write_splits(folder, values):
    """A parquet file for each split, whose column `price` has the given values."""
    folder.mkdir()
    for number, (split, price) in enumerate(values.items()):
        days = [FIRST + 86400 * number] * 100
        rows = {"click": [0, 1] * 50, "user": [0] * 100, "time": days, "price": price}
        pl.DataFrame(rows).write_parquet(folder / f"{split}.parquet")
    fields = ["user", {"name": "price", "kind": "number"}]
    layout = {"reader": "parquet", **{split: f"{split}.parquet" for split in values}}
    return make_spec(folder, fields=fields, group=None, layouts=[layout])


def test_a_number_may_have_another_type_in_another_split(tmp_path):
    """As `prepare` takes it."""
    values = {"train": [1, 2] * 50, "valid": [1.5, None] * 50, "test": ["3", "4.5"] * 50}
    spec = write_splits(tmp_path / "raw", values)
    found = cut(spec, tmp_path / "cut")
    assert [period.rows for period in found] == [100] * 3
    for period, expected in zip(found, values.values(), strict=True):
        price = pl.concat([pl.read_parquet(folder / "*.parquet") for folder in (period.train, period.valid)])["price"]
        wanted = pl.Series(expected).cast(pl.Float64)
        assert price.cast(pl.Float64).sort().equals(wanted.sort())


def test_a_list_in_one_split_only_is_refused(tmp_path):
    spec = write_splits(tmp_path / "raw", {"train": [1] * 100, "valid": [[1]] * 100, "test": [1] * 100})
    with pytest.raises(InputError, match=r"valid\.parquet: column 'price' is List.*, in train\.parquet it is Int64"):
        cut(spec, tmp_path / "cut")
