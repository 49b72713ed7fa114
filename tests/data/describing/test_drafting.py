"""Values in one line of yaml, and the settings that depend on the rows."""

import pytest
from omegaconf import OmegaConf

from tf4ctr.data.describing.drafting import _training, flow


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("user", "user"),
        ("train-*.csv", "train-*.csv"),
        ("101", '"101"'),
        ("null", '"null"'),
        ("yes", '"yes"'),
        ("NaN", "NaN"),
        ("1e5", '"1e5"'),
        ("a b: c # d", '"a b: c # d"'),
        ("\t", '"\\t"'),
        ("\x01", '"\\u0001"'),
        ("Größe", "Größe"),
        (None, "null"),
        (0.1, "0.1"),
        ({"name": "price", "width": 3}, "{name: price, width: 3}"),
        ({"column": "action", "positive": ["buy", ">= 4"]}, '{column: action, positive: [buy, ">= 4"]}'),
    ],
)
def test_values_are_read_as_they_were(value, text):
    assert flow(value) == text
    assert OmegaConf.to_container(OmegaConf.create(f"x: {text}"), resolve=True) == {"x": value}


def test_an_interpolation_is_text():
    assert OmegaConf.create(f"x: {flow('${a}')}").x == "${a}"


@pytest.mark.parametrize(("rows", "is_patient"), [(50_000, True), (1_000_000, True), (2_000_000, False)])
def test_a_dataset_with_long_epochs_gets_the_published_patience(rows, is_patient):
    lines = _training(rows)
    assert ("  lr_patience: 0" in lines) == (not is_patient)
