import json
import time

import pytest

from conftest import run_script
from test_train import toy  # noqa: F401, a fixture
from tf4ctr.profiling import REST, StepProfiler


def test_a_part_is_timed_without_what_runs_inside_it(tmp_path):
    profiler = StepProfiler(str(tmp_path), trace_steps=0)
    for _ in range(2):
        with profiler.profile("run_training_batch"):
            time.sleep(0.01)
            with profiler.profile("[LightningModule]CTRModule.optimizer_step"):
                time.sleep(0.02)
                with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
                    time.sleep(0.03)
                with profiler.profile("[Strategy]SingleDeviceStrategy.backward"):
                    time.sleep(0.04)
    with profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
        time.sleep(0.05)
    expected = {REST: 0.02, "optimizer": 0.04, "forward and loss": 0.06, "backward": 0.08, "waiting for data": 0.05}
    for part, seconds in expected.items():
        assert profiler.seconds[part] == pytest.approx(seconds, abs=0.015)
    assert profiler.steps == 2
    assert profiler.seconds["checkpoints"] == 0
    shares = [float(cell.rstrip("%")) for cell in profiler.table().columns[2].cells]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "backward" in profiler.summary()


def test_what_began_before_the_profiler_is_no_fault(tmp_path):
    profiler = StepProfiler(str(tmp_path))
    profiler.stop("anything")
    assert sum(profiler.seconds.values()) == 0


def test_a_run_shows_the_table_and_leaves_a_trace(toy, tmp_path):  # noqa: F811
    toy = [option for option in toy if not option.startswith("trainer")]
    done = run_script("train.py", *toy, "logger=none", "trainer=profile", "trainer.profiler.skip_steps=2", "trainer.profiler.trace_steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (done.stdout, (tmp_path / "run" / "train.log").read_text()):
        assert shown.count("Where the time of 5 steps went") == 1
        assert "waiting for data" in shown
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert any("addmm" in str(event.get("name")) for event in events)
