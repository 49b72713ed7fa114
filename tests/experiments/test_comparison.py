import json
from itertools import product

import numpy as np
import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.comparison import collect, rows_of, show_comparison, summarise


def make_job(folder, number, overrides, metrics=None, error=None):
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text("".join(f"- {each}\n" for each in overrides))
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


def test_a_setting_is_what_differs_but_the_seed(sweep):
    jobs = collect(sweep)
    assert jobs["job"].to_list() == ["0", "1", "2", "3", "10", "11"]
    assert jobs["setting"].to_list() == ["dfm=wsf", "dfm=wsf", "dfm=sum", "dfm=sum", "dfm=vf", "dfm=cf"]
    assert jobs["error"].to_list() == [None] * 4 + ["ValueError: no", "stopped before its end"]


def test_mean_and_deviation_over_seeds_best_first(sweep):
    summary = summarise(collect(sweep))
    assert summary["setting"].to_list() == ["dfm=sum", "dfm=wsf"]
    assert summary["runs"].to_list() == [2, 2]
    assert summary["test/auc"].to_list() == pytest.approx([0.9, 0.75])
    assert summary["test/auc std"].to_list() == pytest.approx([0, 0.1 / 2**0.5])
    assert rows_of(summary)[2] == ["dfm=wsf", "2", "0.75000 ± 0.07071", "0.5000 ± 0.0000", "1,234", "4.5"]


def test_the_difference_from_a_baseline_is_paired_by_seed(sweep):
    summary = summarise(collect(sweep), "dfm=wsf")
    assert summary["setting"].to_list() == ["dfm=sum", "dfm=wsf"]
    differences = np.array([0.2, 0.1])
    t = differences.mean() / (differences.std(ddof=1) / 2**0.5)
    assert summary["difference"].to_list() == [pytest.approx(0.15), None]
    assert summary["p"][0] == pytest.approx(
        2 * (0.5 - np.arctan(t) / np.pi)
    )  # Student's t with one degree of freedom is Cauchy's
    assert rows_of(summary)[1][-2:] == ["+0.15000", "0.205"]
    with pytest.raises(InputError, match="did you mean 'dfm=wsf'"):
        summarise(collect(sweep), "dfm=wsv")


def test_a_single_run_has_a_difference_and_no_significance(tmp_path):
    for number, auc in enumerate((0.7, 0.8)):
        make_job(tmp_path, number, [f"dfm={number}"], {"test/auc": auc})
    summary = summarise(collect(tmp_path), "dfm=0")
    assert summary["difference"].to_list() == [pytest.approx(0.1), None]
    assert summary["p"].to_list() == [None, None]


def test_curves_and_a_grid_of_two_overrides_are_drawn(tmp_path):
    for number, (ssem, dfm) in enumerate(product(("ser", "gm"), ("wsf", "sum"))):
        make_job(tmp_path, number, [f"ssem={ssem}", f"dfm={dfm}"], {"test/auc": 0.7 + number / 10})
        (tmp_path / str(number) / "metrics.csv").write_text("epoch,val/auc\n1,0.6\n2,0.7\n")
    show_comparison(tmp_path)
    for name in ("curves.png", "grid.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_grid_with_a_hole_is_not_drawn(sweep):
    show_comparison(sweep)
    assert not (sweep / "grid.png").exists()
    assert not (sweep / "curves.png").exists()


def test_the_table_stands_on_the_terminal_and_in_the_folder(sweep, capsys):
    show_comparison(sweep)
    shown, report = capsys.readouterr().out, (sweep / "report.md").read_text()
    assert "0.75000" in shown
    assert "| dfm=wsf | 2 | 0.75000 ± 0.07071 |" in report
    assert "- job 10, dfm=vf: ValueError: no" in report
    assert len((sweep / "jobs.csv").read_text().splitlines()) == 7
    assert len((sweep / "report.csv").read_text().splitlines()) == 3


def test_a_folder_without_jobs_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no job"):
        collect(tmp_path)
