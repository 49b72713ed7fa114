import json
import subprocess
import sys
import time
from types import SimpleNamespace

import polars as pl
import pytest
from hydra.core.hydra_config import HydraConfig

from conftest import ROOT, run_script, started_script, without_times
from tf4ctr.errors import InputError
from tf4ctr.experiments.sweeps import left_checkpoint, resumed, run_job


@pytest.fixture
def sweep(toy, tmp_path):
    """A sweep of two seeds in tmp_path/sweep."""
    kept = [option for option in toy if not option.startswith("hydra.run.dir")]
    return ["-m", *kept, "logger=csv", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep"]


def results(folder):
    return {path.parent.name: without_times(json.loads(path.read_text())) for path in folder.glob("*/metrics.json")}


def test_a_combination_that_cannot_be_does_not_stop_the_others(sweep, tmp_path):
    options = [option for option in sweep if "seed" not in option and "backbone.complex" not in option]
    done = run_script("train.py", *options, "backbone=lr,deepfm", "framework=tf4ctr,plain", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(results(tmp_path / "sweep")) == {"1", "2", "3"}
    assert "one encoder" in (tmp_path / "sweep" / "0" / "error.txt").read_text()
    assert "job 0 failed" in done.stdout
    assert "backbone=lr framework=plain" in (tmp_path / "sweep" / "report.md").read_text()
    assert (
        "job 0, backbone=lr framework=tf4ctr: this backbone has one encoder"
        in (tmp_path / "sweep" / "report.md").read_text()
    )
    report = pl.read_csv(tmp_path / "sweep" / "report.csv")
    assert report["test/auc"].to_list() == sorted(report["test/auc"], reverse=True)


def test_a_fault_of_ours_leaves_its_traceback_and_does_not_end_the_sweep(tmp_path, monkeypatch, caplog):
    job = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(HydraConfig, "get", lambda: job)

    def fail(config):
        raise RuntimeError("a tensor went missing")

    assert run_job(fail, None, lambda error: None) is None
    for told in (caplog.text, (tmp_path / "error.txt").read_text()):
        assert "Traceback" in told
        assert "RuntimeError: a tensor went missing" in told
    assert run_job(lambda config: 0.5, None, lambda error: None) == 0.5
    assert not (tmp_path / "error.txt").exists()


def test_a_sweep_that_was_killed_goes_on_to_the_same_end(sweep, tmp_path):
    whole = run_script("train.py", *sweep, f"hydra.sweep.dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    with started_script("train.py", *sweep) as (process, _):
        while not (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").exists():
            assert process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
    before = (tmp_path / "sweep" / "0" / "metrics.json").read_text()
    done = run_script("train.py", "-m", f"sweep.resume={tmp_path}/sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 0 was done before" in done.stdout
    assert (tmp_path / "sweep" / "0" / "metrics.json").read_text() == before
    assert results(tmp_path / "sweep") == results(tmp_path / "whole")


@pytest.mark.parametrize("launcher", [["joblib"], ["ray"], ["submitit", "hydra/launcher=submitit_local"]])
def test_jobs_in_processes_of_a_launcher_end_as_they_do_in_this_one(sweep, tmp_path, launcher):
    """submitit is tried on this machine instead of SLURM's nodes; one of the jobs cannot be."""
    sweep = [*sweep, "trainer.max_epochs=1", "seed=1", "loss.c=0.7,1.5"]
    here = run_script("train.py", *sweep, f"hydra.sweep.dir={tmp_path}/here")
    assert here.returncode == 0, here.stdout + here.stderr
    # a process of its own: loky's workers start from the script, which a fork of the tests' warm process is not
    command = [sys.executable, str(ROOT / "src" / "train.py"), *sweep, f"launcher={launcher[0]}", *launcher[1:]]
    there = subprocess.run(
        [*command, f"hydra.sweep.dir={tmp_path}/there"], capture_output=True, text=True, timeout=240, check=False
    )
    assert there.returncode == 0, there.stdout + there.stderr
    assert set(results(tmp_path / "there")) == {"0"}
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert "even gamma" in (tmp_path / "there" / "1" / "error.txt").read_text()
    assert "job 1, loss.c=1.5" in (tmp_path / "there" / "report.md").read_text()


def test_resume_is_the_command_that_began_the_sweep(tmp_path):
    (tmp_path / "multirun.yaml").write_text(
        "hydra: {overrides: {hydra: [hydra.mode=MULTIRUN, hydra.sweep.dir=elsewhere], task: ['seed=1,2', dataset=frappe]}}"
    )
    found = resumed(["-m", f"sweep.resume={tmp_path}"])
    assert found == ["--multirun", "hydra.mode=MULTIRUN", "seed=1,2", "dataset=frappe", f"hydra.sweep.dir={tmp_path}"]
    assert resumed(["-m", "seed=1"]) == ["-m", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "message"), [(["-m"], "no multirun.yaml"), (["-m", "seed=3"], "leave out seed=3")]
)
def test_what_cannot_be_resumed_is_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        resumed([*arguments, f"sweep.resume={tmp_path}"])


def test_a_job_goes_on_from_its_last_checkpoint(tmp_path):
    assert left_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert left_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"
