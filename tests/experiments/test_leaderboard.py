import json
import shutil
from itertools import product

import pytest
import yaml

from conftest import ROOT, run_script
from tf4ctr.errors import InputError
from tf4ctr.experiments.leaderboard import collect_models, leaderboard, rows_of, show_leaderboard

TF4CTR = {"ssem": "ser", "loss": "tf"}
PLAIN = {"ssem": "shared", "loss": "bce"}


def make_run(folder, auc, seed=1, dataset="toy", backbone="dnn", width=10, further=None, **choices):
    """A run; `choices` are those of framework, ssem and loss, `further` is one more encoder."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- backbone=dnn\n")
    choices = {"dataset": dataset, "backbone": backbone, "encoder@backbone.complex": "mlp", **choices}
    if further:
        choices["encoder@backbone.m1"] = further
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.dump({"hydra": {"runtime": {"choices": choices}}}))
    parts = {name: {"_target_": choices[name]} for name in ("ssem", "loss")}
    encoders = {"m1": {"units": 5}} if further else {}
    network = {"name": backbone, "width": width, **encoders}
    config = {"seed": seed, "dataset": {"name": dataset}, "backbone": network, **parts}
    (folder / "config.yaml").write_text(yaml.dump(config))
    metrics = {"test/auc": auc, "test/logloss": 0.5, "parameters": 1000, "epochs": 2, "seconds": 1.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def runs(tmp_path):
    """Plain and tf4ctr of dnn, two seeds each, and another ssem; tf4ctr of fm without plain."""
    folder = tmp_path / "runs"
    for seed in (1, 2):
        make_run(folder / f"plain{seed}", 0.7 + seed / 100, seed, framework="plain", **PLAIN)
        make_run(folder / f"tf{seed}", 0.72 + seed / 50, seed, framework="tf4ctr", **TF4CTR)
        make_run(folder / f"gm{seed}", 0.70 + seed / 50, seed, framework="tf4ctr", **TF4CTR | {"ssem": "gm"})
    make_run(folder / "fm", 0.9, backbone="fm", framework="tf4ctr", **TF4CTR)
    return folder


def test_tf4ctr_is_compared_with_the_plain_model(runs):
    table = leaderboard(collect_models([runs]).trained)
    assert table.select("setting", "framework", "runs").rows() == [
        ("fm ssem=ser", "tf4ctr", 1),
        ("dnn ssem=ser", "tf4ctr", 2),
        ("dnn ssem=gm", "tf4ctr", 2),
        ("dnn", "plain", 2),
    ]
    # 0.74 - 0.71 and 0.76 - 0.72; 0.72 - 0.71 and 0.74 - 0.72
    assert table["difference"].to_list() == [None, pytest.approx(0.035), pytest.approx(0.015), None]
    p = table["p"].to_list()
    assert p[0] is None
    assert p[3] is None
    assert table["p (Holm)"].to_list() == [None, pytest.approx(2 * p[1]), pytest.approx(max(2 * p[1], p[2])), None]
    assert rows_of(table)[2][:5] == ["dnn ssem=ser", "tf4ctr", "2", "0.75000 ± 0.01414", "0.5000 ± 0.0000"]


def test_models_that_differ_in_more_than_the_framework_are_not_compared(runs):
    for seed in (1, 2):
        make_run(runs / f"wide{seed}", 0.8, seed, width=20, framework="tf4ctr", **TF4CTR)
        make_run(runs / f"other{seed}", 0.8, seed, "other", framework="tf4ctr", **TF4CTR)
    table = leaderboard(collect_models([runs]).trained)
    differences = dict(zip(table.select("dataset", "setting").rows(), table["difference"], strict=True))
    assert differences["toy", "dnn backbone.width=20 ssem=ser"] is None
    assert differences["other", "dnn backbone.width=10 ssem=ser"] is None
    assert differences["toy", "dnn backbone.width=10 ssem=ser"] == pytest.approx(0.035)


def test_plain_models_with_another_loss_are_rows_of_their_own(runs):
    make_run(runs / "focal", 0.6, 1, framework="plain", **PLAIN | {"loss": "focal"})
    table = leaderboard(collect_models([runs]).trained)
    rows = {(row["setting"], row["framework"]): row for row in table.iter_rows(named=True)}
    assert rows["dnn loss=focal", "plain"]["test/auc"] == pytest.approx(0.6)
    assert rows["dnn loss=focal", "plain"]["difference"] is None
    assert rows["dnn", "plain"]["test/auc"] == pytest.approx(0.715)
    assert rows["dnn ssem=ser", "tf4ctr"]["difference"] == pytest.approx(0.035)  # from the usual plain


def test_a_repeated_run_is_no_further_seed(runs):
    make_run(runs / "again", 0.78, 2, framework="tf4ctr", **TF4CTR)
    table = leaderboard(collect_models([runs]).trained)
    (row,) = table.filter(setting="dnn ssem=ser").to_dicts()
    assert row["runs"] == 2
    assert row["test/auc"] == pytest.approx((0.74 + (0.76 + 0.78) / 2) / 2)
    assert row["difference"] == pytest.approx((0.03 + 0.05) / 2)


def test_runs_without_configs_are_named_by_their_overrides(runs):
    for name in ("fm", "tf1"):
        (runs / name / "config.yaml").unlink()
        (runs / name / ".hydra" / "hydra.yaml").unlink()
        (runs / name / ".hydra" / "overrides.yaml").write_text(f"- backbone={name}\n- seed=1\n")
    table = leaderboard(collect_models([runs]).trained)
    assert {"backbone=fm", "backbone=tf1"} <= {*table["setting"]}


def test_runs_without_a_test_auc_are_an_error(runs, tmp_path):
    for path in runs.glob("*/metrics.json"):
        path.write_text('{"test/logloss": 0.5}')
    with pytest.raises(InputError, match="no run has a test AUC"):
        show_leaderboard([runs], tmp_path / "board.csv")
    assert not (tmp_path / "board.md").exists()


def test_further_encoders_belong_to_the_framework_unless_it_is_plain(runs):
    make_run(runs / "heads", 0.8, 1, framework="four_heads", further="mlp", **TF4CTR)
    make_run(runs / "wider", 0.75, 1, framework="plain", further="mlp", **PLAIN)
    table = leaderboard(collect_models([runs]).trained)
    rows = {(row["setting"], row["framework"]): row["difference"] for row in table.iter_rows(named=True)}
    assert rows["dnn ssem=ser", "four_heads"] == pytest.approx(0.8 - 0.71)
    assert rows["dnn encoder@backbone.m1=mlp", "plain"] is None
    assert rows["dnn ssem=ser", "tf4ctr"] == pytest.approx(0.035)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_runs_are_added_to_a_leaderboard(runs, tmp_path, suffix):
    out = tmp_path / "docs" / f"leaderboard{suffix}"
    whole = show_leaderboard([runs], tmp_path / f"whole{suffix}")
    for names in (("plain1", "tf1", "gm1"), ("plain2", "tf2", "gm2"), ("fm",)):
        show_leaderboard([*([out] if out.exists() else []), *(runs / name for name in names)], out)
    assert show_leaderboard([out], out).equals(whole)
    text = out.with_suffix(".md").read_text()
    assert text.startswith("# Leaderboard\n")
    assert "## toy\n\n| setting | framework | seeds | test AUC | logloss | AUC - plain | p | p (Holm) |" in text
    assert "| dnn ssem=ser | tf4ctr | 2 | 0.75000 ± 0.01414 | 0.5000 ± 0.0000 | +0.03500 |" in text


def test_a_published_auc_may_stand_alone(runs, tmp_path):
    (tmp_path / "board-published.csv").write_text("dataset,setting,framework,auc,logloss\ntoy,dnn,plain,0.71,\n")
    show_leaderboard([runs], tmp_path / "board.csv")
    assert "| 0.71 / - |" in (tmp_path / "board.md").read_text()


def test_published_figures_stand_beside_the_model(runs, tmp_path):
    out = tmp_path / "board.csv"
    published = tmp_path / "board-published.csv"
    published.write_text("dataset,setting,framework,auc,logloss,source\ntoy,dnn,plain,0.7123456,0.51234,BARS\n")
    show_leaderboard([runs], out)
    summary, text = (tmp_path / "board.md").read_text().split("## toy")
    assert "## Frameworks\n\n| minus plain | tf4ctr, toy |\n" in summary
    assert "| AUC above plain | 2 |" in summary
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0].endswith("| published |")
    assert [row.split("|")[-2].strip() for row in rows[2:]] == ["", "", "", "0.71235 / 0.5123"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,setting,framework,auc\ntoy,dnn,plain,0.7\n", "has no column logloss"),
        ("dataset,setting,framework,auc,logloss\ntoy,dnn,plain,high,0.5\n", "is not a csv of dataset"),
        ("dataset,setting,framework,auc,logloss\n" + 2 * "toy,dnn,plain,0.7,0.5\n", "has toy dnn plain twice"),
    ],
)
def test_published_figures_that_cannot_be_used_are_an_error(runs, tmp_path, text, message):
    (tmp_path / "board-published.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        show_leaderboard([runs], tmp_path / "board.csv")
    assert not (tmp_path / "board.csv").exists()


def test_the_leaderboard_of_this_project_is_current(tmp_path):
    for name in ("leaderboard.parquet", "leaderboard-published.csv"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    show_leaderboard([tmp_path / "leaderboard.parquet"], tmp_path / "leaderboard.parquet")
    assert (tmp_path / "leaderboard.md").read_text() == (ROOT / "docs" / "leaderboard.md").read_text()


def test_runs_that_did_not_train_are_listed(runs, tmp_path, capsys):
    make_run(runs / "failed", 0.5, 3, framework="plain", **PLAIN)
    (runs / "failed" / "metrics.json").unlink()
    (runs / "failed" / "error.txt").write_text("out of memory")
    show_leaderboard([runs], tmp_path / "board.csv")
    assert "- job failed, dnn: out of memory" in (tmp_path / "board.md").read_text()
    assert "job failed, dnn: out of memory" in capsys.readouterr().out


def test_without_a_trained_run_there_is_no_leaderboard(runs, tmp_path):
    for path in runs.glob("*/metrics.json"):
        path.unlink()
    with pytest.raises(InputError, match="no run has trained:\njob fm, fm ssem=ser: stopped before its end"):
        show_leaderboard([runs], tmp_path / "board.csv")


def test_runs_without_configs_are_an_error(runs, tmp_path):
    for path in runs.glob("*/config.yaml"):
        path.unlink()
    with pytest.raises(InputError, match="no run has its config.yaml"):
        show_leaderboard([runs], tmp_path / "board.csv")


def test_report_makes_reports_and_tables_of_any_runs(runs, tmp_path):
    several = ",".join(str(runs / f"{name}{seed}") for name, seed in product(("plain", "tf"), (1, 2)))
    baseline = 'baseline="backbone=dnn framework=plain"'
    first = run_script("report.py", f"runs={several}", f"run={runs}/fm", f"out={tmp_path}/first", baseline)
    assert first.returncode == 0, first.stderr
    report = (tmp_path / "first" / "report.md").read_text()
    assert (
        "| backbone=dnn framework=tf4ctr | 2 | 0.75000 ± 0.01414 | 0.5000 ± 0.0000 | 1,000 | 2.0 | 2 | +0.0" in report
    )
    assert (tmp_path / "first" / "dots.png").exists()
    board = run_script("report.py", f"runs=[{tmp_path}/first/runs.csv,{runs}]", f"out={tmp_path}/board.csv")
    assert board.returncode == 0, board.stderr
    assert "+0.03500" in (tmp_path / "board.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "runs= is missing"),
        (["runs={runs},{runs}/fm"], "out= is missing"),
        (["run={runs}/fm"], "is the folder of a run, whose curves.png the report would replace"),
        (["runs={runs}", "out={runs}/a.csv", "baseline=x"], "baseline= is not for a table of runs"),
    ],
)
def test_what_report_refuses(runs, options, message):
    result = run_script("report.py", *(option.format(runs=runs) for option in options))
    assert result.returncode == 2
    assert message in result.stderr
