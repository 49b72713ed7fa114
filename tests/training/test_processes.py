"""Runs of two processes, started by srun's variables, torchrun and Lightning."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress

import psutil
import pytest
import torch

from conftest import ROOT, run_script, without_times
from training.test_loggers import read

TRAIN = str(ROOT / "src" / "train.py")
SRUN = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
SRUN |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "train"}


@pytest.fixture
def toy(toy, monkeypatch):
    """Two ranks with a learning rate, dropout and checkpoints that a few steps show."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/src{os.pathsep}{ROOT}/tests")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = [option for option in toy if not option.startswith(("hydra", "trainer"))]
    return [
        *options,
        "trainer=ddp_cpu",
        "trainer.max_epochs=2",
        "logger=csv",
        "backbone.complex.dropout=0.3",
        "callbacks.progress_bar=null",
        "callbacks.checkpoint_last.every_n_train_steps=2",
    ]


def fault(what, rank, tmp_path):
    """Overrides that let a rank fail in the third step of the second epoch."""
    options = {"_target_": "training.faults.Fault", "what": what, "rank": rank, "step": 9, "marker": tmp_path / "fault"}
    return [f"+callbacks.fault.{key}={value}" for key, value in options.items()]


@contextmanager
def nothing_left():
    """Kill what the block has started and left."""
    try:
        yield
    finally:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if TRAIN in process.cmdline():
                    process.kill()


def start(arguments, environment=None):
    """Start python with both outputs in pipes."""
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": os.environ | (environment or {}),
    }
    return subprocess.Popen([sys.executable, *arguments], **options)


def run_torchrun(*options, overrides):
    """The exit status and both outputs."""
    with nothing_left():
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options, TRAIN, *overrides]
        process = start(command)
        outputs = process.communicate(timeout=200)
        return process.returncode, *outputs


def run_srun(*overrides):
    """The same of two processes that have the variables of srun."""
    with nothing_left():
        ranks = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
        processes = [start([TRAIN, *overrides], SRUN | rank) for rank in ranks]
        outputs = [process.communicate(timeout=200) for process in processes]
        return [(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


def test_srun_and_a_restarted_torchrun_use_one_folder_and_end_the_same(toy, tmp_path):
    """Each process has another time. Rank 1 has no memory for rows; torchrun's is killed once."""
    toy += ["+callbacks.poor._target_=training.faults.Poor", "+callbacks.poor.rank=1"]
    folders = [f"hydra.run.dir={tmp_path}/{launcher}/${{now:%H-%M-%S-%f}}" for launcher in ("srun", "torchrun")]
    (status, shown, errors), other = run_srun(*toy, folders[0])
    assert (status, other) == (0, (0, "", "")), shown + errors
    assert shown.count("Best epoch") == 1
    killed = fault("SIGKILL", 1, tmp_path)
    status, shown, errors = run_torchrun("--max-restarts=1", overrides=[*toy, folders[1], *killed])
    assert status == 0, shown + errors
    assert shown.count("Best epoch") == 1
    assert errors.count("rank 1 of this run was killed") == 1
    assert "Traceback" not in errors
    metrics, curves = [], []
    for launcher in ("srun", "torchrun"):
        (folder,) = (tmp_path / launcher).iterdir()
        assert [path.name for path in folder.glob("*.log")] == ["train.log"]
        assert "disk tier" in (folder / "train.log").read_text()
        metrics.append(without_times(json.loads((folder / "metrics.json").read_text())))
        curves.append(read(folder / "metrics.csv"))
        states = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["random_states"]
        assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert metrics[0] == metrics[1]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("what", "rank", "status", "message"),
    [
        ("weights", 1, 2, "error: rank 1: training diverged: the loss is nan at step 10"),
        ("SIGINT", 1, 130, "stopped by hand"),
    ],
)
def test_a_failed_rank_ends_both_with_one_message_and_the_checkpoint_stays(toy, tmp_path, what, rank, status, message):
    folder = tmp_path / "run"
    with nothing_left():
        result = run_script("train.py", *toy, *fault(what, rank, tmp_path), f"hydra.run.dir={folder}", timeout=60)
    assert result.returncode == status, result.stdout + result.stderr
    command = f"hydra.run.dir={folder}"
    left = [process for process in psutil.process_iter(["cmdline"]) if command in (process.info["cmdline"] or [])]
    assert psutil.wait_procs(left, timeout=20)[1] == []
    assert result.stderr.count("error:") + result.stderr.count("stopped by hand") == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "metrics.json").exists()
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == (10 if what == "SIGINT" else 8)
    if what == "weights":  # goes on, also with another number of ranks
        again = run_script("train.py", *toy, f"ckpt={last}", "trainer=cpu")
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(read(folder / "metrics.csv")) == 2
