"""What becomes of columns that are made to be of a certain kind."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tf4ctr.data.describing import sniffing, survey
from tf4ctr.data.describing.labels import Label
from tf4ctr.data.describing.verdicts import decide, find_group, find_split
from tf4ctr.errors import InputError

ROWS = 12_000
LABEL = Label("click")
RANDOM = np.random.default_rng(0)
CLICK = RANDOM.random(ROWS) < 0.2


def look_at(folder, **columns):
    path = folder / "log.parquet"
    pl.DataFrame({"click": CLICK, **columns}, strict=False).write_parquet(path)
    return survey.read(sniffing.find([str(path)]), ROWS)


def ids(count, first=0):
    return RANDOM.integers(first, first + count, ROWS)


def texts(values):
    return [str(value) for value in values]


SECONDS = 1_700_000_000 + np.arange(ROWS) * 60
COLUMNS = {
    # ids
    "word": RANDOM.choice(["ab", "cd"], ROWS),
    "campaign_id": ids(500),
    "thing": ids(500, 10_000),
    "places": RANDOM.choice([f"{number:03}" for number in range(200)], ROWS),
    "visits_few": ids(20),
    "as_float": ids(300, 4000).astype(float),
    "huge": ids(300) + 2**60,
    "comma": RANDOM.choice(["5,50", "7", "1.234,5"], ROWS),
    "titles": RANDOM.choice(["Big Sleep, The", "Third Man, The", "Heat", "Jaws"], ROWS),
    # numbers
    "ratio": RANDOM.random(ROWS).round(3),
    "price": RANDOM.lognormal(3, 1, ROWS).round(2),
    "age": ids(70, 18),
    "popularity": (RANDOM.pareto(1.0, ROWS) * 20).astype(int),  # looks like counts
    "below_zero": RANDOM.normal(size=ROWS).round(2),
    "gaps": [None if number % 3 else number / 7 for number in range(ROWS)],
    "words": RANDOM.choice(["1.5", "2.5", "\\N", "bad"], ROWS, p=[0.5, 0.4, 0.08, 0.02]),
    # lists
    "genres": RANDOM.choice(["a|b", "a", "b|c|d", "c"], ROWS),
    "items": [[f"i{number % 9}"] * (number % 4) for number in range(ROWS)],
    # left out
    "nothing": [None] * ROWS,
    "same": ["x"] * ROWS,
    "conversion": CLICK & (RANDOM.random(ROWS) < 0.5),
    "copy": np.where(CLICK ^ (RANDOM.random(ROWS) < 0.002), "c", "n"),  # nearly
    "click_time": [second if click else None for second, click in zip(SECONDS.tolist(), CLICK, strict=True)],
    "dwell": np.where(CLICK, RANDOM.random(ROWS) * 9 + 1, RANDOM.random(ROWS)),
    "row": np.arange(ROWS),
    "device_ip": ids(2**31),  # one per row
    "request": [f"r{number}" for number in range(ROWS)],
    "time": SECONDS,
    "day_text": [datetime(2024, 1, 1) + timedelta(hours=number) for number in range(ROWS)],
    "date": [int(f"202401{1 + number % 28:02}") for number in range(ROWS)],
    "born": ["1990-01-01", "1991-05-06"] * (ROWS // 2),
    "floats": [[0.5] * (1 + number % 3) for number in range(ROWS)],
    # vectors
    "vector": [[0.5, 0.25 * number] if number % 9 else None for number in range(ROWS)],
    "vector_text": [f"0.5,1,{number / 7}" for number in range(ROWS)],
}
EXPECTED = {
    "id": ("word", "campaign_id", "thing", "places", "visits_few", "as_float", "huge", "comma", "titles"),
    "number": ("ratio", "price", "age", "popularity", "below_zero", "gaps", "words"),
    "list": ("genres", "items"),
    "left out": tuple([*COLUMNS][18:-2]),
    "vector": ("vector", "vector_text"),
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return look_at(tmp_path_factory.mktemp("log"), **COLUMNS)


@pytest.fixture(scope="module")
def verdicts(facts):
    return decide(facts, LABEL)


def test_roles(verdicts):
    roles = {role: tuple(name for name in COLUMNS if verdicts[name].role == role) for role in EXPECTED}
    assert roles == EXPECTED


@pytest.mark.parametrize(
    ("column", "fields"),
    [
        ("campaign_id", ({},)),
        ("ratio", ({"kind": "number"},)),
        ("price", ({"kind": "number", "transform": "log1p"},)),
        ("age", ({"kind": "number"},)),
        ("words", ({"kind": "number", "invalid": "missing"},)),
        ("genres", ({"separator": "|", "width": 3},)),
        ("items", ({"width": 3},)),
        ("vector", ({"kind": "vector", "width": 2},)),
        ("vector_text", ({"kind": "vector", "separator": ",", "width": 3},)),
        ("row", ()),
    ],
)
def test_options(verdicts, column, fields):
    assert verdicts[column].fields == fields


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("nothing", "it has no values"),
        ("same", "it is constant"),
        ("conversion", "another outcome"),
        ("copy", "it decides the label of 99."),
        ("click_time", "whether it is missing decides the label of 100.0%"),
        ("dwell", "its size decides the label of "),
        ("row", "a key"),
        ("time", "moments (seconds since 1970)"),
        ("day_text", "moments (dates)"),
        ("date", "moments (YYYYMMDD)"),
        ("born", "moments (dates)"),
        ("floats", "lists of numbers of different lengths"),
        ("vector", "2 numbers in each row"),
        ("popularity", "they look like counts"),
        ("age", "'age' in its name"),
        ("places", "leading zeros"),
        ("comma", "numbers with a decimal comma, read as texts: write a point"),
        ("titles", "texts that hold ', ': a list?"),
        ("click", "its values are false and true"),
    ],
)
def test_reasons(verdicts, column, reason):
    assert verdicts[column].reason.startswith(reason)


def test_a_family_of_columns_is_of_one_kind(tmp_path):
    counts = {f"I{number}": (RANDOM.pareto(1.0, ROWS) * 20).astype(int) for number in (1, 2, 3)}
    codes = {f"C{number}": ids(400, 1000) for number in (1, 2, 3)}
    few = {"I4": ids(4), "C4": (RANDOM.pareto(1.0, ROWS) * 20).astype(int)}
    verdicts = decide(look_at(tmp_path, **counts, **codes, **few), LABEL)
    assert {name: verdicts[name].role for name in ("I1", "I4", "C1", "C4")} == {
        "I1": "number",
        "I4": "number",
        "C1": "id",
        "C4": "id",
    }


def test_hours_become_fields(tmp_path):
    hours = [int(f"141021{number % 24:02}") for number in range(ROWS)]
    verdict = decide(look_at(tmp_path, hour=hours), LABEL)["hour"]
    assert verdict.fields == tuple({"transform": name} for name in ("hour_of_day", "weekday", "weekend"))


def test_ids_with_very_many_values_need_more_rows_each(tmp_path, monkeypatch):
    monkeypatch.setattr("tf4ctr.data.describing.verdicts.RARE", {5000: 10, 1000: 5})
    verdicts = decide(look_at(tmp_path, a=texts(ids(9000)), b=texts(ids(2000)), c=texts(ids(100))), LABEL)
    assert [verdicts[name].fields for name in "abc"] == [({"min_count": 10},), ({"min_count": 5},), ({},)]


def test_few_rows_decide_no_label(tmp_path):
    """In 60 rows of 4 searches, each with one label, the search seems to decide it."""
    path = tmp_path / "log.csv"
    pl.DataFrame({"click": [0, 1, 1, 0] * 15, "search": ["a", "b", "c", "d"] * 15}).write_csv(path)
    facts = survey.read(sniffing.find([str(path)]), 100)
    assert decide(facts, LABEL)["search"].role == "id"


def test_the_group_is_a_user_with_several_rows(tmp_path, facts):
    assert find_group(facts, LABEL, None).value is None
    assert find_group(facts, LABEL, "campaign_id").value == "campaign_id"
    users = look_at(tmp_path, user_id=ids(100), uid=np.arange(ROWS))
    assert find_group(users, LABEL, None).value == "user_id"
    few = look_at(tmp_path, uid=np.arange(ROWS))
    assert find_group(few, LABEL, None) == (None, "no gAUC: uid has fewer than 2 rows per value")


def test_the_moments_in_order_split_the_rows(tmp_path, facts):
    assert find_split(facts, LABEL, None).value == {"by": "time", "valid": 0.1, "test": 0.1}
    assert find_split(facts, LABEL, "day_text").value["by"] == "day_text"
    gaps = ["2000-01-01", None] * (ROWS // 2)
    births = [f"19{50 + number * 17 % 40}-01-01" for number in range(ROWS)]
    choice = find_split(look_at(tmp_path, time=gaps, birth_date=births), LABEL, None)
    assert choice == (None, "8:1:1 by a hash of the row number, as no column orders the rows in time")


def test_the_split_says_where_it_begins(tmp_path):
    days = [f"2024-01-{1 + number * 10 // ROWS:02}" for number in range(ROWS)]
    reason = find_split(look_at(tmp_path, day=days), LABEL, None).reason
    assert "validation, from 2024-01-09 00:00:00 on, and for testing, from 2024-01-10 00:00:00 on" in reason


def test_a_column_that_does_not_order_the_rows_is_refused(facts):
    with pytest.raises(InputError, match=r"time=word: 0 of 12,000 rows have a number or an ISO date"):
        find_split(facts, LABEL, "word")
