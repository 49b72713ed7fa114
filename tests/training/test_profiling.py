import json

from lightning.pytorch.utilities import rank_zero_only

from conftest import run_script
from tf4ctr.training.profiling import REST, StepProfiler


def test_a_part_is_timed_without_what_runs_inside_it(tmp_path, monkeypatch):
    profiler, clock = StepProfiler(str(tmp_path), trace_steps=0), [0.0]
    monkeypatch.setattr(profiler, "_now", lambda: clock[0])

    def work(action, seconds, inside=()):
        with profiler.profile(action):
            clock[0] += seconds
            for action_inside in inside:
                work(*action_inside)

    nested = [("[Strategy]SingleDeviceStrategy.training_step", 3), ("[Strategy]SingleDeviceStrategy.backward", 4)]
    for _ in range(2):
        work("run_training_batch", 1, [("[LightningModule]CTRModule.optimizer_step", 2, nested)])
    work("[_TrainingEpochLoop].train_dataloader_next", 5)
    expected = {REST: 2, "optimizer": 4, "forward and loss": 6, "backward": 8, "waiting for data": 5}
    assert {part: seconds for part, seconds in profiler.seconds.items() if seconds} == expected
    assert profiler.steps == 2
    cells = dict(zip(*(column.cells for column in profiler.table().columns[:2]), strict=True))
    assert cells["backward"] == "4000.00"
    assert "backward: 8.000 s" in profiler.summary()


def test_an_action_that_started_before_the_profiler_is_ignored(tmp_path):
    profiler = StepProfiler(str(tmp_path))
    profiler.stop("anything")
    assert sum(profiler.seconds.values()) == 0


def test_only_the_first_rank_writes_the_trace(tmp_path, monkeypatch):
    for rank, files in ((1, []), (0, ["trace.json"])):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        profiler = StepProfiler(str(tmp_path), skip_steps=0, trace_steps=1)
        with profiler.profile("run_training_batch"):
            pass
        assert [path.name for path in tmp_path.iterdir()] == files


def test_a_run_shows_the_table_and_writes_a_trace(toy, tmp_path):
    toy = [option for option in toy if not option.startswith("trainer")]
    result = run_script(
        "train.py",
        *toy,
        "logger=none",
        "trainer=profile",
        "trainer.profiler.skip_steps=2",
        "trainer.profiler.trace_steps=2",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for shown in (result.stdout, (tmp_path / "run" / "train.log").read_text()):
        assert shown.count("Where the time of 5 steps went") == 1
        assert "waiting for data" in shown
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    names = {str(event.get("name")) for event in events}
    assert any(product in name for name in names for product in ("mkldnn::_linear_pointwise", "addmm"))
