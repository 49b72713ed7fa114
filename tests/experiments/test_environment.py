import json
import platform
import subprocess
from importlib import metadata

import torch

from tf4ctr import __version__
from tf4ctr.experiments.environment import facts, git_state, record_start


def test_the_facts_name_command_versions_and_machine():
    found = facts(["src/train.py", "loss.alpha=0.3", "x='a b'"], ["loss.alpha=0.3"])
    assert found["command"] == """src/train.py loss.alpha=0.3 'x='"'"'a b'"'"''"""
    assert found["overrides"] == ["loss.alpha=0.3"]
    versions = {"tf4ctr": __version__, "python": platform.python_version(), "polars": metadata.version("polars")}
    assert versions.items() <= found["versions"].items()
    machine = found["machine"]
    assert machine["threads"] >= 1
    assert machine["memory"] > 0.1
    assert len(machine["gpus"]) == torch.cuda.device_count()


def test_a_resumed_run_keeps_its_earlier_starts_and_a_new_one_does_not(tmp_path):
    for command, resumed, expected in (("a", False, ["a"]), ("b", True, ["a", "b"]), ("c", False, ["c"])):
        record_start(tmp_path, [command], [], resumed)
        starts = json.loads((tmp_path / "environment.json").read_text())
        assert [start["command"] for start in starts] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["environment.json"]


def git(folder, *command):
    options = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *options, *command], check=True, capture_output=True)


def test_git_names_the_commit_and_changes_of_code_and_configs(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) is None  # no commit yet
    for name in ("src", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["changed"] is False
    (tmp_path / "notes").write_text("beside the code")
    assert git_state(tmp_path) == state
    (tmp_path / "conf" / "new").write_text("a dataset")
    assert git_state(tmp_path) == {**state, "changed": True}


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts([], [])["git"] is None
