"""The facts of columns, against polars over whole frames."""

import numpy as np
import polars as pl
import pytest

from tf4ctr.data.describing import sniffing, survey
from tf4ctr.data.describing.survey import Guess, Values, guess, has_decimal_commas, list_separator
from tf4ctr.errors import InputError


def read(tmp_path, frame, name="log.csv", **options):
    path = tmp_path / name
    getattr(frame, "write_csv" if name.endswith(".csv") else "write_parquet")(path)
    return survey.read(sniffing.find([str(path)]), options.pop("sample_rows", 1000), **options)


def test_different_values_are_counted_exactly_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(survey, "KEPT_VALUES", 64)
    random = np.random.default_rng(0)
    drawn = pl.Series("value", random.integers(0, 60, 5000)).cast(pl.String)
    values = Values()
    for batch in range(0, 5000, 500):
        values.add(drawn[batch : batch + 500].value_counts(name="count").cast({"count": pl.Int64}))
    expected = drawn.value_counts(name="count").sort("count", "value", descending=[True, False])
    assert values.exact
    assert values.number == 60
    assert values.counts.rows() == expected.rows()


def test_beyond_it_they_are_estimated_and_the_kept_ones_counted_exactly(monkeypatch):
    monkeypatch.setattr(survey, "KEPT_VALUES", 1024)
    drawn = pl.Series("value", np.random.default_rng(0).integers(0, 20_000, 100_000)).cast(pl.String)
    values = Values()
    for batch in range(0, 100_000, 5000):
        values.add(drawn[batch : batch + 5000].value_counts(name="count").cast({"count": pl.Int64}))
    assert not values.exact
    assert values.number == pytest.approx(drawn.n_unique(), rel=0.1)  # three standard errors
    counts = values.counts
    assert len(counts) == 1024
    joined = counts.join(drawn.value_counts(name="true"), on="value")
    assert (joined["count"] == joined["true"]).all()


def test_numbers_lists_moments_and_gaps(tmp_path):
    frame = pl.DataFrame(
        {
            "x": ["1", "2.5", None, "bad", "-3"],
            "tags": ["a|b", "a", None, "b|c|a", "c"],
            "time": ["2024-01-01", "2024-01-02T03:00:00", None, "2024-01-03", "2024-01-03"],
            "code": ["007", "12", "12", "13", None],
        }
    )
    facts = read(tmp_path, frame)
    assert facts.rows == 5
    x, tags, time, code = facts.columns.values()
    assert (x.rows, x.missing, x.fractions, dict(x.words)) == (5, 1, 1, {"bad": 1})
    assert x.numbers.quantiles([0, 1]) == [-3, 2.5]
    assert (tags.guess.separator, tags.missing, dict(tags.lengths)) == ("|", 1, {0: 1, 1: 2, 2: 1, 3: 1})
    assert tags.values.counts.rows() == [("a", 3), ("b", 2), ("c", 2)]
    assert (time.moments.rows, time.forms["date"], time.guess.increasing) == (4, 4, 1.0)
    assert (code.padded, code.distinct) == (1, 3)


def test_typed_columns(tmp_path):
    frame = pl.DataFrame(
        {
            "x": [1.0, float("nan"), None, 2.5],
            "tags": [["a", None, ""], [], None, ["a", "b"]],
            "flag": [True, False, True, None],
        }
    )
    x, tags, flag = read(tmp_path, frame, "log.parquet").columns.values()
    assert (x.missing, x.nans, x.fractions) == (2, 1, 1)
    assert (tags.is_list, tags.missing, dict(tags.lengths)) == (True, 2, {0: 2, 1: 1, 2: 1})
    assert flag.values.counts.rows() == [("true", 2), ("false", 1)]


def test_all_rows_are_read_not_only_the_sample(tmp_path):
    frame = pl.DataFrame({"x": [str(number) for number in range(500)] + ["late"], "y": 1})
    facts = read(tmp_path, frame, sample_rows=10)
    assert len(facts.sample) == 10
    assert dict(facts.columns["x"].words) == {"late": 1}
    assert facts.columns["x"].distinct == 501


def test_files_with_other_types_and_orders_of_columns(tmp_path):
    pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"b": ["z"], "a": [2.5]}).write_parquet(tmp_path / "2.parquet")
    facts = survey.read(sniffing.find([str(tmp_path)]), 10)
    assert facts.columns["a"].numbers.quantiles([0, 1]) == [1, 2.5]
    assert facts.sample.rows() == [("1", "x"), ("2", "y"), ("2.5", "z")]


def test_invalid_lines_are_reported(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("click,user\n0,1\n1\n0,3\n")
    with pytest.raises(InputError, match="line 3: 1 cells, the header has 2"):
        survey.read(sniffing.find([str(path)]), 10)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Comedy|Drama", "Action", "Drama"], "|"),
        (["170301^573514", "1", "2^3^4"], "^"),
        (["red, blue", "blue", "red, green, blue", "blue, green", "red, blue"], ", "),
        (["1 2", "2", "1 2 3", "3 1"], " "),
        (["1,2,3", "2,3,1", "1,3,2"], ","),  # always three
        (["New York", "Los Angeles", "New York", "Rome"], None),
        (["Usual Suspects, The (1995)", "Toy Story (1995)", "Heat (1995)"], None),
        (["a|b", "c|d"], None),  # a key of two parts
        (["1,234", "12", "1,234,567"], None),  # thousands
        (["noël, science fiction", "drama", "drama, noël", "science fiction, R&B, drama", "R&B, noël"], ", "),
        (["science fiction,drama", "drama,noël,art house", "art house", "art house,science fiction"], ","),
        (["Big Sleep, The", "Dark Knight, The", "Heat", "Third Man, The", "Big Sleep, The", "Heat"], None),
        (["Paris, France", "Lyon, France", "Rome, Italy", "Paris, France", "Oslo", "Oslo"], None),
        (["Agent/5 (A, like B) C/1", "Agent/5 (A, like B) C/2", "Agent/6 (A, like B) C/1", "Other/1"], None),
        (["['a', 'b']", "['a']", "['b', 'a', 'c']", "['c', 'b']"], None),
    ],
)
def test_separators_of_lists(texts, expected):
    assert list_separator(pl.Series(texts)) == expected


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("x", ["1", "2", "\\N", "\\N", "\\N"], Guess(numeric=True)),
        ("x", ["a", "b", "1"], Guess()),
        ("x", [None, None], Guess(numeric=True)),
        ("time", ["3", "1", "2"], Guess(numeric=True, temporal=True, increasing=0.5)),
        ("x", ["2024-01-02 10:00:00", "2024-01-03"], Guess(temporal=True, increasing=1.0)),
        ("x", ["1^2", "1", "1"], Guess("^", numeric=True)),
        ("x", [["1", "2"], ["3"]], Guess(numeric=True)),
        ("x", ["5,50", "7,25", "-1,5"], Guess(decimal_comma=True)),
        ("x", ["5", "10", "5,5"], Guess(numeric=True, decimal_comma=True)),
    ],
)
def test_guesses(name, values, expected):
    assert guess(pl.Series(name, values)) == expected


def test_a_column_of_moments_that_is_known():
    assert guess(pl.Series("x", ["1", "2"]), is_time=True).temporal


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["5,50", "1.234,5", "7"], True),
        (["5,50"] * 30 + ["free"], True),  # nearly all
        (["1,234", "12", "1,234,567"], False),  # thousands
        (["1,2,3", "4,5", "6"], False),  # a list
        (["5.50", "7"], False),
        (["5,50", "a,b"], False),
    ],
)
def test_decimal_commas(texts, expected):
    assert has_decimal_commas(pl.Series(texts)) is expected


def test_the_first_row_without_a_value_is_found(tmp_path):
    frame = pl.DataFrame({"click": [0, 1, None, 0, None], "user": "u"})
    (tmp_path / "one").mkdir()
    assert read(tmp_path / "one", frame).first_missing("click") == "line 4 of log.csv"
    assert read(tmp_path, frame.cast({"click": float}).fill_null(np.nan), "log.parquet").first_missing("click") == (
        "row 3 of log.parquet"
    )
    frame.fill_null(1).write_csv(tmp_path / "one" / "a.csv")
    assert survey.read(sniffing.find([str(tmp_path / "one")]), 10).first_missing("click") == "line 4 of log.csv"
