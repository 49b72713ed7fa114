"""What the names of columns say."""

import pytest

from tf4ctr.data.describing import column_names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UserID_2", ["user", "id"]),
        ("class of worker", ["class", "of", "worker"]),
        ("clickTime", ["click", "time"]),
        ("101", []),
    ],
)
def test_a_name_is_split_into_words(name, words):
    assert column_names.words(name) == words


@pytest.mark.parametrize(
    "name", ["click", "is_click", "isClick", "Click", "click_flag", "has_clicked", "long_view", "y"]
)
def test_outcomes(name):
    assert column_names.is_outcome(name)


@pytest.mark.parametrize("name", ["click_count", "clicks", "age", "label_id", "is_weekend", "101"])
def test_other_columns_are_no_outcomes(name):
    assert not column_names.is_outcome(name)


def test_the_click_comes_before_the_conversion():
    names = ["conversion", "is_click", "label"]
    assert sorted(names, key=column_names.outcome_rank) == ["label", "is_click", "conversion"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("item_id", ("id", False)),
        ("userid", ("userid", False)),
        ("price_level", ("level", False)),
        ("item_price", ("price", True)),
        ("num_items", ("num", True)),
        ("numerical_12", ("numerical", True)),
        ("user_popularity", None),
        ("C14", None),
    ],
)
def test_a_word_says_id_or_number(name, word):
    assert column_names.kind_word(name) == word


def test_users_keys_times_and_families():
    assert [column_names.is_user(name) for name in ("UserID", "msno", "user", "user_age")] == [True, True, True, False]
    assert [column_names.is_key(name) for name in ("id", "search_id", "item_id")] == [True, True, False]
    assert [column_names.is_time(name) for name in ("time_stamp", "created_at", "item")] == [True, True, False]
    assert [column_names.family(name) for name in ("I12", "C", "109_14")] == ["I", None, "109_"]
