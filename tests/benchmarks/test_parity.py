"""parity.py without trainings: its options for FuxiCTR, what it repeats, and its table."""

import json

import pytest
from rich.console import Console

from benchmarks import fuxictr_zoo, parity
from benchmarks.parity import MODELS, Run

METRICS = {"logloss": 0.15, "epochs": 9, "parameters": 1000, "threads": ""}


def row(run, auc, seconds=10.0):
    return {**run._asdict(), **METRICS, "auc": auc, "seconds": seconds}


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Arguments of a start that finds its files."""
    for name in ("train.csv", "python", "zoo/DCN/DCN_torch/src/DCN.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("class DCN:\n    def __init__(self, embedding_dim=10, **kwargs): ...\n")
    monkeypatch.setattr(parity, "FUXICTR", tmp_path / "python")
    monkeypatch.setattr(parity, "prepare", lambda files, run: None)
    paths = {"--raw": tmp_path, "--zoo": tmp_path / "zoo", "--results": tmp_path / "new" / "parity.csv"}
    return ["--models", "dcn,lr", "--seeds", "1,2", *(str(word) for pair in paths.items() for word in pair)]


def test_runs_that_have_ended_are_not_repeated(words, monkeypatch, capsys):
    started, broken = [], {Run("lr", "FuxiCTR", 1, 100)}

    def measure(run, files, threads):
        started.append(run)
        if run in broken:
            raise RuntimeError("out of memory [1]")
        return row(run, 0.98)

    monkeypatch.setattr(parity, "measure", measure)
    assert parity.main(words) == 1
    # seed by seed, ours first
    assert started[:2] == [Run("dcn", "ours", 1, 100), Run("dcn", "FuxiCTR", 1, 100)]
    assert [run.seed for run in started] == [1] * 4 + [2] * 4
    assert "out of memory [1]" in capsys.readouterr().out
    started.clear()
    broken.clear()
    assert parity.main(words) == 0
    assert started == [Run("lr", "FuxiCTR", 1, 100)]
    started.clear()
    parity.main([*words, "--epochs", "1"])
    assert len(started) == 8


def test_the_table_compares_the_seeds_of_both_sides():
    results = {}
    for model, difference in (("dcn", 0.0009), ("lr", 0.0011)):
        for seed in (1, 2):
            for side, auc in (("ours", 0.98), ("FuxiCTR", 0.98 + difference)):
                run = Run(model, side, seed, 100)
                results[run] = row(run, auc + seed / 1000, 10.0 if side == "ours" else 25.0)
    results[Run("dcn", "ours", 3, 100)] = row(Run("dcn", "ours", 3, 100), 0.5)
    results[Run("fm", "ours", 1, 100)] = row(Run("fm", "ours", 1, 100), 0.5)
    console = Console(width=250, record=True)
    console.print(parity.table_of(results, {"dcn": 100, "lr": 100, "fm": 100, "dnn": 100}))
    lines = console.export_text().splitlines()
    dcn, lr = ([line for line in lines if f"│ {model} " in line] for model in ("dcn", "lr"))
    for text in ("│     2 │", "0.98150 ± 0.00071", "0.98240 ± 0.00071", "-0.00090", "yes", "2.5", "1,000 / 1,000"):
        assert text in dcn[0], text
    assert "-0.00110" in lr[0]
    assert " no " in lr[0]
    assert not any(f"│ {model} " in line for model in ("fm", "dnn") for line in lines)


def test_fuxictr_gets_the_settings_of_our_config():
    assert parity.fuxictr_options("lr") == {"learning_rate": 1e-3, "regularizer": 1e-5}
    dcn = {"embedding_dim": 10, "learning_rate": 1e-3, "embedding_regularizer": 0.05, "num_cross_layers": 3}
    layers = {"dnn_hidden_units": [400, 400, 400], "net_dropout": 0.2, "batch_norm": True}
    assert parity.fuxictr_options("dcn") == dcn | layers
    finalmlp = parity.fuxictr_options("finalmlp")
    assert (finalmlp["fs1_context"], finalmlp["fs2_context"], finalmlp["fs_hidden_units"]) == (
        ["user"],
        ["item"],
        [400],
    )
    assert (finalmlp["mlp1_hidden_units"], finalmlp["mlp2_hidden_units"]) == ([400], [100])
    json.dumps(finalmlp)
    for model in MODELS:
        assert (parity.ROOT / "conf" / "experiment" / "bars" / "frappe_x1" / f"{model}.yaml").exists()


def test_an_option_that_fuxictr_would_ignore_is_refused(words, tmp_path):
    model_class = fuxictr_zoo.class_of(str(tmp_path / "zoo"), "DCN")
    fuxictr_zoo.check_options(model_class, {"embedding_dim": 10})
    with pytest.raises(SystemExit, match="DCN has no option layers"):
        fuxictr_zoo.check_options(model_class, {"layers": 3})
    with pytest.raises(SystemExit, match="DeepFM"):
        fuxictr_zoo.class_of(str(tmp_path / "zoo"), "DeepFM")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--models", "deepfn"], "did you mean 'deepfm'"),
        (["--raw", "/nowhere"], "no train.csv in /nowhere"),
        (["--zoo", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_missing_files_and_unknown_models_are_refused(words, more, message, capsys):
    with pytest.raises(SystemExit):
        parity.main([*words, *more])
    assert message in capsys.readouterr().err
