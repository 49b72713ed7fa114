"""experiment=best/DATASET: settings and figures are those of the runs in docs/best.parquet."""

import json
import re

import polars as pl
import pytest
from omegaconf import OmegaConf

from conftest import ROOT
from test_assembly import composed
from tf4ctr.experiments.runs import flatten

DATASETS = ("frappe", "movielens_1m")
COMPARED = ("calibrate", "backbone.", "embedding.", "loss.", "ssem.", "dfm.", "optimizer.", "stream.batch_size")
COMPARED += ("callbacks.early_stopping.", "callbacks.lr_plateau.")


def runs_of(name):
    runs = pl.read_parquet(ROOT / "docs" / "best.parquet")
    return runs.filter(pl.col("run").str.starts_with(f"outputs/best/{name}/"))


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_experiment_is_what_was_run(dataset):
    whole = composed(f"experiment=best/{dataset}")
    groups = ("backbone", "embedding", "loss", "ssem", "dfm", "optimizer", "stream")
    config = flatten({group: OmegaConf.to_container(whole[group], resolve=True) for group in groups})
    for name in ("early_stopping", "lr_plateau"):
        config |= flatten({"callbacks": {name: OmegaConf.to_container(whole.callbacks[name], resolve=True)}})
    config["calibrate"] = whole.calibrate
    runs = runs_of(dataset)
    assert sorted(runs["seed"]) == ["2022", "2023", "2024", "2025", "2026"]
    for text in runs["config"]:
        ran = {key: value for key, value in json.loads(text).items() if key.startswith(COMPARED)}
        assert {"embedding.table.init_std", "loss.c", "optimizer.lr", "backbone.m2.dropout"} <= ran.keys()
        different = {key: (value, config.get(key)) for key, value in ran.items() if not same(value, config.get(key))}
        assert not different


def same(stored, value):
    """Whether a value is the stored text of one."""
    if isinstance(stored, list):
        return len(stored) == len(value) and all(same(*pair) for pair in zip(stored, value, strict=True))
    if isinstance(value, bool) or value is None:
        return stored == {True: "true", False: "false", None: "null"}[value]
    return float(stored) == float(value) if isinstance(value, int | float) else stored == value


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_figures_of_the_yaml_are_those_of_the_runs(dataset):
    text = (ROOT / "conf" / "experiment" / "best" / f"{dataset}.yaml").read_text()
    number = r"([\d.,]+)"
    figures = re.search(rf"test AUC {number}, logloss {number}, gAUC {number}, {number} parameters", text).groups()
    runs = runs_of(dataset)
    for figure, name in zip(figures[:3], ("test/auc", "test/logloss", "test/gauc"), strict=True):
        assert figure == f"{runs[name].mean():.{len(figure.split('.')[1])}f}"
    assert runs["parameters"].unique().to_list() == [int(figures[3].replace(",", ""))]
    choice = re.search(rf"seeds 2019 to 2021 \({number}\)", text).group(1)
    assert choice in {f"{mean:.5f}" for mean in chosen_from(dataset)}
    assert float(choice) == pytest.approx(max(chosen_from(dataset)), abs=5e-6)


def chosen_from(dataset):
    """Mean validation AUC of each setting that has all three seeds."""
    runs = runs_of(f"choice/{dataset}").with_columns(setting=pl.col("run").str.extract(r"/([^/]+)-\d+$"))
    return runs.group_by("setting").agg(pl.col("val/auc").mean(), pl.len()).filter(pl.col("len") == 3)["val/auc"]
