import sys

import numpy as np
import polars as pl
import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.differences import compare, holm, paired


def test_holm_is_the_sequential_correction():
    # m = 4: 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06, 0.6 * 1
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]  # and no p is smaller than one before it
    assert holm([None, 0.01, None, 0.02]) == [None, pytest.approx(0.02), None, pytest.approx(0.02)]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_the_t_test_is_paired():
    differences = np.array([0.2, 0.1])
    t = differences.mean() / (differences.std(ddof=1) / 2**0.5)
    result = paired(pl.DataFrame({"test/auc": [0.9, 0.9, None], "base": [0.7, 0.8, 0.5]}))
    assert result["difference"] == pytest.approx(0.15)
    # Student's t distribution with one degree of freedom is the Cauchy distribution
    assert result["p"] == pytest.approx(2 * (0.5 - np.arctan(t) / np.pi))


def test_runs_with_the_same_seed_are_one_pair():
    rows = [("a", "1", 0.8), ("a", "1", 0.9), ("a", "2", 0.8), ("b", "1", 0.7), ("b", "2", 0.6), ("b", "2", 0.8)]
    runs = pl.DataFrame(rows, ["setting", "seed", "test/auc"], orient="row").with_columns(dataset=pl.lit("toy"))
    args = ["dataset", "setting"], ["dataset"]
    table = compare(runs.filter(setting="a"), runs.filter(setting="b"), *args)
    expected = paired(pl.DataFrame({"test/auc": [0.85, 0.8], "base": [0.7, 0.7]}))
    assert table.select("dataset", "setting").rows() == [("toy", "a")]
    assert table["difference"].to_list() == [pytest.approx(expected["difference"])]
    assert table["p"].to_list() == table["p (Holm)"].to_list() == [pytest.approx(expected["p"])]
    assert compare(runs.clear(), runs, *args).columns == table.columns


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_equal_runs_have_no_p():
    pairs = pl.DataFrame({"test/auc": [0.9, 0.8], "base": [0.9, 0.8]})
    assert paired(pairs) == {"difference": 0, "p": None}
    assert paired(pairs.clear()) == {"difference": None, "p": None}


def test_without_scipy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(InputError, match=r'needs scipy: pip install -e "\.\[report\]"'):
        paired(pl.DataFrame({"test/auc": [0.9], "base": [0.9]}))
