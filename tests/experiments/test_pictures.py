import json
from itertools import product

import matplotlib.image
import optuna
import polars as pl
import pytest

from tf4ctr.experiments.pictures import cost, curves, dots, draw_all, draw_search, grid
from tf4ctr.training.pruning import STUDY

CURVES = json.dumps({"epoch": [1, 2, 3], "val/auc": [0.6, None, 0.7], "val/logloss": [0.7, None, 0.6]})


@pytest.fixture
def runs():
    """Eight runs: two ssem, two dfm, two seeds."""
    rows = [
        {
            "dataset": "frappe",
            "setting": f"ssem={ssem} dfm={dfm}",
            "ssem": ssem,
            "dfm": dfm,
            "seed": str(seed),
            "test/auc": number / 10,
            "test/logloss": 1 - number / 10,
            "parameters": 100 + number,
            "seconds": 1.5,
            "curves": CURVES,
        }
        for number, (ssem, dfm, seed) in enumerate(product(("ser", "gm"), ("wsf", "sum"), (1, 2)))
    ]
    return pl.DataFrame(rows)


def two_datasets(runs):
    return pl.concat([runs, runs.with_columns(dataset=pl.lit("avazu"))])


def xy(line):
    return list(line.get_xdata()), list(line.get_ydata())


def test_every_seed_is_a_dot_and_the_best_setting_is_first(runs):
    (axis,) = dots(runs).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        *("ssem=gm dfm=sum", "ssem=gm dfm=wsf", "ssem=ser dfm=sum", "ssem=ser dfm=wsf")
    ]
    assert xy(axis.lines[0]) == ([pytest.approx(0.6), pytest.approx(0.7)], [0, 0])
    assert xy(axis.lines[1]) == ([pytest.approx(0.65)], [0])
    assert axis.yaxis_inverted()
    assert [axis.get_title() for axis in dots(two_datasets(runs)).axes] == ["frappe", "avazu"]


def test_costs_are_those_of_each_run(runs):
    parameters, seconds = cost(runs).axes
    assert xy(parameters.lines[0]) == ([100, 101], [0, pytest.approx(0.1)])
    assert xy(seconds.lines[3]) == ([1.5, 1.5], [pytest.approx(0.6), pytest.approx(0.7)])
    assert [axis.get_xscale() for axis in (parameters, seconds)] == ["log", "log"]
    assert len(cost(two_datasets(runs)).axes) == 4
    assert len(cost(runs.with_columns(seconds=pl.lit(None))).axes) == 1


def test_curves_have_a_panel_for_each_known_metric(runs):
    auc, logloss = curves(runs).axes
    assert [auc.get_ylabel(), logloss.get_ylabel()] == ["validation AUC", "validation logloss"]
    assert [xy(line) for line in auc.lines] == [([1, 3], [0.6, 0.7])] * 8
    assert len({line.get_color() for line in auc.lines}) == 4


def test_a_grid_has_a_panel_for_each_metric(runs):
    figure = grid(runs, ["ssem", "dfm"])
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 2
    texts = [text.get_text() for text in panels[0].texts]
    assert texts == ["0.05000", "0.25000", "0.45000", "0.65000"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["ser", "gm"]
    # white on dark: viridis is dark for small AUCs, its reverse for large loglosses
    assert [text.get_color() for text in panels[0].texts] == ["white", "white", "black", "black"]
    assert [text.get_color() for text in panels[1].texts] == ["white", "white", "black", "black"]
    assert len([axis for axis in grid(two_datasets(runs), ["ssem", "dfm"]).axes if axis.images]) == 4


def test_a_setting_that_only_untrained_jobs_have_does_not_matter(runs):
    assert grid(runs.with_columns(dry_run=pl.lit(None)), ["dry_run", "ssem", "dfm"])


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: runs.head(6),  # one pair was not trained
        lambda runs: runs.filter(ssem="gm"),  # one setting
        lambda runs: runs.with_columns(dfm=pl.col("dfm").replace("sum", None)),  # a default without a name
        lambda runs: runs.with_columns(pl.lit(None).alias("test/auc"), pl.lit(None).alias("test/logloss")),
        lambda runs: runs.drop("test/auc", "test/logloss"),
        lambda runs: runs.clear(),
    ],
)
def test_other_runs_have_no_grid(runs, change):
    assert grid(change(runs), ["ssem", "dfm"]) is None


def test_a_picture_without_a_reason_is_removed(tmp_path, runs):
    draw_all(tmp_path, runs, ["ssem", "dfm"])
    assert {path.name for path in tmp_path.iterdir()} == {"dots.png", "cost.png", "curves.png", "grid.png"}
    for path in tmp_path.iterdir():
        assert matplotlib.image.imread(path).ndim == 3
    draw_all(tmp_path, runs.clear().with_columns(curves=pl.lit(None, pl.String)), ["ssem", "dfm"])
    assert not list(tmp_path.iterdir())


def test_a_search_has_importance_and_parallel_coordinates(tmp_path):
    draw_search(tmp_path, tmp_path)  # no search
    study = optuna.create_study(study_name=STUDY, storage=f"sqlite:///{tmp_path}/search.db", direction="maximize")

    def objective(trial):
        return trial.suggest_float("loss.c", 0, 1) + trial.suggest_categorical("dfm", [0, 1]) / 100

    study.optimize(objective, n_trials=1)
    draw_search(tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.png"))
    study.optimize(objective, n_trials=11)
    style = dict(matplotlib.rcParams)
    draw_search(tmp_path, tmp_path)
    assert dict(matplotlib.rcParams) == style
    assert {path.name for path in tmp_path.glob("*.png")} == {"importance.png", "parallel.png"}


def test_a_value_may_be_called_as_a_setting_is(runs):
    values = pl.when(pl.col("dfm") == "sum").then(pl.lit("ssem")).otherwise(pl.lit("dfm"))
    (panel, *_) = grid(runs.with_columns(dfm=values), ["ssem", "dfm"]).axes
    assert {label.get_text() for label in panel.get_xticklabels()} == {"ssem", "dfm"}
