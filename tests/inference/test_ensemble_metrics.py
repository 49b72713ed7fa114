import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import log_loss, roc_auc_score

from conftest import run_script
from inference.fixtures import kinds_rows, with_other_weights
from tf4ctr.assembly import load_run
from tf4ctr.errors import InputError
from tf4ctr.inference.ensemble_metrics import check_same_data, gains, measure_runs
from tf4ctr.inference.evaluation import Scores
from tf4ctr.inference.members import ensemble_of
from tf4ctr.inference.prediction import predict


def ensemble_scores(rows=3000, is_weighted=False):
    """Three runs that see the truth through noise, rows in 40 groups."""
    random = np.random.default_rng(2)
    truth = random.normal(size=rows)
    label = torch.from_numpy(random.random(rows) < 1 / (1 + np.exp(-2 * truth))).float()
    runs = [torch.from_numpy(truth + random.normal(size=rows)) for _ in range(3)]
    weight = torch.from_numpy(random.integers(0, 4, rows) / 2) if is_weighted else None
    group = torch.from_numpy(random.integers(0, 40, rows))
    return Scores(ensemble_of(runs), label, group, torch.empty(0), weight=weight)


def grouped(label, score, group, weight):
    """gAUC: the mean of the groups' AUC by their rows; a group of one class does not count."""
    areas, rows = [], []
    for number in np.unique(group):
        own = (group == number) & (weight > 0)
        if label[own].min() < label[own].max():
            areas.append(roc_auc_score(label[own], score[own], sample_weight=weight[own]))
            rows.append(weight[own].sum())
    return np.average(areas, weights=rows)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_gain_is_the_distance_to_the_mean_of_the_runs(is_weighted):
    scores = ensemble_scores(is_weighted=is_weighted)
    label, group = scores.label.numpy(), scores.group.numpy()
    weight = scores.weight.numpy() if is_weighted else np.ones(len(label))
    p = {name: torch.sigmoid(logit_N).numpy() for name, logit_N in scores.logits.items()}
    p["fused"] = np.mean([p["run_1"], p["run_2"], p["run_3"]], 0)
    results = gains(scores, 200, 3)
    for metric, measured in {
        "auc": {name: roc_auc_score(label, p_N, sample_weight=weight) for name, p_N in p.items()},
        "logloss": {name: log_loss(label, p_N, sample_weight=weight) for name, p_N in p.items()},
        "gauc": {name: grouped(label, p_N, group, weight) for name, p_N in p.items()},
    }.items():
        runs = [measured[name] for name in ("run_1", "run_2", "run_3")]
        assert results[f"gain/{metric}"] == pytest.approx(measured["fused"] - np.mean(runs), abs=1e-7)
        assert results[f"gain/{metric}_low"] < results[f"gain/{metric}"] < results[f"gain/{metric}_high"]
        if metric == "gauc":
            assert [results[f"run_{number}/gauc"] for number in (1, 2, 3)] == pytest.approx(runs, abs=1e-7)
    assert results["gain/auc_low"] > 0 > results["gain/logloss_high"]  # the noise of the runs is independent


def test_the_interval_of_the_gain_is_paired():
    """Ensemble and runs are measured on the same resamples: it is narrower than that of the AUC."""
    results = measure_runs(ensemble_scores(), 3, 200, 3)
    assert results["gain/auc_high"] - results["gain/auc_low"] < (results["auc_high"] - results["auc_low"]) / 2
    assert not any(name.startswith("gain/") for name in measure_runs(ensemble_scores(), 1, 0, 3))


def test_runs_on_other_data_are_refused_and_named(run, make_run, tmp_path):
    def check(other, is_moved=False):
        check_same_data({folder: load_run(folder) for folder in (run, other)}, is_moved)

    other = with_other_weights(run, tmp_path / "other")
    check(other)
    path = other / "config.yaml"
    config = OmegaConf.load(path)
    config.dataset.prepared_dir = "/elsewhere"
    OmegaConf.save(config, path)
    check(other, is_moved=True)
    with pytest.raises(InputError, match=r"run and .*other were not .*: dataset.prepared_dir is .* and /else"):
        check(other)
    config.dataset.weighted_metrics = True
    OmegaConf.save(config, path)
    with pytest.raises(InputError, match=r"dataset.weighted_metrics is False and True"):
        check(other, is_moved=True)
    shutil.copy(run / "config.yaml", path)
    vocabulary = other / "vocabulary" / "item.parquet"
    values = pl.read_parquet(vocabulary)
    vocabulary.unlink()  # it may be a link
    values.reverse().write_parquet(vocabulary)
    with pytest.raises(InputError, match=r"these fields differ: item\. An ensemble is measured on rows that all"):
        check(other)
    rows = pl.DataFrame({"click": [0, 1], "user": [1, 2], "day": [3, 4]})
    with pytest.raises(InputError, match="these fields differ: user, item, hour, day"):
        check(make_run(rows, ["user", "day"], "csv"), is_moved=True)


def test_runs_on_other_rows_are_refused(run, tmp_path):
    network, schema, config = load_run(run)
    (tmp_path / "vocabulary").symlink_to(run / "vocabulary")
    again = network, replace(schema, digest="that of another split"), config
    with pytest.raises(InputError, match="it was prepared again in between, with other rows"):
        check_same_data({run: (network, schema, config), tmp_path: again}, is_moved=True)


def test_evaluation_measures_the_mean_of_the_predictions(kinds_run, tmp_path):
    """From the command line, with weights of the rows, against the predictions of the raw rows."""
    runs = [kinds_run("parquet"), with_other_weights(kinds_run("parquet"), tmp_path / "other", std=0.1)]
    both, out = f"run={runs[0]},{runs[1]}", tmp_path / "out"
    process = run_script("evaluate.py", both, f"out={out}", "by=item", "bootstrap=5", "samples=3")
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"run_1: {runs[0]}\nrun_2: {runs[1]}\n" in process.stdout
    assert "gain/auc" in process.stdout
    rows = kinds_rows()
    p = {}
    for name, run in zip(("run_1", "run_2"), runs, strict=True):
        predict(run, runs[0].parent / "raw" / "test.parquet", tmp_path / "scores.parquet")
        p[name] = pl.read_parquet(tmp_path / "scores.parquet")["p"].to_numpy().astype(np.float64)
    p[""] = (p["run_1"] + p["run_2"]) / 2
    results = json.loads((out / "test.json").read_text())
    assert [results["run_1"], results["run_2"]] == [*map(str, runs)]
    auc = {name: roc_auc_score(rows["click"], p_N, sample_weight=rows["w"]) for name, p_N in p.items()}
    for name, p_N in p.items():
        prefix = f"{name}/" if name else ""
        # two of 200 rows may be tied in p, a float32, and not in the logit
        assert results[f"{prefix}auc"] == pytest.approx(auc[name], abs=3e-4)
        logloss = log_loss(rows["click"], p_N, sample_weight=rows["w"])
        assert results[f"{prefix}logloss"] == pytest.approx(logloss, abs=1e-6)
    assert results["gain/auc"] == pytest.approx(auc[""] - (auc["run_1"] + auc["run_2"]) / 2, abs=3e-4)
    assert len({*auc.values()}) == 3
    hardest = pl.read_csv(out / "test-hardest.csv")
    place = hardest["row"][0] - 1
    sign = 1 if rows["click"][place] else -1
    for name, column in (("", "q"), ("run_1", "q_run_1"), ("run_2", "q_run_2")):
        assert hardest[column][0] == pytest.approx((1 - sign) / 2 + sign * p[name][place], abs=1e-6)
    assert sorted(path.name for path in out.iterdir()) == [
        *(
            "test-by-item.csv",
            "test-easiest.csv",
            "test-hardest.csv",
            "test-reliability.csv",
            "test-reliability.png",
            "test-roc.png",
        ),
        "test.json",
    ]
    for options, message in (
        ([both], "out= is missing: there are several runs"),
        ([both, f"out={out}", "importance=true"], "importance=true needs one run"),
    ):
        refused = run_script("evaluate.py", *options)
        assert refused.returncode == 2
        assert message in refused.stderr
