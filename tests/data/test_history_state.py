"""The last events of users, joined to rows that are predicted: against a search in plain Python."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_spec
from tf4ctr.data import report
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.history_state import HistoryState, path_of
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError

WIDTH = 3
OPTIONS = {"kind": "sequence", "by": "user", "order": "time", "width": WIDTH, "separator": "|"}
HISTORY = FieldSpec("history", of="item", **OPTIONS)
SHOPS = FieldSpec("history_shop", of="shop", aligned_with="history", **OPTIONS)
GAPS = FieldSpec("history_gap", gaps=True, aligned_with="history", **OPTIONS)
FIELDS = (FieldSpec("item"), FieldSpec("shop"), HISTORY, SHOPS, GAPS)
SCHEMA = Schema(
    "toy",
    (
        Field("item", 10),
        Field("shop", 20),
        Field("history", 10, WIDTH, "sequence", of="item"),
        Field("history_shop", 20, WIDTH, "sequence", of="shop", aligned_with="history"),
        Field("history_gap", 66, WIDTH, "sequence", aligned_with="history", gaps=True),
    ),
    "click",
)
PADDINGS = (0, 10, 30)  # of the items, the shops and the times
STATE = {  # user -> moments, table rows of items and of shops, oldest first
    "a": ([1.0, 5.0, 5.0], [3, 4, 5], [13, 14, 15]),
    "b": ([2.5], [6], [16]),
    "c": ([-7.0, 0.0], [7, 8], [17, 18]),
}


def state_of(folder, state):
    """What preparation keeps of these users."""
    path = path_of("history", folder)
    path.parent.mkdir(parents=True)
    columns = zip(*state.values(), strict=True) if state else ([], [], [])
    moments, items, shops = (list(column) for column in columns)
    frame = {
        "__user": pl.Series(list(state), dtype=pl.String),
        "__moment": pl.Series(moments, dtype=pl.List(pl.Float64)),
        "history": pl.Series(items, dtype=pl.List(pl.Int32)),
        "history_shop": pl.Series(shops, dtype=pl.List(pl.Int32)),
    }
    pl.DataFrame(frame).write_parquet(path)
    return HistoryState(HISTORY, FIELDS, SCHEMA, folder)


def searched(state, user, time):
    """The columns of one row: its user's events before its moment, all if it has none."""
    events = list(zip(*state.get(user, ((), (), ())), strict=True))
    before = [event for event in events if time is None or event[0] < time]
    columns = [[event[1] for event in before], [event[2] for event in before], []]
    for moment, _, _ in before:
        columns[2].append(30 + (65 if time is None else 1 + math.floor(math.log2(1 + time - moment))))
    filled = zip(columns, PADDINGS, strict=True)
    return [value for values, padding in filled for value in values + [padding] * (WIDTH - len(values))]


def joined(state, **columns):
    return np.stack(state.columns(pl.DataFrame(columns)), 1).tolist()


USERS = ["a", "a", "a", "a", "b", "b", "c", "nobody", None]
TIMES = [6.0, 5.0, 1.0, None, 2.5, 1e9, 0.0, 9.0, 9.0]


def test_a_row_gets_the_events_before_its_moment(tmp_path):
    state = state_of(tmp_path, STATE)
    found = joined(state, user=USERS, time=TIMES)
    assert found == [searched(STATE, user, time) for user, time in zip(USERS, TIMES, strict=True)]
    assert found[1] == [3, 0, 0, 13, 10, 10, 30 + 3, 30, 30]  # the event of moment 1, and not those of moment 5
    assert found[-2] == found[-1] == [0, 0, 0, 10, 10, 10, 30, 30, 30]


def test_a_row_without_a_moment_gets_all_events_and_their_times_are_unknown(tmp_path):
    state = state_of(tmp_path, STATE)
    expected = [searched(STATE, user, None) for user in USERS]
    assert joined(state, user=USERS) == expected
    assert joined(state, user=USERS, time=[None] * len(USERS)) == expected
    assert expected[0] == [3, 4, 5, 13, 14, 15, 95, 95, 95]


def test_moments_may_be_texts_and_dates(tmp_path):
    second = 1_767_225_600.0  # 2026-01-01
    events = {"a": ([second, second + 59, second + 60], [3, 4, 5], [13, 14, 15])}
    state = state_of(tmp_path, events)
    expected = searched(events, "a", second + 60)
    for time in ("2026-01-01T00:01:00", "2026-01-01 00:01", "1767225660", "1767225660.0"):
        assert joined(state, user=["a"], time=[time]) == [expected]


def test_an_empty_state_gives_empty_histories(tmp_path):
    state = state_of(tmp_path, {})
    assert joined(state, user=["a", None], time=[1.0, 2.0]) == [[0, 0, 0, 10, 10, 10, 30, 30, 30]] * 2


def test_no_rows_are_no_histories(tmp_path):
    rows = pl.DataFrame(schema={"user": pl.String, "time": pl.Float64})
    assert [column.shape for column in state_of(tmp_path, STATE).columns(rows)] == [(0,)] * 9


def test_a_state_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"history\.parquet is missing: it has the histories of users. Train again"):
        HistoryState(HISTORY, FIELDS, SCHEMA, tmp_path)


@pytest.mark.parametrize(
    ("known", "rows", "found"),
    [
        (["3", "12"], ["3", "3.0", "12.0", "12.00", "4"], [True, True, True, False, False]),
        (["3.0", "12.0"], ["3", "3.0", "12", "2"], [True, True, True, False]),
        (["3", "x"], ["3", "3.0", "x"], [True, False, True]),
        (["3", "3.0"], ["3", "3.0", "3.00"], [True, True, False]),
    ],
)
def test_users_that_are_numbers_are_the_same_with_and_without_a_fraction(tmp_path, known, rows, found):
    """As the values of fields: pandas writes 3.0 if a value is missing."""
    state = state_of(tmp_path, {user: ([1.0], [3 + place], [13]) for place, user in enumerate(known)})
    joined_rows = joined(state, user=rows)
    assert [row[0] > 0 for row in joined_rows] == found
    if known == ["3", "3.0"]:  # two users
        assert [row[0] for row in joined_rows] == [3, 4, 0]


EVENTS = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 3.0, 7.0]), st.integers(1, 9)), min_size=1, max_size=WIDTH)


@given(
    st.dictionaries(st.sampled_from("uvwxyz"), EVENTS),
    st.lists(st.tuples(st.sampled_from([*"uvwxyz", None]), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0, 8.0, None]))),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_and_any_state(tmp_path_factory, events, rows):
    state = {}
    for user, of_user in events.items():
        moments, items = zip(*sorted(of_user, key=lambda event: event[0]), strict=True)
        state[user] = (list(moments), list(items), [item + 10 for item in items])
    users, times = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [])
    columns = {"user": pl.Series(users, dtype=pl.String), "time": pl.Series(times, dtype=pl.Float64)}
    found = joined(state_of(tmp_path_factory.mktemp("state"), state), **columns)
    assert found == [searched(state, user, time) for user, time in rows]


@pytest.fixture(scope="module")
def log():
    """A log in which no user has more than 20 clicks, as csv would be read."""
    random = np.random.default_rng(0)
    columns = {
        "click": random.integers(0, 2, 300),
        "user": [None if number == 30 else f"u{number}" for number in random.integers(0, 31, 300)],
        "item": random.integers(0, 12, 300),
        "shop": random.integers(0, 5, 300),
        "time": random.integers(0, 90, 300),
    }
    return pl.DataFrame(columns).with_columns(pl.all().cast(pl.String))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, log):
    """The log as three splits, one after the other."""
    folder = tmp_path_factory.mktemp("drawn") / "raw"
    folder.mkdir()
    for number, split in enumerate(SPLITS):
        log[100 * number : 100 * (number + 1)].write_csv(folder / f"{split}.csv")
    return folder


def prepared_of(folder, width, *fields):
    history = {"name": "history", "of": "item", "by": "user", "order": "time", "where": {"label": 1}, "width": width}
    spec = make_spec(
        folder,
        fields=fields or ["item", "shop"],
        group=None,
        min_count=1,
        prepared_dir=folder.parent / "prepared",
        histories=[
            history,
            {"name": "history_shop", "of": "shop", "aligned_with": "history"},
            {"name": "history_gap", "gaps": True, "aligned_with": "history"},
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_draw", lambda *_: None)
        prepared = prepare(spec)
    return prepared, RowEncoder(Schema.load(prepared), spec.fields, prepared / "vocabulary")


@pytest.mark.parametrize("item", ["item", {"name": "item", "hash": 50}], ids=["known values", "hashed"])
def test_the_rows_of_the_log_get_the_histories_that_preparation_gave_them(drawn, log, item):
    """Where the state has all events: prediction and preparation agree, also on the times."""
    prepared, encoder = prepared_of(drawn, 20, item, "shop")
    assert log.filter(pl.col("click") == "1")["user"].value_counts()["count"].max() <= 20
    table = pl.concat([pl.read_parquet(prepared / f"{split}.parquet") for split in SPLITS])
    expected = table.select(encoder.schema.columns).to_numpy()
    np.testing.assert_array_equal(encoder.ids(log), expected)
    assert (expected[:, encoder.schema.ids_of("history")] != encoder.schema.offset_of("history")).sum() > 500
    # without the moments: all clicks of the user
    last = encoder.ids(log.drop("time"))[:, encoder.schema.ids_of("history")]
    clicks = log.with_row_index("row").filter(pl.col("click") == "1").sort(pl.col("time").cast(int), "row")
    padding = encoder.schema.offset_of("history")
    counts = dict(clicks["user"].value_counts().rows())
    assert (last != padding).sum(1).tolist() == [counts.get(user, 0) if user else 0 for user in log["user"]]


def test_a_row_from_the_middle_of_the_log_gets_those_of_the_last_events_that_are_before_it(drawn, log):
    _, encoder = prepared_of(drawn, 3)
    found = encoder.ids(log)[:, encoder.schema.ids_of("history")] != encoder.schema.offset_of("history")
    clicks = log.filter((pl.col("click") == "1") & pl.col("user").is_not_null())
    times = dict(clicks.group_by("user").agg(pl.col("time").cast(int).sort().tail(3)).rows())
    for (user, time), count in zip(log.select("user", "time").rows(), found.sum(1), strict=True):
        assert count == sum(moment < int(time) for moment in times.get(user, ()))
