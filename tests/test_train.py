"""python src/train.py as a user runs it."""

import json
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from omegaconf import OmegaConf

from conftest import ROOT, make_spec, run_script, started_script, without_times
from tf4ctr.assembly import build_module
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.manifest import read_manifest
from training.test_loggers import offline_history, offline_records, read


def test_a_run_writes_everything_into_its_folder(toy, tmp_path):
    result = run_script("train.py", *toy, "page=true", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = {
        "test/auc",
        "test/logloss",
        "test/gauc",
        "val/auc",
        "best_epoch",
        "epochs",
        "parameters",
        "train_rows_per_second",
        "seconds",
    }
    assert expected <= set(metrics)
    assert "test/simple/auc" in metrics
    rows = read(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == [str(i + 1) for i in range(metrics["epochs"])]
    best = rows[metrics["best_epoch"] - 1]
    assert float(best["val/auc"]) == pytest.approx(metrics["val/auc"], abs=1e-6)
    assert {"train/tf_simple", "train/tf_complex", "val/complex/logloss", "val/simple/auc", "lr"} <= set(best)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{folder} has index.html, metrics.json, " in result.stdout
    assert f"<td>{metrics['test/auc']:.5f}</td>" in (folder / "index.html").read_text()
    assert yaml.safe_load((folder / "config.yaml").read_text())["loss"]["alpha"] == 0.25
    (start,) = json.loads((folder / "environment.json").read_text())
    assert start["command"].startswith(f"{ROOT}/src/train.py dataset=frappe ")
    assert start["overrides"][0] == "dataset=frappe"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "fields" in torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["schema"]
    log = (folder / "train.log").read_text()
    for shown in (result.stdout, log):
        assert "Settings" in shown
        assert f"{metrics['parameters']:,}" in shown
        assert f"{metrics['test/auc']:.6f}" in shown
        assert shown.count("epoch  train loss  val AUC     gAUC  logloss") == 1
        assert shown.count(f" {float(best['val/auc']):.5f} ") == 1
    assert result.stdout.count("logging offline") == 1
    origins = {cells[0]: cells[1:] for cells in re.findall(r"│ (\S+) +│ (\S+) +│ ([^│]*\S) +│", result.stdout)}
    assert origins["stream.batch_size"] == ("64", "command line")
    assert origins["loss.alpha"] == ("0.25", "dataset")
    assert "data: rows 400 train, 100 valid, 100 test; click rate 0." in result.stdout
    assert "; 3 fields; " in result.stdout
    assert re.search(r"[\d.]+ seconds, peak memory [\d.,]+ [MG]B", result.stdout)
    commands = result.stdout.split("next:\n")[1].splitlines()
    src = ROOT / "src"
    assert commands == [
        f"python {src}/evaluate.py run=run",
        f"python {src}/predict.py run=run input=raw/test.csv output=scores.parquet",
        f"python {src}/export.py run=run",
    ]
    curves = [row for row in offline_history(folder) if "val/auc" in row]
    for name in ("epoch", "val/auc", "train/loss"):
        assert [row[name] for row in curves] == pytest.approx([float(row[name]) for row in rows])
    (run,) = offline_records(folder, "run")
    assert (run.display_name, run.run_group) == ("deepfm-frappe-2019", "")
    assert any("train/tf_complex" in row for row in offline_history(folder))


def test_the_same_command_twice_gives_the_same_metrics(toy, tmp_path):
    results = []
    for name in ("a", "b"):
        result = run_script(
            "train.py", *toy, "backbone.complex.dropout=0.3", "logger=csv", f"hydra.run.dir={tmp_path}/{name}"
        )
        assert result.returncode == 0, result.stdout + result.stderr
        results.append(without_times(json.loads((tmp_path / name / "metrics.json").read_text())))
        results.append((tmp_path / name / "metrics.csv").read_text())
    assert results[:2] == results[2:]


def test_dry_run_counts_parameters_and_trains_nothing(toy, tmp_path):
    result = run_script("train.py", *toy, "dry_run=true", "verbose=true")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All settings" in result.stdout
    assert "dry run: no training, no test, no checkpoint; metrics.json with" in result.stdout
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())) == {"parameters"}
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_dry_run_without_a_folder_leaves_none(toy):
    toy = [option for option in toy if not option.startswith("hydra.run.dir")]
    name = f"dry-{os.getpid()}"  # no other run has it
    before = {*(ROOT / "outputs").glob("*/*")}
    result = run_script("train.py", *toy, "dry_run=true", f"hydra.job.name={name}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no folder is left" in result.stdout
    assert not [*Path(tempfile.gettempdir()).glob(f"deepfm-frappe-*/{name}.log")]
    new = {*(ROOT / "outputs").glob("*/*")} - before
    assert not [folder for folder in new if (folder / f"{name}.log").exists()]


def test_ctrl_c_saves_and_ckpt_resumes_to_the_same_end(toy, tmp_path):
    """Stopped after the first epoch or later, and resumed, a run ends as the unbroken one."""
    toy += [
        "trainer.max_epochs=40",
        "callbacks.early_stopping.patience=100",
        "logger=csv",
        "callbacks.lr_plateau.patience=100",
    ]
    whole = run_script("train.py", *toy, f"hydra.run.dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr

    with started_script("train.py", *toy) as (process, outputs):
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert process.is_alive()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        output = outputs[0].read_text()
    assert process.exitcode not in (0, None)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"ckpt={last}" in re.sub(r"\s", "", output)
    assert not (tmp_path / "run" / "metrics.json").exists()

    result = run_script("train.py", *toy, f"ckpt={last}")
    assert result.returncode == 0, result.stdout + result.stderr
    folders = tmp_path / "whole", tmp_path / "run"
    first, second = (without_times(json.loads((folder / "metrics.json").read_text())) for folder in folders)
    assert first == second
    first, second = (read(folder / "metrics.csv") for folder in folders)
    assert first == second
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [f"ckpt={last}" in start["overrides"] for start in starts] == [False, True]


def test_the_command_that_resumes_repeats_the_options_and_the_folder_of_yamls(tmp_path, monkeypatch):
    task = ["dataset=mine", "ckpt=old.ckpt", "callbacks.early_stopping=null"]
    overrides = SimpleNamespace(hydra=["hydra.run.dir=a", "hydra.mode=RUN"], task=task)
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(overrides=overrides))
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "my conf", *task])
    monkeypatch.chdir(tmp_path)
    resume_command = runpy.run_path(str(ROOT / "src" / "train.py"))["resume_command"]
    assert resume_command(tmp_path / "last.ckpt") == (
        f"python {ROOT}/src/train.py --config-dir 'my conf' dataset=mine callbacks.early_stopping=null"
        f" ckpt={tmp_path}/last.ckpt"
    )


def test_a_run_without_optional_callbacks_trains_and_tests(toy, tmp_path):
    optional = ("stop_diverged", "lr_plateau", "early_stopping", "checkpoint_last", "focus", "progress_bar", "summary")
    optional += ("validation_lines",)
    result = run_script("train.py", *toy, "logger=csv", *(f"callbacks.{name}=null" for name in optional))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "train loss" not in result.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"val/auc", "test/auc", "best_epoch", "train_rows_per_second"} <= set(metrics)
    assert metrics["epochs"] == 3
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.checkpoint_best=null", "callbacks.checkpoint_best does not write"),
        ("callbacks.checkpoint_best.filename=model", "callbacks.checkpoint_best does not write"),
        ("callbacks.checkpoint_best.monitor=val/auc", "best.ckpt and metrics.json would be of different epochs"),
    ],
)
def test_a_run_that_would_not_write_its_best_checkpoint_is_refused(toy, tmp_path, override, message):
    result = run_script("train.py", *toy, "logger=none", override)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_resuming_a_finished_run_ends_well_in_its_folder_and_is_explained_elsewhere(toy, tmp_path):
    toy = [*toy, "logger=csv", "trainer.max_epochs=1"]
    assert run_script("train.py", *toy).returncode == 0
    written = {path: path.read_bytes() for path in (tmp_path / "run" / ".hydra").iterdir()}
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "test.json").write_text("{}")
    metrics = without_times(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    ckpt = f"ckpt={tmp_path}/run/checkpoints/last.ckpt"
    again = run_script("train.py", *toy, ckpt)
    assert again.returncode == 0, again.stdout + again.stderr
    assert without_times(json.loads((tmp_path / "run" / "metrics.json").read_text())) == metrics
    assert (tmp_path / "run" / "evaluation" / "test.json").exists()  # the weights are the same
    again = {path: path.read_bytes() for path in written}
    elsewhere = [word for word in toy if not word.startswith("hydra.run.dir=")]  # its folder is that of ckpt=
    refused = run_script("train.py", *elsewhere, ckpt, "loss.alpha=0.5")
    assert refused.returncode == 2
    assert "loss.alpha: 0.25 -> 0.5" in refused.stderr
    assert {path: path.read_bytes() for path in written} == again  # Hydra has not described another run
    best = run_script("train.py", *toy, ckpt.replace("last.ckpt", "best.ckpt"))
    assert best.returncode == 2
    assert "best.ckpt contains weights only" in best.stderr
    assert "Traceback" not in best.stderr
    assert "to resume" not in best.stdout  # the error says what to do
    longer = run_script("train.py", *toy, ckpt, "trainer.max_epochs=2")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    before_anew = {path: path.read_bytes() for path in written}
    has_new_weights = json.loads((tmp_path / "run" / "metrics.json").read_text())["best_epoch"] == 2
    assert (tmp_path / "run" / "evaluation").exists() != has_new_weights
    assert has_new_weights
    anew = run_script("train.py", *toy, "loss.alpha=0.5")
    assert anew.returncode == 2
    assert "has a finished run, which a new one would replace" in " ".join(anew.stderr.split())
    assert {path: path.read_bytes() for path in written} == before_anew
    elsewhere = run_script("train.py", *toy, ckpt, f"hydra.run.dir={tmp_path}/new")
    assert elsewhere.returncode == 2
    for part in (
        "no epoch was trained and validated, so there is no best.ckpt",
        f"raise trainer.max_epochs to train further, or measure it with python src/evaluate.py run={tmp_path}/run",
    ):
        assert part in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr


def test_undefined_metrics_are_reported_and_training_goes_on(toy, tmp_path, raw_dir):
    """A validation split and a test split of one class: metrics.json is valid and has no NaN."""
    for split in ("valid", "test"):
        pl.read_csv(raw_dir / f"{split}.csv").with_columns(click=0).write_csv(raw_dir / f"{split}.csv")
    result = run_script("train.py", *toy, "callbacks.early_stopping.patience=9")
    assert result.returncode == 0, result.stdout + result.stderr
    shown = " ".join(result.stdout.split())
    assert shown.count("val/auc and val/gauc are undefined: all rows of the validation split") == 1
    assert shown.count("test/auc and test/gauc are undefined: all rows of the test split") == 1
    assert shown.count("undefined") > 2  # the table, too
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert metrics["val/monitor"] == -metrics["val/logloss"]
    assert not any(name.endswith("auc") for name in metrics)
    rows = read(tmp_path / "run" / "metrics.csv")
    assert metrics["val/logloss"] == pytest.approx(min(float(row["val/logloss"]) for row in rows), abs=1e-6)
    assert "nan" not in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_signals_of_a_scheduler_are_handled_as_ctrl_c(toy, tmp_path, number):
    options = [*toy, "logger=csv", "trainer.max_epochs=1000", "callbacks.early_stopping.patience=1000"]
    with started_script("train.py", *options) as (process, outputs):
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert process.is_alive()
            time.sleep(0.02)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode not in (0, None, -number)
        assert f"ckpt={tmp_path}/run/checkpoints/last.ckpt" in re.sub(r"\s", "", outputs[0].read_text())
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 6
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_rowwise_embeddings_train_and_resume_to_the_same_end(toy, tmp_path):
    """With sparse gradients, clipping, lazy L2 and the optimiser's state in the checkpoint."""
    toy += [
        "embedding=rowwise",
        "embedding.l2=0.01",
        "logger=csv",
        "trainer.gradient_clip_val=0.1",
        "optimizer.lr=0.01",
    ]
    results = []
    for name, epochs in (("whole", [3]), ("parts", [1, 3])):
        folder = tmp_path / name
        for number, last_epoch in enumerate(epochs):
            ckpt = [f"ckpt={folder}/checkpoints/last.ckpt"] if number else []
            result = run_script("train.py", *toy, f"trainer.max_epochs={last_epoch}", f"hydra.run.dir={folder}", *ckpt)
            assert result.returncode == 0, result.stdout + result.stderr
        results.append(read(folder / "metrics.csv"))
    assert results[0] == results[1]
    assert len(results[0]) == 3


def test_two_ranks_train_and_measure_as_one(toy, tmp_path):
    """Two ranks with half a batch each equal one rank with the whole batch.

    Without batch norm, which sees the rows of one rank only, and dropout, which each rank draws.
    """
    toy += ["logger=csv", "backbone.complex.batch_norm=false", "backbone.complex.dropout=0"]
    toy += ["stream.batch_size=80", "calibrate=true"]  # all batches have the same size: one graph is compiled
    results = []
    compiled = ["ddp_cpu trainer.compile=true"] if shutil.which("g++") or shutil.which("clang++") else []
    for number, trainer in enumerate(["cpu", "ddp_cpu", *compiled]):
        options = [*f"trainer={trainer}".split(), "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/{number}"]
        result = run_script("train.py", *toy, *options)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("Best epoch") == 1
        assert "sync_dist" not in result.stderr
        results.append(without_times(json.loads((tmp_path / str(number) / "metrics.json").read_text())))
    assert results[0]["val/logloss"] < results[0]["val/uncalibrated_logloss"]
    for other in results[1:]:
        assert set(results[0]) == set(other)
        assert other == {key: pytest.approx(value, abs=2e-5) for key, value in results[0].items()}


def test_two_ranks_measure_their_best_weights_as_one_does(toy, tmp_path):
    """With batch norm and dropout, and two ranks resume to the same end."""
    toy += [
        "logger=csv",
        "backbone.complex.dropout=0.3",
        "stream.eval_batch_size=18",
        "trainer=ddp_cpu",
        "calibrate=true",
    ]
    last = [f"ckpt={tmp_path}/parts/checkpoints/last.ckpt"]
    for folder, epochs, ckpt in (("run", 2, []), ("parts", 1, []), ("parts", 2, last)):
        result = run_script(
            "train.py", *toy, f"trainer.max_epochs={epochs}", f"hydra.run.dir={tmp_path}/{folder}", *ckpt
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert read(tmp_path / "parts" / "metrics.csv") == read(tmp_path / "run" / "metrics.csv")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    data = CTRDataModule(tmp_path / "prepared" / "toy", 64)
    module = build_module(config, data.schema)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(accelerator="cpu", **quiet).test(
        module, data, tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True, verbose=False
    )
    assert metrics["test/uncalibrated_logloss"] != pytest.approx(metrics["test/logloss"], abs=1e-6)
    assert len(module.results) > 5
    assert module.results == {key: pytest.approx(metrics[key], abs=1e-6) for key in module.results}


def test_a_sweep_of_several_devices_is_refused(toy, tmp_path):
    toy = [option for option in toy if not option.startswith("hydra.run.dir")]
    run_script("train.py", "-m", *toy, "logger=csv", "trainer=ddp_cpu", f"hydra.sweep.dir={tmp_path}/sweep")
    assert "run the jobs one by one" in (tmp_path / "sweep" / "0" / "error.txt").read_text()


def test_a_diverging_loss_stops_with_step_and_tensor(toy, tmp_path):
    result = run_script("train.py", *toy, "logger=csv", "optimizer.lr=1e30")
    assert result.returncode == 2
    assert "training diverged: the loss is nan at step 2, epoch 1, batch 2" in result.stderr
    assert "the first tensor with NaN or infinite values: loss term bce" in result.stderr
    assert "Traceback" not in result.stderr


def test_resuming_with_other_settings_is_refused(toy, tmp_path):
    assert run_script("train.py", *toy, "logger=csv").returncode == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    result = run_script("train.py", *toy, "loss.alpha=0.5", f"ckpt={last}")
    assert result.returncode == 2
    assert "loss.alpha: 0.25 -> 0.5" in result.stderr


def test_a_typo_fails_before_any_data_is_read(toy, tmp_path):
    for override in ("loss.alhpa=1", "+backbone.complex.hiden=3"):
        result = run_script("train.py", *toy, override)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "prepared").exists()


def test_missing_raw_files_say_what_to_download(toy, tmp_path):
    result = run_script("train.py", *toy, f"dataset.raw_dir={tmp_path}/nowhere")
    assert result.returncode == 2
    assert "reczoo/Frappe_x1" in result.stderr
    assert "dataset.raw_dir=FOLDER" in result.stderr
    assert "Traceback" not in result.stderr


def test_synthetic_shows_the_best_possible_auc(tmp_path):
    options = [
        "dataset.generator.train=3000",
        "dataset.generator.valid=500",
        "dataset.generator.test=500",
        "trainer=smoke",
        "logger=none",
    ]
    result = run_script("train.py", *options, f"dataset.prepared_dir={tmp_path}/p", f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/best_auc"] == read_manifest(tmp_path / "p")["best_auc"]["test"]
    assert "best possible" in result.stdout
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_multirun_gives_each_job_a_folder(toy, tmp_path):
    toy = [option for option in toy if not option.startswith("hydra.run.dir")]
    result = run_script("train.py", "-m", *toy, "seed=1,2", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/sweep")
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = [json.loads((tmp_path / "sweep" / job / "metrics.json").read_text()) for job in "01"]
    assert metrics[0]["test/logloss"] != metrics[1]["test/logloss"]
    for job in (0, 1):  # each has a W&B run of its own in one group, named by its own overrides
        (run,) = offline_records(tmp_path / "sweep" / str(job), "run")
        assert (run.display_name, run.run_group) == (f"seed={job + 1}", f"{tmp_path.name}/sweep")
        curves = [row["val/auc"] for row in offline_history(tmp_path / "sweep" / str(job)) if "val/auc" in row]
        assert curves == [pytest.approx(metrics[job]["val/auc"])]


def test_a_user_dataset_is_one_yaml(tmp_path, raw_dir):
    """The yaml that docs/datasets.md shows, with this dataset's columns."""
    (shown,) = re.findall(r"```yaml\n(name: shop.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.DOTALL)
    shown = (
        shown.replace("- product", "- item")
        .replace("name: tags", "name: hour")
        .replace("name: price", "name: price, column: item")
        .replace("${root:}/data/raw/shop", str(raw_dir))
    )
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "shop.yaml").write_text(shown.replace("${root:}", str(tmp_path)))
    options = [
        f"hydra.searchpath=[file://{tmp_path}/conf]",
        "dataset=shop",
        "trainer=smoke",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
    ]
    result = run_script("train.py", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_manifest(tmp_path / "data" / "prepared" / "shop")["splits"]["train"]["rows"] == 400
    assert "test/gauc" in json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_help_is_a_screen_and_help_all_has_the_composed_config_too():
    short = run_script("train.py", "--help")
    assert short.returncode == 0
    assert "python src/train.py backbone=deepfm dataset=frappe" in short.stdout
    assert len(short.stdout.splitlines()) <= 45
    whole = run_script("train.py", "--help", "all", "optimizer.lr=5e-4")
    assert whole.returncode == 0
    assert whole.stdout.startswith(short.stdout)
    for part in ("dataset: amazon_electronics, avazu, criteo,", "\n  lr: 0.0005\n", "sweep.resume=FOLDER"):
        assert part in whole.stdout


def test_prepare_alone_prepares_what_train_would(toy, tmp_path, raw_dir):
    options = [option for option in toy if option.startswith("dataset")]
    result = run_script("prepare.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(pl.read_parquet(tmp_path / "prepared" / "toy" / "train.parquet")) == 400
    assert make_spec(raw_dir).prepared_dir == tmp_path / "prepared" / "toy"
    assert not any(Path(tmp_path).glob(".hydra"))


def test_tensorboard_gets_the_curves(toy, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_script("train.py", *toy, "logger=tensorboard", "trainer.max_epochs=2")
    assert result.returncode == 0, result.stdout + result.stderr
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    curve = [event.value for event in events.Scalars("val/auc")]
    assert curve[metrics["best_epoch"] - 1] == pytest.approx(metrics["val/auc"], abs=1e-6)


def test_overfit_learns_one_batch_completely(toy, tmp_path):
    toy = [option for option in toy if not option.startswith("trainer")]
    options = ["trainer=overfit", "logger=csv", "optimizer.lr=0.01", "backbone.complex.dropout=0", "embedding.l2=0"]
    result = run_script("train.py", *toy, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = read(tmp_path / "run" / "metrics.csv")
    assert float(rows[0]["train/bce"]) > 0.6
    assert max(float(row["val/auc"]) for row in rows) == 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/auc"] < 0.8
