import json

import polars as pl
import pytest

from tf4ctr.errors import InputError
from tf4ctr.experiments.records import find_runs, read_records, read_run, read_table, run_name, write_table
from tf4ctr.experiments.runs import ROOT

CONFIG = """
seed: 7
ckpt: null
dataset: {name: toy, raw_dir: /data, prepared_dir: /prepared, histories: null}
backbone: {complex: {hidden_units: [32, 16]}}
loss: {c: 0.7, since: 2014-10-20}
embedding: {table: {init_std: 1e-3}}
trainer: {accelerator: cpu, max_epochs: 3, default_root_dir: /here}
callbacks: {best: {dirpath: /here, monitor: val/auc}, progress_bar: {n: 10}}
logger: {csv: {save_dir: /here}}
"""
CHOICES = (
    "hydra: {runtime: {choices: {encoder@backbone.m1: mlp, backbone: dnn, framework: plain, experiment: null,"
    " number: null, launcher: serial}}}"
)


def make_run(folder, metrics=None, overrides=("seed=1",)):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "run", {"test/auc": 0.7, "parameters": 12}, ["+loss.c=0.7", "seed=7", "~callbacks.x"])
    (folder / "config.yaml").write_text(CONFIG)
    (folder / ".hydra" / "hydra.yaml").write_text(CHOICES)
    (folder / "metrics.csv").write_text("epoch,step,val/auc,val/a/auc,val/gauc\n1,5,0.6000004,0.5,\n1.5,7,,,\n")
    return folder


def test_the_record_of_a_run(run):
    record = read_run(run)
    overrides = {"loss.c": "loss.c=0.7", "seed": "seed=7", "~callbacks.x": "~callbacks.x"}
    assert json.loads(record.pop("overrides")) == overrides
    assert json.loads(record.pop("curves")) == {"epoch": [1, 1.5], "val/auc": [0.6, None], "val/gauc": [None, None]}
    assert json.loads(record.pop("config")) == {
        "framework": "plain",
        "backbone": "dnn",
        "encoder@backbone.m1": "mlp",
        "dataset": "toy",
        "embedding.table.init_std": "1e-3",
        "dataset.name": "toy",
        "dataset.histories": "null",
        "backbone.complex.hidden_units": ["32", "16"],
        "loss.c": "0.7",
        "loss.since": "2014-10-20",
        "trainer.max_epochs": "3",
        "callbacks.best.monitor": "val/auc",
    }
    known = {"dataset": "toy", "framework": "plain", "seed": "7", "error": None, "test/auc": 0.7, "parameters": 12}
    assert record == {"run": str(run), **known}


def test_a_stopped_run_is_what_its_overrides_say(tmp_path):
    record = read_run(make_run(tmp_path / "0", None, ["dataset=toy", "framework=plain", "seed=3"]))
    assert [record[name] for name in ("dataset", "framework", "seed")] == ["toy", "plain", "3"]
    assert record["error"] == "stopped before its end"
    assert [record[name] for name in ("config", "curves")] == ["{}", "{}"]


def test_folders_inside_the_project_are_stored_relative_to_it(tmp_path):
    assert run_name(ROOT / "outputs" / "a") == "outputs/a"
    assert run_name(tmp_path) == str(tmp_path)


def test_runs_are_found_in_sweeps_days_and_by_themselves(tmp_path):
    sweep = [make_run(tmp_path / "multirun" / "day" / "time" / name) for name in ("2", "10", "0")]
    day = make_run(tmp_path / "day" / "12-00-dnn")
    (day / "wandb" / "config").mkdir(parents=True)
    (day / "wandb" / "config" / "config.yaml").touch()  # of something within a run
    assert find_runs(tmp_path / "multirun" / "day" / "time") == [sweep[2], sweep[0], sweep[1]]
    assert find_runs(tmp_path / "multirun") == [sweep[2], sweep[0], sweep[1]]
    assert find_runs(tmp_path / "day") == [day]
    assert find_runs(day) == [day]
    for folder in (tmp_path / "nowhere", day / "wandb" / "config" / "config.yaml"):
        with pytest.raises(InputError, match="contains no run"):
            find_runs(folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_runs_is_read_as_it_was_written(run, tmp_path, suffix):
    failed = make_run(tmp_path / "sweep" / "0")
    (failed / "error.txt").write_text('a "quoted", text')
    make_run(tmp_path / "sweep" / "1", {"test/auc": float("nan"), "test/gauc": None, "epochs": 3})
    frame = read_records([run, tmp_path / "sweep"])
    assert frame["test/auc"].to_list() == [0.7, None, None]
    path = tmp_path / f"runs{suffix}"
    write_table(frame.with_columns(setting=pl.lit("x")), path)
    assert not [*tmp_path.glob("*.partial")]
    kept = read_table(path)
    assert kept.columns == frame.columns
    assert kept.rows() == frame.rows()
    assert kept["seed"].dtype == pl.String


def test_the_last_record_of_a_run_counts(run, tmp_path):
    write_table(read_records([run]), tmp_path / "runs.csv")
    (run / "metrics.json").write_text('{"test/auc": 0.8, "test/new": 1}')
    assert read_records([tmp_path / "runs.csv", run])["test/auc"].to_list() == [0.8]
    assert read_records([run, tmp_path / "runs.csv"])["test/auc"].to_list() == [0.7]


def test_another_table_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the file does not exist"):
        read_table(tmp_path / "runs.csv")
    (tmp_path / "runs.csv").write_text("run,seed\na,1\n")
    with pytest.raises(InputError, match="is no table of runs: it has no column dataset, framework, error"):
        read_table(tmp_path / "runs.csv")


def test_what_is_shown_and_where_rows_are_kept_makes_no_other_setting(run):
    settings = []
    for verbose, tier in (("true", "auto"), ("false", "memory"), ("false", "disk")):
        (run / "config.yaml").write_text(f"{CONFIG}verbose: {verbose}\nstream: {{tier: {tier}}}\n")
        settings.append(read_run(run)["config"])
    assert settings[0] == settings[1] != settings[2]


def test_a_run_has_one_name_whatever_its_path(run, tmp_path):
    (tmp_path / "other").mkdir()
    assert len(read_records([run, tmp_path / "other" / ".." / "run"])) == 1


def test_a_metric_that_no_run_of_a_csv_has_is_a_number(run, tmp_path):
    frame = read_records([run]).with_columns(pl.lit(None, pl.Float64).alias("test/gauc"))
    write_table(frame, tmp_path / "runs.csv")
    assert read_records([tmp_path / "runs.csv"])["test/gauc"].mean() is None
