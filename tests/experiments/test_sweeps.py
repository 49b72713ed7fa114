import json
import subprocess
import sys
import time
from types import SimpleNamespace

import polars as pl
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from conftest import ROOT, run_script, started_script, without_times
from tf4ctr.errors import Pruned
from tf4ctr.experiments.sweeps import SweepEnd, run_job

TRAINED = {"metrics.json": json.dumps({"test/auc": 0.7})}
PRUNED = {"pruned.txt": "pruned after epoch 1"}


@pytest.fixture
def sweep(toy, tmp_path):
    """A sweep of two seeds in tmp_path/sweep."""
    kept = [option for option in toy if not option.startswith("hydra.run.dir")]
    return ["-m", *kept, "logger=csv", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep"]


def results(folder):
    return {path.parent.name: without_times(json.loads(path.read_text())) for path in folder.glob("*/metrics.json")}


def test_a_failed_job_does_not_stop_the_others_and_gives_exit_status_1(sweep, tmp_path):
    options = [option for option in sweep if "seed" not in option and "backbone.complex" not in option]
    result = run_script("train.py", *options, "backbone=lr,deepfm", "framework=tf4ctr,plain", "trainer.max_epochs=1")
    assert result.returncode == 1, result.stdout + result.stderr
    assert set(results(tmp_path / "sweep")) == {"1", "2", "3"}
    assert "one encoder" in (tmp_path / "sweep" / "0" / "error.txt").read_text()
    assert "job 0 failed, the other jobs go on" in result.stdout
    assert "Error executing job" not in result.stdout + result.stderr
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "backbone=lr framework=plain" in report
    assert "job 0, backbone=lr framework=tf4ctr: this backbone has one encoder" in report
    auc = pl.read_csv(tmp_path / "sweep" / "report.csv")["test/auc"].to_list()
    assert auc == sorted(auc, reverse=True)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The folder of a job, as `run_job` sees it."""
    config = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    return tmp_path


def test_a_fault_of_the_program_leaves_its_traceback_and_is_not_raised(job, caplog):
    def fail(config):
        raise RuntimeError("a tensor is missing")

    assert run_job(fail, None, lambda error: None) is None
    for text in (caplog.text, (job / "error.txt").read_text()):
        assert "Traceback" in text
        assert "RuntimeError: a tensor is missing" in text
    assert run_job(lambda config: 0.5, None, lambda error: None) == 0.5
    assert not (job / "error.txt").exists()


def test_a_pruned_job_leaves_its_reason(job):
    def prune(config):
        raise Pruned("pruned after epoch 1: too far behind")

    assert run_job(prune, None, lambda error: None) is None
    assert (job / "pruned.txt").read_text() == "pruned after epoch 1: too far behind\n"
    assert not (job / "error.txt").exists()


def test_a_stopped_job_says_how_to_resume_the_sweep(job, monkeypatch, capsys):
    def stop(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "--config-dir", "my conf", "seed=1,2"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(KeyboardInterrupt):
        run_job(stop, None, lambda error: None)
    command = f"python src/train.py --config-dir 'my conf' -m sweep.resume={job.parent}"
    assert f"stopped; to resume the sweep: {command}" in capsys.readouterr().out


def test_a_trained_job_does_not_run_again_but_a_dry_run_does(job):
    (job / "metrics.json").write_text('{"parameters": 9}')
    assert run_job(lambda config: 0.5, None, lambda error: None) == 0.5
    assert not (job / "metrics.json").exists()
    (job / "metrics.json").write_text('{"test/auc": 0.7, "val/monitor": 0.6}')
    assert run_job(lambda config: 0.5, None, lambda error: None) == 0.6


def end_sweep(folder, jobs):
    """End a sweep; `jobs` are the files, name -> text, of each of its jobs."""
    for number, files in enumerate(jobs):
        (folder / str(number) / ".hydra").mkdir(parents=True)
        (folder / str(number) / ".hydra" / "overrides.yaml").write_text(f"- dfm={number}\n")
        for name, text in files.items():
            (folder / str(number) / name).write_text(text)
    SweepEnd().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


@pytest.mark.parametrize("jobs", [[], [TRAINED, TRAINED], [TRAINED, PRUNED]])
def test_a_sweep_without_a_failed_job_ends_normally(tmp_path, jobs):
    end_sweep(tmp_path, jobs)
    assert (tmp_path / "report.md").exists() is bool(jobs)


@pytest.mark.parametrize("last", [{"error.txt": "no such file"}, {}])
def test_a_failed_or_stopped_job_gives_exit_status_1_after_the_table(tmp_path, last):
    with pytest.raises(SystemExit) as error:
        end_sweep(tmp_path, [TRAINED, PRUNED, last])
    assert error.value.code == 1
    report = (tmp_path / "report.md").read_text()
    assert "- job 1, dfm=1: pruned after epoch 1" in report
    assert "- job 2, dfm=2: " in report


def test_a_table_that_cannot_be_shown_is_logged_and_gives_exit_status_1(tmp_path, caplog):
    (tmp_path / "report.md").mkdir()  # in the way of the file
    with pytest.raises(SystemExit):
        end_sweep(tmp_path, [TRAINED])
    assert "could not be shown" in caplog.text


def test_a_killed_sweep_resumes_to_the_same_results(sweep, tmp_path):
    whole = run_script("train.py", *sweep, f"hydra.sweep.dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    with started_script("train.py", *sweep) as (process, _):
        while not (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").exists():
            assert process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
    before = (tmp_path / "sweep" / "0" / "metrics.json").read_text()
    again = run_script("train.py", "-m", f"sweep.resume={tmp_path}/sweep")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "job 0 has finished before" in again.stdout
    assert (tmp_path / "sweep" / "0" / "metrics.json").read_text() == before
    assert results(tmp_path / "sweep") == results(tmp_path / "whole")


@pytest.mark.parametrize("launcher", [["joblib"], ["ray"], ["submitit", "hydra/launcher=submitit_local"]])
def test_jobs_of_a_launcher_have_the_results_of_serial_jobs(sweep, tmp_path, launcher):
    """submitit runs on this machine instead of SLURM's nodes. One of the two jobs fails."""
    sweep = [*sweep, "trainer.max_epochs=1", "seed=1", "loss.c=0.7,1.5"]
    here = run_script("train.py", *sweep, f"hydra.sweep.dir={tmp_path}/here")
    assert here.returncode == 1, here.stdout + here.stderr
    # a new process: loky's workers start from the script, and a fork of the warm process has none
    command = [sys.executable, str(ROOT / "src" / "train.py"), *sweep, f"launcher={launcher[0]}", *launcher[1:]]
    there = subprocess.run(
        [*command, f"hydra.sweep.dir={tmp_path}/there"], capture_output=True, text=True, timeout=240, check=False
    )
    assert there.returncode == 1, there.stdout + there.stderr
    assert set(results(tmp_path / "there")) == {"0"}
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert "even gamma" in (tmp_path / "there" / "1" / "error.txt").read_text()
    assert "job 1, loss.c=1.5" in (tmp_path / "there" / "report.md").read_text()
