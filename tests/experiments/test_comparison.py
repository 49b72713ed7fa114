import json
import re

import numpy as np
import pytest

from conftest import run_script
from tf4ctr.errors import InputError
from tf4ctr.experiments.comparison import collect, job_names, markdown, print_table, rows_of, show_comparison, summarise
from tf4ctr.experiments.differences import holm


def make_job(folder, number, overrides, metrics=None, error=None):
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    if metrics:
        (job / "metrics.json").write_text(json.dumps(metrics))
    if error:
        (job / "error.txt").write_text(error)


@pytest.fixture
def sweep(tmp_path):
    for number, (dfm, seed, auc) in enumerate([("wsf", 1, 0.7), ("wsf", 2, 0.8), ("sum", 1, 0.9), ("sum", 2, 0.9)]):
        metrics = {"test/auc": auc, "test/logloss": 0.5, "parameters": 1234, "epochs": 3 + seed}
        make_job(tmp_path, number, ["dataset=frappe", f"dfm={dfm}", f"seed={seed}"], metrics)
    make_job(tmp_path, 10, ["dataset=frappe", "dfm=vf", "seed=1"], error="Traceback\nValueError: no\n")
    make_job(tmp_path, 11, ["dataset=frappe", "dfm=cf", "seed=1"])
    return tmp_path


@pytest.fixture
def runs(tmp_path):
    """Runs with different overrides, the first one a dry run."""
    make_job(tmp_path, 0, ["backbone=deepfm", "dry_run=true"], {"parameters": 9})
    make_job(tmp_path, 1, ["backbone=deepfm", "seed=1"], {"test/auc": 0.7})
    make_job(tmp_path, 2, ["backbone=deepfm", "seed=2", "+loss.c=0.8"], {"test/auc": 0.8})
    make_job(tmp_path, 3, ["backbone=deepfm", "loss.c=0.8", "seed=1"], {"test/auc": 0.6})
    make_job(tmp_path, 4, ["backbone=deepfm", "~callbacks.focus", "seed=2"], {"test/auc": 0.5})
    make_job(tmp_path, 5, ["backbone=deepfm", "loss.c=0.9", "seed=3"], error="pruned after epoch 1\n")
    return tmp_path


def test_a_setting_is_the_overrides_that_differ_except_the_seed(sweep):
    frame, overrides = collect([sweep])
    assert overrides == ["dfm"]
    assert frame["job"].to_list() == ["0", "1", "2", "3", "10", "11"]
    assert frame["setting"].to_list() == ["dfm=wsf", "dfm=wsf", "dfm=sum", "dfm=sum", "dfm=vf", "dfm=cf"]
    assert frame["error"].to_list() == [None] * 4 + ["ValueError: no", "stopped before its end"]


def test_overrides_of_only_some_jobs_are_part_of_the_setting(runs):
    frame, overrides = collect([runs])
    assert overrides == ["dry_run", "loss.c", "~callbacks.focus"]
    assert frame["loss.c"].to_list() == [None, None, "0.8", "0.8", None, "0.9"]
    assert frame["setting"].to_list() == [
        "dry_run=true",
        "as composed",
        "loss.c=0.8",
        "loss.c=0.8",
        "~callbacks.focus",
        "loss.c=0.9",
    ]


def test_runs_that_did_not_train_are_not_in_the_table(runs):
    summary = summarise(collect([runs]))
    assert summary["setting"].to_list() == ["as composed", "loss.c=0.8", "~callbacks.focus"]
    assert summary["runs"].to_list() == [1, 2, 1]
    assert summary["test/auc"].to_list() == pytest.approx([0.7, 0.7, 0.5])


def test_runs_that_did_not_train_are_listed_apart_with_the_reason(runs):
    result = run_script("report.py", f"runs={runs}")
    assert result.returncode == 0, result.stderr
    report = (runs / "report.md").read_text()
    table, _, rest = report.partition("Jobs that did not train:")
    assert "dry_run" not in table
    assert "loss.c=0.9" not in table
    assert rest.split("\n- ")[1:] == [
        "job 0, dry_run=true: dry run, not trained",
        "job 5, loss.c=0.9: pruned after epoch 1\n",
    ]
    for line in ("job 0, dry_run=true: dry run, not trained", "job 5, loss.c=0.9: pruned after epoch 1"):
        assert line in result.stdout


def test_mean_and_deviation_over_seeds_best_first(sweep):
    summary = summarise(collect([sweep]))
    assert summary["setting"].to_list() == ["dfm=sum", "dfm=wsf"]
    assert summary["runs"].to_list() == [2, 2]
    assert summary["test/auc"].to_list() == pytest.approx([0.9, 0.75])
    assert summary["test/auc std"].to_list() == pytest.approx([0, 0.1 / 2**0.5])
    assert rows_of(summary)[2] == ["dfm=wsf", "2", "0.75000 ± 0.07071", "0.5000 ± 0.0000", "1,234", "4.5"]


@pytest.mark.parametrize("undefined", [float("nan"), None])
def test_an_undefined_auc_is_last(tmp_path, undefined):
    for number, auc in enumerate((undefined, 0.7, 0.8)):
        make_job(tmp_path, number, [f"dfm={number}"], {"test/auc": auc, "test/logloss": 0.5})
    summary = summarise(collect([tmp_path]))
    assert summary["setting"].to_list() == ["dfm=2", "dfm=1", "dfm=0"]
    assert rows_of(summary)[3] == ["dfm=0", "1", "", "0.5000"]


def test_the_difference_from_a_baseline_is_paired_by_seed(sweep):
    summary = summarise(collect([sweep]), "dfm=wsf")
    assert summary["setting"].to_list() == ["dfm=sum", "dfm=wsf"]
    differences = np.array([0.2, 0.1])
    t = differences.mean() / (differences.std(ddof=1) / 2**0.5)
    assert summary["difference"].to_list() == [pytest.approx(0.15), None]
    # Student's t distribution with one degree of freedom is the Cauchy distribution
    assert summary["p"][0] == pytest.approx(2 * (0.5 - np.arctan(t) / np.pi))
    assert rows_of(summary)[1][-3:] == ["+0.15000", "0.205", "0.205"]
    with pytest.raises(InputError, match="unknown setting, did you mean 'dfm=wsf'"):
        summarise(collect([sweep]), "dfm=wsv")


def test_p_is_corrected_for_the_number_of_settings(tmp_path):
    aucs = {"sum": (0.7, 0.71, 0.72), "wsf": (0.8, 0.82, 0.81), "vf": (0.7, 0.72, 0.71), "cf": (0.75, 0.75, 0.76)}
    number = 0
    for dfm, values in aucs.items():
        for seed, auc in enumerate(values):
            make_job(tmp_path, number, [f"dfm={dfm}", f"seed={seed}"], {"test/auc": auc})
            number += 1
    summary = summarise(collect([tmp_path]), "dfm=sum").drop_nulls("p")
    assert summary["p (Holm)"].to_list() == pytest.approx(holm(summary["p"].to_list()))
    assert max(summary["p (Holm)"] / summary["p"]) == pytest.approx(3)


def test_settings_are_compared_within_a_dataset(tmp_path):
    number = 0
    for dataset, gain in (("frappe", 0.1), ("avazu", -0.1)):
        for seed, base in ((1, 0.7), (2, 0.8)):
            for dfm, auc in (("sum", base), ("wsf", base + gain + seed / 100)):
                make_job(tmp_path, number, [f"dataset={dataset}", f"dfm={dfm}", f"seed={seed}"], {"test/auc": auc})
                number += 1
    summary = summarise(collect([tmp_path]), "dfm=sum")
    assert summary.select("dataset", "setting").rows() == [
        ("avazu", "dfm=sum"),
        ("avazu", "dfm=wsf"),
        ("frappe", "dfm=wsf"),
        ("frappe", "dfm=sum"),
    ]
    assert summary["difference"].to_list() == [None, pytest.approx(-0.085), pytest.approx(0.115), None]
    assert rows_of(summary)[1][:3] == ["avazu", "dfm=sum", "2"]


def test_job_names_are_what_the_folders_do_not_have_in_common():
    assert job_names(["outputs/a/0", "outputs/a/1"]) == ["0", "1"]
    assert job_names(["outputs/a/0", "outputs/b/c/0"]) == ["a/0", "b/c/0"]
    assert job_names(["/x/run"]) == ["run"]
    assert job_names(["/x/run", "outputs/run"]) == ["/x/run", "outputs/run"]


def test_a_single_run_has_a_difference_but_no_p(tmp_path):
    for number, auc in enumerate((0.7, 0.8)):
        make_job(tmp_path, number, [f"dfm={number}"], {"test/auc": auc})
    summary = summarise(collect([tmp_path]), "dfm=0")
    assert summary["difference"].to_list() == [pytest.approx(0.1), None]
    assert summary["p"].to_list() == [None, None]


def test_the_table_is_on_the_terminal_and_in_the_folder(sweep, capsys):
    show_comparison([sweep], sweep)
    terminal, report = capsys.readouterr().out, (sweep / "report.md").read_text()
    assert "0.75000" in terminal
    assert "| dfm=wsf | 2 | 0.75000 ± 0.07071 |" in report
    assert "- job 10, dfm=vf: ValueError: no" in report
    assert len((sweep / "runs.csv").read_text().splitlines()) == 7
    assert len((sweep / "report.csv").read_text().splitlines()) == 3


def test_a_sweep_without_a_trained_job_has_an_empty_table(tmp_path):
    make_job(tmp_path, 0, ["dfm=wsf"], {"parameters": 9})
    show_comparison([tmp_path], tmp_path)
    assert "- job 0, as composed: dry run, not trained" in (tmp_path / "report.md").read_text()


def test_a_folder_without_jobs_is_an_error(tmp_path):
    with pytest.raises(InputError, match="contains no run"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(140, set()), (98, {"seconds", "parameters", "p"}), (60, {"seconds", "parameters", "p", "gAUC"})],
)
def test_a_narrow_terminal_shows_fewer_columns_and_breaks_no_number(capsys, monkeypatch, width, left_out):
    monkeypatch.setenv("COLUMNS", str(width))
    titles = ["setting", "framework", "test AUC", "logloss", "gAUC", "p", "p (Holm)", "parameters", "seconds"]
    row = ["deepfm", "tf4ctr", "0.98750 ± 0.00037", "0.1402 ± 0.0026", "0.98211 ± 0.00073", "0.015", "0.495"]
    print_table("frappe", titles, [[*row, "711,996", "16"]], [])
    printed = capsys.readouterr().out
    shown = {title for title in titles if re.search(rf" {re.escape(title)} +[┃]", printed)}
    assert {*titles} - shown == left_out
    assert max(map(len, printed.splitlines())) <= width
    assert ("not shown, for lack of room: " in printed) == bool(left_out)
    assert {"0.98750", "0.00037", "0.1402", "deepfm", "tf4ctr"} <= {*printed.split()}


def test_pictures_of_an_earlier_search_are_removed(sweep):
    for name in ("importance", "parallel"):
        (sweep / f"{name}.png").write_bytes(b"old")
    show_comparison([sweep], sweep)
    assert not (sweep / "importance.png").exists()
    assert not (sweep / "parallel.png").exists()


def test_a_bar_in_a_value_ends_no_cell():
    assert r"| a\|b | 1 |" in markdown(["setting", "runs"], [["a|b", "1"]], [])


def test_without_a_test_auc_there_is_no_difference(tmp_path):
    for number in (0, 1):
        make_job(tmp_path, number, [f"dfm={number}"], {"test/logloss": 0.5})
    with pytest.raises(InputError, match="no run has a test AUC"):
        summarise(collect([tmp_path]), "dfm=0")
