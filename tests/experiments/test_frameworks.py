import numpy as np
import polars as pl
import pytest
from scipy import stats

from tf4ctr.experiments.differences import holm
from tf4ctr.experiments.frameworks import against_plain, rows_of, table_of
from tf4ctr.experiments.leaderboard import leaderboard

# AUC under tf4ctr minus that of plain, by model and seed
DIFFERENCES = {"fm": [0.004, 0.005, 0.006], "dnn": [0.0021, 0.0019], "dcn": [-0.0002], "afm": [-0.003, -0.0034]}


def runs_of(differences=DIFFERENCES, dataset="toy", framework="tf4ctr", gauc=True):
    rows = []
    for place, (model, values) in enumerate(differences.items()):
        for seed, value in enumerate(values):
            plain = 0.7 + place / 100 + seed / 1000
            for name, auc in (("plain", plain), (framework, plain + value)):
                metrics = {"test/auc": auc, "test/logloss": 0.9 - auc / 2, **({"test/gauc": auc - 0.1} if gauc else {})}
                rows.append({"framework": name, "model": model, "setting": model, "seed": str(seed), **metrics})
    return pl.DataFrame(rows).with_columns(dataset=pl.lit(dataset))


def compared(runs):
    return against_plain(runs, leaderboard(runs))


def test_it_counts_what_holds_for_the_models():
    (row,) = compared(runs_of()).to_dicts()
    assert (row["dataset"], row["framework"], row["models"], row["seeds"]) == ("toy", "tf4ctr", 4, "1 to 3")
    means = [np.mean(values) for values in DIFFERENCES.values()]
    assert (row["auc above"], row["auc not below"], row["logloss better"], row["gauc above"]) == (2, 3, 2, 2)
    assert row["auc median"] == pytest.approx(np.median(means))
    assert row["logloss median"] == pytest.approx(-np.median(means) / 2)
    assert row["auc p"] == pytest.approx(stats.wilcoxon(means).pvalue)


def test_one_deviation_is_that_of_a_regression_on_the_models():
    """The t-tests of least squares with one column of 0 and 1 per model."""
    runs = runs_of()
    (row,) = compared(runs).to_dicts()
    models = np.repeat(np.arange(4), [len(values) for values in DIFFERENCES.values()])
    design, values = np.eye(4)[models], np.concatenate(list(DIFFERENCES.values()))
    means, (squares,), *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(values) - 4
    assert row["deviation"] == pytest.approx(np.sqrt(squares / freedom))
    several = [values for values in DIFFERENCES.values() if len(values) > 1]
    assert row["equal p"] == pytest.approx(stats.bartlett(*several).pvalue)
    errors = np.sqrt(squares / freedom * np.diag(np.linalg.inv(design.T @ design)))
    corrected = np.array(holm(list(2 * stats.t.sf(abs(means / errors), freedom))))
    assert row["above, one deviation"] == ((corrected < 0.05) & (means > 0)).sum() == 2
    assert row["below, one deviation"] == ((corrected < 0.05) & (means < 0)).sum() == 1
    own = leaderboard(runs).drop_nulls("p (Holm)").filter(pl.col("p (Holm)") < 0.05)["difference"]
    assert row["above"] == (own > 0).sum()
    assert row["below"] == (own < 0).sum()


def test_the_correction_counts_the_models_of_all_datasets_and_frameworks():
    values = {"fm": [0.0009, 0.0011], "dnn": [-0.0001, 0.0001]}
    alone = compared(runs_of(values)).to_dicts()
    assert [row["above, one deviation"] for row in alone] == [1]
    several = pl.concat([runs_of(values), runs_of(values, "other"), runs_of(values, framework="four_heads")]).unique()
    assert [row["above, one deviation"] for row in compared(several).to_dicts()] == [0, 0, 0]
    names = compared(several).select("dataset", "framework").rows()
    assert names == [("other", "tf4ctr"), ("toy", "four_heads"), ("toy", "tf4ctr")]


def test_metrics_and_deviations_that_are_not_there_have_no_line():
    table = compared(runs_of({"fm": [0.001], "dnn": [0.002]}, gauc=False))
    titles, *rows = rows_of(table)
    assert titles == ["minus plain", "tf4ctr, toy"]
    lines = dict(rows)
    assert lines["seeds of a model"] == "1"
    assert lines["median difference of AUC"] == "+0.00150"
    assert lines["significantly above, one deviation"] == "0"
    assert not {"the one deviation", "gAUC above plain", "p (Bartlett), equal deviations"} & lines.keys()
    assert table_of(table).row_count == len(rows)
    with_gauc = runs_of({"fm": [0.001], "dnn": [0.002]}, "other")
    several = pl.concat([with_gauc, runs_of({"fm": [0.001], "dnn": [0.002]}, gauc=False)], how="diagonal")
    assert ["gAUC above plain", "2", ""] in rows_of(compared(several))


def test_a_framework_with_one_seed_stands_beside_one_with_several():
    one_seed = runs_of({"fm": [0.001], "dnn": [0.002]}, framework="four_heads")
    rows = compared(pl.concat([runs_of(), one_seed]).unique(maintain_order=True)).to_dicts()
    assert [(row["framework"], row["deviation"] is None) for row in rows] == [("four_heads", True), ("tf4ctr", False)]


def test_one_model_is_not_summarised():
    assert not len(compared(runs_of({"fm": [0.001, 0.002]})))
    assert not len(compared(runs_of().filter(framework="plain")))


def test_equal_runs_have_no_p():
    (row,) = compared(runs_of({"fm": [0.0, 0.0], "dnn": [0.0, 0.0]})).to_dicts()
    assert row["auc p"] is None
    assert row["deviation"] is None
