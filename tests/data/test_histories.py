"""Histories from the log equal a join in plain Python, over all ways in which a log is read."""

import logging
import shutil
import tempfile
from bisect import bisect_left
from collections import defaultdict
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import leftovers, make_spec, need_shared
from tf4ctr.data import histories, history_state, preparation, report, vocabulary
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Schema
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError

HISTORY = {"name": "history", "of": "item", "by": "user", "order": "time", "width": 4}
CATEGORIES = {"name": "history_category", "of": "category", "aligned_with": "history"}
GAPS = {"name": "history_gap", "gaps": True, "aligned_with": "history"}
PLACE = {"name": "place", "kind": "number", "scale": "none"}  # of a row in the log
FIELDS = ["user", "item", "category", PLACE]
FILES = {"reader": "csv", **{split: f"{split}-*.csv" for split in SPLITS}}
NAMES = [f"{split}-{part}.csv" for split in SPLITS for part in "ab"]
WHOLE = {"reader": "csv", "all": "*.csv"}
BY_TIME = {"by": "time", "valid": 0.2, "test": 0.2}


@pytest.fixture(autouse=True, scope="module")
def _no_drawing():
    """The report's figure takes three quarters of a small preparation, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_draw", lambda *_: None)
        yield


def drawn_log(rows, seed=0, users=100):
    """A random log in random order: ties; users, moments and actions that are missing."""
    random = np.random.default_rng(seed)
    log = pl.DataFrame(
        {
            "click": random.integers(0, 2, rows),
            "rating": random.integers(1, 6, rows),
            "action": random.choice(["view", "cart", "buy", "leave"], rows),
            "user": [f"u{number}" for number in random.zipf(1.3, rows) % users],
            "team": random.choice(["red", "green", "blue"], rows),
            "item": random.integers(0, 500, rows),
            "category": [f"c{number}" for number in random.integers(0, 9, rows)],
            "time": random.integers(0, rows // 20, rows),  # some 20 rows at each moment
            "minute": random.integers(0, 60, rows),
        }
    )
    log = log.with_columns(
        pl.when(pl.Series(random.random(rows) > 0.02)).then(name).alias(name) for name in ("user", "time", "action")
    )
    return log.with_columns(place=pl.int_range(rows))


def write_log(folder, log, layout=FILES):
    """Write consecutive pieces of a log as six csv files."""
    folder.mkdir()
    ends = [len(log) * number // len(NAMES) for number in range(len(NAMES) + 1)]
    for number, name in enumerate(NAMES):
        log[ends[number] : ends[number + 1]].write_csv(folder / (name if layout is FILES else f"{number}.csv"))
    return folder


def log_spec(folder, *more, layout=FILES, **options):
    return make_spec(
        folder,
        **{"fields": FIELDS, "layouts": [layout], "histories": more, "group": None, "min_count": 1, **options},
    )


def past(log, happens, width=4, by="user", order="time"):
    """The places of the events in the history of each row of a log: a join in plain Python.

    The rows are dictionaries; an event is a row that `happens` is true of.
    """
    events = defaultdict(list)
    for place, row in enumerate(log):
        if row[by] is not None and row[order] is not None and happens(row):
            events[row[by]].append((row[order], place))
    for of_user in events.values():
        of_user.sort()
    found = []
    for row in log:
        of_user = events.get(row[by], []) if row[order] is not None else []
        before = bisect_left(of_user, (row[order], -1))  # events of an earlier moment
        found.append([place for _, place in of_user[max(0, before - width) : before]])
    return found


def padded(values, width):
    """Lists of table rows -> [N, width] with padding, 0, after their ends."""
    result = np.zeros((len(values), width), int)
    for place, row in enumerate(values):
        result[place, : len(row)] = row
    return result


def table_rows(folder, log, field, found, width=4):
    """The table rows, from a field's first one on, of the values of events."""
    known = vocabulary.load(field, folder / "vocabulary").to_list()
    numbers = {value: number for number, value in enumerate(known, 1)}
    own = [numbers.get(str(row[field]), len(known) + 1) for row in log]
    return padded([[own[place] for place in places] for places in found], width)


def gap_rows(log, found, width=4):
    """The same of the times from events: 1 for a time below 1, 2 for one below 3, 3 below 7."""
    times = [row["time"] for row in log]
    gaps = [[times[row] - times[place] for place in places] for row, places in enumerate(found)]
    return padded([[int(gap + 1).bit_length() for gap in row] for row in gaps], width)


def prepared_rows(folder, name):
    """The table rows of a history, from the field's first one on, of the log's rows in order."""
    schema = Schema.load(folder)
    table = pl.concat([pl.read_parquet(folder / f"{split}.parquet") for split in SPLITS]).sort("place")
    return table.select(schema[name].columns).to_numpy() - schema.offset_of(name)


def check(folder, name, expected):
    """That all rows of the log have the expected history."""
    np.testing.assert_array_equal(prepared_rows(folder, name), expected, name)


CONDITIONS = {
    "clicks": ({"label": 1}, lambda row: row["click"] == 1),
    "everything": (None, lambda row: True),
    "actions": ({"action": ["cart", "buy"]}, lambda row: row["action"] in ("cart", "buy")),
    "numbers": ({"rating": [4, 5]}, lambda row: row["rating"] >= 4),
    "both": ({"label": False, "action": "buy"}, lambda row: not row["click"] and row["action"] == "buy"),
}
WAYS = [(FILES, {}), (WHOLE, {"split": BY_TIME}), (WHOLE, {"split_seed": 3})]


def in_order(log, options):
    """A log that has what a way to split it needs: no row may be without its moment."""
    log = log.drop_nulls("time") if "split" in options else log
    return log.with_columns(place=pl.int_range(len(log)))


def test_histories_of_50_000_rows_equal_a_join(tmp_path):
    log = drawn_log(50_000)
    leader = {**HISTORY, "where": {"label": 1}}
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), leader, CATEGORIES, GAPS))
    rows = log.rows(named=True)
    found = past(rows, lambda row: row["click"] == 1)
    assert sum(map(len, found)) > 100_000
    check(prepared, "history", table_rows(prepared, rows, "item", found))
    check(prepared, "history_category", table_rows(prepared, rows, "category", found))
    check(prepared, "history_gap", gap_rows(rows, found))


@pytest.mark.parametrize(("layout", "options"), WAYS, ids=["splits", "by time", "by hash"])
def test_the_events_of_every_condition_are_those_of_a_join(tmp_path, layout, options):
    log = in_order(drawn_log(3_000), options)
    names = {name: {**HISTORY, "name": f"after {name}".replace(" ", "_")} for name in CONDITIONS}
    more = [{**names[name], "where": where} for name, (where, _) in CONDITIONS.items()]
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log, layout), *more, layout=layout, **options))
    rows = log.rows(named=True)
    for name, (_, happens) in CONDITIONS.items():
        found = past(rows, happens)
        assert sum(map(len, found)) > 100
        check(prepared, names[name]["name"], table_rows(prepared, rows, "item", found))


@pytest.mark.parametrize(
    ("label", "where", "happens"),
    [
        ({"column": "rating", "positive": ">= 4"}, {"label": 1}, lambda row: row["rating"] >= 4),
        ({"column": "rating", "positive": ">= 4"}, {"label": 0}, lambda row: row["rating"] < 4),
        (
            {"column": "action", "positive": ["cart", "buy"]},
            {"label": True},
            lambda row: row["action"] in ("cart", "buy"),
        ),
        ({"column": "action", "positive": ["cart", "buy"]}, {"action": "view"}, lambda row: row["action"] == "view"),
    ],
)
def test_a_click_may_be_made_of_another_column(tmp_path, label, where, happens):
    log = drawn_log(600).drop_nulls("action").with_columns(place=pl.int_range(pl.len()))  # a label may not be missing
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), {**HISTORY, "where": where}, label=label))
    rows = log.rows(named=True)
    found = past(rows, happens)
    check(prepared, "history", table_rows(prepared, rows, "item", found))


@contextmanager
def folder_of(log, layout):
    """A folder of a log's files: hypothesis draws many of them in one test."""
    with tempfile.TemporaryDirectory() as scratch:
        yield write_log(Path(scratch) / "raw", log, layout)


EVENTS = st.tuples(
    st.sampled_from(["a", "b", None]), st.sampled_from([-7, 0, 0.5, 1, 2.0**40, None]), st.integers(0, 1)
)


@given(st.lists(EVENTS, min_size=6, max_size=30), st.booleans(), st.integers(2, 3), st.sampled_from([4, 100]))
@settings(max_examples=15, deadline=None)
def test_histories_of_small_logs_equal_a_join(events, is_whole, width, rows_per_part):
    log = pl.DataFrame(events, schema={"user": pl.String, "time": pl.Float64, "click": pl.Int64}, orient="row")
    numbers = pl.int_range(len(log))
    log = log.with_columns(place=numbers, item=numbers % 5, category=numbers % 2, fold=numbers % 3)
    layout, split = FILES, None
    if is_whole:
        layout, split = WHOLE, {"by": "fold", "values": dict(zip(SPLITS, ([0], [1], [2]), strict=True))}
    leader = {**HISTORY, "where": {"label": 1}, "width": width}
    with folder_of(log, layout) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "ROWS_PER_PART", rows_per_part)
        prepared = prepare(log_spec(folder, leader, GAPS, layout=layout, split=split))
        rows = log.rows(named=True)
        found = past(rows, lambda row: row["click"] == 1, width)
        expected = table_rows(prepared, rows, "item", found, width)
        check(prepared, "history", expected)
        check(prepared, "history_gap", gap_rows(rows, found, width))


def test_ties_of_one_moment_stay_in_the_order_of_the_files(tmp_path):
    """The events of one moment; row 9, of a later one, has the last four of them."""
    log = pl.DataFrame(
        {"click": [1] * 12, "user": ["u"] * 12, "item": range(12), "category": range(12), "place": range(12)}
    ).with_columns(time=pl.when(pl.col("place") == 9).then(1).otherwise(0))
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), HISTORY))
    found = prepared_rows(prepared, "history")
    assert not found[[*range(9), 10, 11]].any()
    known = vocabulary.load("item", prepared / "vocabulary").to_list()
    assert known == [str(item) for item in range(4)]  # those of the training rows
    assert found[9].tolist() == [5, 5, 5, 5]  # all out of vocabulary
    hashed = ["user", {"name": "item", "hash": 10**6}, "category", PLACE]
    folder = prepare(log_spec(tmp_path / "raw", HISTORY, fields=hashed))
    items = pl.concat([pl.read_parquet(folder / f"{split}.parquet") for split in SPLITS])
    own = items["item"] - Schema.load(folder).offset_of("item")
    assert prepared_rows(folder, "history")[9].tolist() == own[[7, 8, 10, 11]].to_list()


def test_histories_have_users_moments_and_conditions_of_their_own(tmp_path):
    log = drawn_log(1_500)
    more = [
        {**HISTORY, "where": {"label": 1}},
        GAPS,
        {"name": "of_team", "of": "category", "by": "team", "order": "minute", "where": {"action": "buy"}, "width": 7},
        {"name": "items_of_team", "of": "item", "aligned_with": "of_team"},
        {"name": "users_of_item", "of": "user", "by": "item", "order": "time", "width": 3},
        CATEGORIES,
    ]
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), *more))
    rows = log.rows(named=True)
    clicks = past(rows, lambda row: row["click"] == 1)
    bought = past(rows, lambda row: row["action"] == "buy", 7, "team", "minute")
    of_item = past(rows, lambda row: True, 3, "item")
    for name, expected in {
        "history": table_rows(prepared, rows, "item", clicks),
        "history_category": table_rows(prepared, rows, "category", clicks),
        "history_gap": gap_rows(rows, clicks),
        "of_team": table_rows(prepared, rows, "category", bought, 7),
        "items_of_team": table_rows(prepared, rows, "item", bought, 7),
        "users_of_item": table_rows(prepared, rows, "user", of_item, 3),
    }.items():
        check(prepared, name, expected)
    schema = Schema.load(prepared)
    assert [[field.name for field in group] for group in schema.histories] == [
        ["history", "history_gap", "history_category"],
        ["of_team", "items_of_team"],
        ["users_of_item"],
    ]
    kept = {path.stem for path in (prepared / history_state.FOLDER).iterdir()}
    assert kept == {"history", "of_team", "users_of_item"}


@pytest.mark.parametrize(
    "options",
    [{"hash": 50}, {"max_values": 20}, {"column": "minute", "transform": "age_decade"}],
    ids=["hashed", "frequent values", "transformed"],
)
def test_a_history_has_the_table_rows_of_its_field(tmp_path, options):
    log = drawn_log(600)
    fields = ["user", {"name": "item", **options}, "category", PLACE]
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), HISTORY, fields=fields))
    schema = Schema.load(prepared)
    assert schema["history"].hashed == ("hash" in options)
    assert schema.offset_of("history") == schema.offset_of("item")
    own = prepared_rows(prepared, "item")[:, 0]
    expected = padded([own[places] for places in past(log.rows(named=True), lambda row: True)], 4)
    check(prepared, "history", expected)


@pytest.mark.parametrize(("layout", "options"), WAYS, ids=["splits", "by time", "by hash"])
def test_a_limit_takes_the_first_rows_and_their_histories(tmp_path, layout, options):
    log = in_order(drawn_log(600), options)
    limit = 130  # of two files of 100 rows for each split, or of six for all
    folder = write_log(tmp_path / "raw", log, layout)
    prepared = prepare(log_spec(folder, HISTORY, layout=layout, limit_rows=limit, **options))
    rows = log.rows(named=True)
    taken = rows[:limit]
    if layout is FILES:
        taken = [row for first in (0, 200, 400) for row in rows[first : first + limit]]
    expected = table_rows(prepared, taken, "item", past(taken, lambda row: True))
    check(prepared, "history", expected)


def contents(folder):
    """All files that do not tell the time."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_many_parts_of_users_give_the_same_rows_as_one(tmp_path, monkeypatch):
    folder = write_log(tmp_path / "raw", drawn_log(3_000))
    more = [{**HISTORY, "where": {"label": 1}}, CATEGORIES, GAPS]
    first = prepare(log_spec(folder, *more, prepared_dir=tmp_path / "one"))
    monkeypatch.setattr(histories, "ROWS_PER_PART", 100)
    assert histories.parts_of(3_000) == 30
    second = prepare(log_spec(folder, *more, prepared_dir=tmp_path / "many"))
    one, many = contents(first), contents(second)
    states = [pl.read_parquet(folder / "histories" / "history.parquet").sort("__user") for folder in (first, second)]
    assert states[0].equals(states[1])
    for files in (one, many):  # the users of the parts are in another order
        del files["histories/history.parquet"]
    assert one == many


def test_the_engine_ray_gives_the_same_bytes(tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=2, ignore_reinit_error=True, **options)
    more = [{**HISTORY, "where": {"label": 1}}, CATEGORIES, GAPS]
    try:
        for number, (layout, options) in enumerate([(WHOLE, {"split_seed": 3, "limit_rows": 450}), (FILES, {})]):
            folder = write_log(tmp_path / f"raw{number}", drawn_log(600), layout)
            here, there = (
                prepare(
                    log_spec(folder, *more, layout=layout, prepared_dir=tmp_path / engine / str(number), **options),
                    engine,
                )
                for engine in ("polars", "ray")
            )
            assert contents(here) == contents(there)
    finally:
        ray.shutdown()


def test_all_of_movielens_100k_equals_a_join(tmp_path):
    raw = need_shared("movielens_100k")
    spec = make_spec(
        raw,
        prepared_dir=tmp_path / "prepared",
        fields=["user", "item"],
        histories=[
            {**HISTORY, "order": "timestamp", "where": {"label": 1}, "width": 50},
            GAPS,
        ],
        label={"column": "rating", "positive": ">= 4"},
        split={"by": "timestamp", "valid": 0.1, "test": 0.1},
        layouts=[{"reader": "grouplens_100k", "all": "u.data"}],
    )
    prepared = prepare(spec)
    first, second = read_manifest(prepared)["moments"]
    log = []
    for line in (raw / "u.data").read_text().splitlines():
        user, item, rating, time = line.split("\t")
        log.append({"user": user, "item": item, "rating": int(rating), "time": int(time)})
    found = past(log, lambda row: row["rating"] >= 4, 50)
    items, gaps = table_rows(prepared, log, "item", found, 50), gap_rows(log, found, 50)
    times = np.array([row["time"] for row in log])
    schema = Schema.load(prepared)
    for split, own in zip(SPLITS, (times < first, (times >= first) & (times < second), times >= second), strict=True):
        table = pl.read_parquet(prepared / f"{split}.parquet")
        for name, expected in (("history", items), ("history_gap", gaps)):
            ids = table.select(schema[name].columns).to_numpy() - schema.offset_of(name)
            np.testing.assert_array_equal(ids, expected[own])
    assert read_manifest(prepared)["vocabulary_sizes"]["history_gap"] == 66


def test_rows_without_a_user_or_a_moment_have_empty_histories_and_a_warning_counts_them(tmp_path, caplog):
    log = drawn_log(600)
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), HISTORY, GAPS))
    missing = (log["user"].is_null() | log["time"].is_null()).to_numpy()
    assert not prepared_rows(prepared, "history")[missing].any()
    assert not prepared_rows(prepared, "history_gap")[missing].any()
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"toy: {missing.sum()} of 600 rows have no 'user' or no 'time': their history 'history' is empty"]


@pytest.mark.parametrize("missing", ["user", "time"])
def test_a_log_without_any_user_or_moment_has_empty_histories(tmp_path, missing, caplog):
    log = drawn_log(60).with_columns(pl.lit(None, pl.String).alias(missing))
    folder = write_log(tmp_path / "raw", log)
    prepared = prepare(log_spec(folder, HISTORY, CATEGORIES, GAPS, fields=["item", "category", PLACE]))
    for name in ("history", "history_category", "history_gap"):
        assert not prepared_rows(prepared, name).any()
    assert len(pl.read_parquet(prepared / "histories" / "history.parquet")) == 0
    assert "60 of 60 rows have no 'user' or no 'time'" in caplog.text


def test_a_condition_that_no_row_fulfils_is_a_warning(tmp_path, caplog):
    folder = write_log(tmp_path / "raw", drawn_log(60))
    prepared = prepare(log_spec(folder, {**HISTORY, "where": {"action": ["purchase"]}}))
    assert "history 'history' is empty in all rows: none has {'action': ['purchase']}" in caplog.text
    assert not prepared_rows(prepared, "history").any()


BEGIN = datetime(2026, 1, 1)


@pytest.mark.parametrize(
    "written",
    [
        lambda second: (BEGIN + timedelta(seconds=second)).isoformat(),
        lambda second: (BEGIN + timedelta(seconds=second)).strftime("%Y-%m-%d %H:%M:%S.250Z"),
        lambda second: 1_767_225_600 + second,
        lambda second: float(second),
    ],
    ids=["ISO", "ISO with a fraction", "seconds since 1970", "floats"],
)
def test_moments_may_be_numbers_or_dates(tmp_path, written):
    log = drawn_log(600).with_columns(pl.col("time") * 600)
    rows = log.rows(named=True)
    texts = [None if row["time"] is None else str(written(row["time"])) for row in rows]
    folder = write_log(tmp_path / "raw", log.with_columns(time=pl.Series(texts)))
    prepared = prepare(log_spec(folder, HISTORY, GAPS))
    found = past(rows, lambda row: True)
    check(prepared, "history", table_rows(prepared, rows, "item", found))
    check(prepared, "history_gap", gap_rows(rows, found))


@pytest.mark.parametrize(
    "times",
    [pl.lit(BEGIN) + pl.duration(seconds=pl.col("time")), pl.col("time").cast(pl.Float64).fill_null(float("nan"))],
    ids=["datetimes", "floats with NaN"],
)
def test_moments_of_parquet_may_have_any_type(tmp_path, times):
    log = drawn_log(600)
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, split in enumerate(SPLITS):
        log[200 * number : 200 * (number + 1)].with_columns(time=times).write_parquet(folder / f"{split}.parquet")
    layout = {"reader": "parquet", **{split: f"{split}.parquet" for split in SPLITS}}
    prepared = prepare(log_spec(folder, HISTORY, layout=layout))
    rows = log.rows(named=True)
    expected = table_rows(prepared, rows, "item", past(rows, lambda row: True))
    check(prepared, "history", expected)


@pytest.mark.parametrize("gap", [0, 0.5, 1, 2.999, 3, 6, 7, 2.0**31 - 1, 2.0**31, 2.0**62, 1e30])
def test_a_gap_is_told_by_its_power_of_two(gap):
    (column,) = histories.gap_columns(
        np.array([0.0]), np.array([gap]), np.array([0]), np.array([1]), width=1, padding=10
    )
    power = min(63, next(power for power in range(200) if gap < 2 ** (power + 1) - 1))
    assert column.tolist() == [10 + 1 + power]


def test_a_gap_of_an_unknown_moment_is_the_last_row_and_no_event_is_padding():
    columns = histories.gap_columns(
        np.array([5.0]), np.array([np.nan, 4.0, 9.0]), np.zeros(3, int), np.array([1, 1, 0]), width=2, padding=10
    )
    assert [column.tolist() for column in columns] == [[10 + 65, 10 + 1, 10], [10, 10, 10]]


@pytest.mark.parametrize(
    "change",
    [
        {"width": 5},
        {"where": {"label": 0}},
        {"where": None},
        {"by": "team"},
        {"order": "minute"},
    ],
    ids=["width", "where", "no condition", "by", "order"],
)
def test_another_option_prepares_again(tmp_path, change, caplog):
    caplog.set_level(logging.INFO)
    folder = write_log(tmp_path / "raw", drawn_log(120))
    leader = {**HISTORY, "where": {"label": 1}}
    prepare(log_spec(folder, leader))
    prepare(log_spec(folder, leader))
    assert "using the prepared dataset" in caplog.text
    assert "with other settings" not in caplog.text
    prepared = prepare(log_spec(folder, leader | change))
    assert "with other settings (fields" in caplog.text
    assert len(Schema.load(prepared)["history"].columns) == change.get("width", 4)


def test_nothing_is_left_but_the_histories_of_users(tmp_path):
    spec = log_spec(write_log(tmp_path / "raw", drawn_log(120)), HISTORY, CATEGORIES, GAPS)
    prepared = prepare(spec)
    assert {path.name for path in prepared.iterdir()} == {
        *(f"{split}.parquet" for split in SPLITS),
        *("schema.json", "manifest.json", "report.md", "vocabulary", "histories"),
    }
    assert [path.name for path in (prepared / "histories").iterdir()] == ["history.parquet"]
    assert leftovers(spec) == []


@pytest.mark.parametrize(
    "step", ["histories._part", "histories._Linker.close", "histories.Histories.add_to", "passes.histories.events"]
)
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, step, monkeypatch):
    def fail(*arguments):
        raise InputError("the disk is full")

    monkeypatch.setattr(f"tf4ctr.data.{step}", fail)
    spec = log_spec(write_log(tmp_path / "raw", drawn_log(120)), HISTORY)
    with pytest.raises((InputError, pl.exceptions.ComputeError), match="the disk is full"):
        prepare(spec)
    assert not spec.prepared_dir.exists()
    assert leftovers(spec) == []


def test_histories_that_may_not_fit_the_disk_are_refused(tmp_path, monkeypatch):
    spec = log_spec(write_log(tmp_path / "raw", drawn_log(120)), {**HISTORY, "width": 1000}, GAPS)
    free = shutil.disk_usage(tmp_path)._replace(free=900_000)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda folder: free)
    message = r"2000 columns of sequences for 120 rows may need 1\.0 MB .* 0\.9 MB are free: .* lower their width"
    with pytest.raises(InputError, match=message):
        prepare(spec)
    assert leftovers(spec) == []


@pytest.mark.parametrize("layout", [FILES, WHOLE], ids=["splits", "by time"])
def test_no_history_has_an_event_of_its_own_moment_or_a_later_one(tmp_path, layout):
    log = drawn_log(600).drop_nulls("time")
    log = log.with_columns(item=pl.int_range(len(log)), place=pl.int_range(len(log)))  # an item tells its row
    options = {"split": BY_TIME} if layout is WHOLE else {}
    fields = ["user", {"name": "item", "hash": 10**9}, "category", PLACE]
    spec = log_spec(write_log(tmp_path / "raw", log, layout), HISTORY, layout=layout, fields=fields, **options)
    prepared = prepare(spec)
    items, found = prepared_rows(prepared, "item")[:, 0], prepared_rows(prepared, "history")
    assert len(set(items)) == len(log)
    places = {item: place for place, item in enumerate(items)}
    count = 0
    for row, history in zip(log.rows(named=True), found, strict=True):
        for item in history[history > 0]:
            event = log.row(places[item], named=True)
            assert event["user"] == row["user"]
            assert event["time"] < row["time"]
            count += 1
    assert count > 1_000


@pytest.mark.parametrize("layout", [FILES, WHOLE], ids=["splits", "by time"])
def test_labels_of_a_moment_and_later_do_not_change_its_histories(tmp_path, layout):
    log = drawn_log(600).drop_nulls("time").with_columns(place=pl.int_range(pl.len()))
    options = {"split": BY_TIME} if layout is WHOLE else {}
    more = [{**HISTORY, "where": {"label": 1}}, GAPS]

    def found(name, clicks):
        folder = write_log(tmp_path / name, log.with_columns(click=clicks), layout)
        prepared = prepare(log_spec(folder, *more, layout=layout, prepared_dir=tmp_path / f"of {name}", **options))
        return np.hstack([prepared_rows(prepared, "history"), prepared_rows(prepared, "history_gap")])

    before, random = found("before", log["click"]), np.random.default_rng(0)
    changed = []
    for moment in np.quantile(log["time"], [0.1, 0.5, 0.9]).round():
        later = (log["time"] >= moment).to_numpy()
        clicks = log["click"].to_numpy().copy()
        clicks[later] = random.permutation(clicks[later])
        after = found(f"after {moment}", clicks)
        untouched = (log["time"] <= moment).to_numpy()
        np.testing.assert_array_equal(after[untouched], before[untouched])
        changed.append((after[~untouched] != before[~untouched]).any())
    assert changed[:2] == [True, True]


def test_a_label_that_only_the_future_tells_is_not_in_a_history(tmp_path):
    """A click is a row whose user comes back. All events before a row are clicks by that, whatever
    the row itself is: its history tells nothing. With the row itself among them it would tell all.
    """
    log = drawn_log(600).drop_nulls("time").with_columns(place=pl.int_range(pl.len()))
    log = log.with_columns(click=(pl.col("time") < pl.col("time").max().over("user")).cast(int))
    assert 1 - log["click"].mean() > 0.02
    clicked, everything = {**HISTORY, "where": {"label": 1}}, {**HISTORY, "name": "everything"}
    prepared = prepare(log_spec(write_log(tmp_path / "raw", log), clicked, everything))
    check(prepared, "history", prepared_rows(prepared, "everything"))


def test_a_file_that_is_in_two_splits_is_refused(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("click,user,item,time\n1,a,x,1\n0,a,y,2\n")
    history = {"name": "history", "of": "item", "by": "user", "order": "time", "width": 3}
    layout = {"reader": "csv", "train": "train.csv", "valid": "test.csv", "test": "test.csv"}
    spec = make_spec(
        tmp_path, fields=["user", "item"], histories=[history], layouts=[layout], prepared_dir=tmp_path / "prepared"
    )
    with pytest.raises(InputError, match=r"test\.csv is both valid and test .* its events would count twice"):
        prepare(spec)
    assert leftovers(spec) == []
