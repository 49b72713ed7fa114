import json
import sys

import pytest

from tf4ctr.experiments.next_commands import files_line, next_commands, script_words
from tf4ctr.experiments.runs import ROOT


def make_run(folder, metrics):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[]\n")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if "test/auc" in metrics:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.ckpt").touch()
    return folder


def test_commands_name_the_run_from_the_current_folder(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a day" / "run", {"test/auc": 0.7})
    monkeypatch.chdir(tmp_path)
    src = ROOT / "src"
    assert next_commands(run) == [
        f"python {src}/evaluate.py run='a day/run'",
        f"python {src}/predict.py run='a day/run' input=FILE output=scores.parquet",
        f"python {src}/export.py run='a day/run'",
    ]
    monkeypatch.chdir(ROOT)
    assert next_commands(run, tmp_path / "new.csv")[:2] == [
        f"python src/evaluate.py run='{run}'",
        f"python src/predict.py run='{run}' input={tmp_path}/new.csv output=scores.parquet",
    ]


@pytest.mark.parametrize("place", [["--config-dir", "my conf"], ["--config-dir=my conf"], ["-cd", "my conf"], []])
def test_a_command_that_goes_on_finds_the_script_and_the_yamls(tmp_path, monkeypatch, place):
    monkeypatch.setattr(sys, "argv", ["src/train.py", "seed=1", *place, "dataset=mine"])
    monkeypatch.chdir(ROOT)
    assert script_words("train") == ["python", "src/train.py", *place]
    monkeypatch.chdir(tmp_path)
    assert script_words("train") == ["python", f"{ROOT}/src/train.py", *place]


def test_runs_are_compared_if_another_one_beside_has_trained(tmp_path):
    run = make_run(tmp_path / "run", {"test/auc": 0.7})
    make_run(tmp_path / "dry", {"parameters": 9})
    assert not any("report.py" in command for command in next_commands(run))
    make_run(tmp_path / "other", {"test/auc": 0.8})
    assert next_commands(run)[-1].endswith(f"report.py runs={tmp_path}")


def test_only_files_that_exist_are_named(tmp_path):
    run = make_run(tmp_path / "run", {})
    assert files_line(run) == f"{run} has metrics.json"
    (run / "curves.png").touch()
    assert files_line(run) == f"{run} has metrics.json, curves.png"
