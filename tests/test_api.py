"""The Python API as a user calls it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from sklearn.metrics import roc_auc_score

import tf4ctr
from conftest import ROOT
from inference.fixtures import kinds_rows, with_other_weights
from tf4ctr.api import as_overrides
from tf4ctr.assembly import load_run
from tf4ctr.errors import InputError
from tf4ctr.inference.evaluation import measure, score
from tf4ctr.inference.prediction import predict


def of_file(run, rows, tmp_path, kind="parquet"):
    """The probabilities that predict.py writes for the same rows in a file."""
    source = tmp_path / f"new.{kind}"
    rows.write_csv(source) if kind == "csv" else rows.write_parquet(source)
    predict(run, source, tmp_path / "scores.parquet", heads=True)
    return pl.read_parquet(tmp_path / "scores.parquet").select("p", "p_simple", "p_complex")


def test_importing_tf4ctr_is_light():
    light = (
        "import sys, tf4ctr; assert tf4ctr.__version__; sys.exit(bool({'torch', 'polars', 'hydra'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", light], cwd=ROOT / "src", check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        tf4ctr.predict  # noqa: B018


def test_a_frame_gets_the_probabilities_of_a_file_to_the_last_digit(run, tmp_path):
    rows = pl.read_csv(run.parent / "raw" / "test.csv").with_columns(
        pl.when(pl.col("user") < 3).then(None).otherwise("user").alias("user"), item=pl.col("item") + 20, more="item"
    )
    expected = of_file(run, rows, tmp_path)
    model = tf4ctr.load(run)
    p = model.predict(rows.drop("click"))
    assert (p.name, p.dtype) == ("p", pl.Float32)
    assert p.equals(expected["p"])
    assert model.predict(rows, heads=True).equals(expected)


def test_numbers_lists_and_null_values_are_read_as_from_a_file(kinds_run, tmp_path):
    rows = kinds_rows()
    scores = tf4ctr.load(kinds_run("parquet")).predict(rows, heads=True)
    assert scores.equals(of_file(kinds_run("parquet"), rows, tmp_path))
    texts = rows.with_columns(pl.col("liked").list.join("|"), pl.col("price").cast(pl.String).fill_null("NA"))
    scores = tf4ctr.load(kinds_run("csv")).predict(texts, heads=True)
    assert scores.equals(of_file(kinds_run("csv"), texts, tmp_path))
    # polars cuts a csv file into other batches, whose matrix products can differ in the last digit
    np.testing.assert_allclose(scores, of_file(kinds_run("csv"), texts, tmp_path, "csv"), atol=1e-6)


def test_many_rows_keep_their_order(run):
    random = np.random.default_rng(0)
    rows = pl.DataFrame({name: random.integers(0, 60, 250_000) for name in ("user", "item", "hour")})
    model = tf4ctr.load(run)
    p, few = model.predict(rows), random.choice(250_000, 200, replace=False)
    np.testing.assert_allclose(p[few], model.predict(rows[few]), atol=1e-6)
    assert model.predict(rows.clear()).to_list() == []


def test_a_pandas_frame_keeps_its_index(run, tmp_path):
    rows = pl.read_csv(run.parent / "raw" / "test.csv")
    expected = of_file(run, rows, tmp_path)
    frame = rows.to_pandas().set_index(pd.Index(range(1000, 1100)))
    model = tf4ctr.load(run)
    p = model.predict(frame)
    assert isinstance(p, pd.Series)
    assert (p.name, p.index.equals(frame.index)) == ("p", True)
    assert p.tolist() == expected["p"].to_list()
    heads = model.predict(frame, heads=True)
    assert list(heads.columns) == expected.columns
    assert heads.index.equals(frame.index)
    assert model.evaluate(frame) == model.evaluate(rows)
    frame["user"] = frame["user"].where(frame["user"] > 3)  # integers become floats, with NaN
    assert model.predict(frame).tolist() == model.predict(pl.from_pandas(frame)).to_list()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"user": [1], "itme": [1], "hour": ["2"]}), "frame: no column 'item' (did you mean 'itme'"),
        (
            pl.DataFrame({"user": [1, 2, 3], "item": [1, 1, 1], "hour": ["2", "3", "noon"]}),
            "frame, row 3 (counted from 1): column 'hour' is 'noon', expected a number",
        ),
        (pl.DataFrame({"user": [1], "item": [[1]], "hour": [2]}), "field 'item': its column 'item' is a list"),
        (pl.DataFrame({"user": [{"a": 1}], "item": [1], "hour": [2]}), "frame: column 'user' is Struct"),
        (pd.DataFrame({"user": [1, "a"], "item": [1, 1], "hour": [2, 2]}), "frame: polars cannot read it"),
        ([{"user": 1}], "frame is a list: expected a polars or a pandas DataFrame"),
        (pl.LazyFrame({"user": [1]}), "frame is a LazyFrame: expected"),
        (pd.Series([1]), "frame is a Series: expected"),
    ],
)
def test_frames_that_cannot_be_read_are_refused(run, frame, message):
    model = tf4ctr.load(run)
    for use in (model.predict, model.evaluate):
        with pytest.raises(InputError) as caught:
            use(frame.assign(click=0) if isinstance(frame, pd.DataFrame) else with_label(frame))
        assert message in str(caught.value)


def with_label(frame):
    return frame.with_columns(click=pl.lit(0)) if isinstance(frame, pl.DataFrame) else frame


def test_a_field_without_known_values_is_warned_of(run):
    frame = pl.DataFrame({"user": ["u0", "u1"], "item": [1, 2], "hour": [1, 2]})
    with pytest.warns(UserWarning, match="field 'user': all its values are out of vocabulary"):
        tf4ctr.load(run).predict(frame)


def test_the_metrics_of_a_frame_are_those_of_the_prepared_rows(kinds_run, run):
    for folder, rows, weighted in (
        (run, pl.read_csv(run.parent / "raw" / "test.csv"), False),
        (kinds_run("parquet"), kinds_rows(), True),
    ):
        network, schema, _ = load_run(folder)
        expected = measure(score(network, schema, folder.parent / "prepared", "test", 1000, weighted), 20, 7)
        results = tf4ctr.load(folder).evaluate(rows, bootstrap=20, seed=7)
        assert results.keys() == expected.keys()
        assert {"auc", "logloss", "simple/auc", "complex/logloss_high"} <= set(results)
        assert results == pytest.approx(expected, abs=1e-7)
    assert "gauc" in tf4ctr.load(run).evaluate(pl.read_csv(run.parent / "raw" / "test.csv"))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("click", [0, 2], "frame, row 2 (counted from 1): column 'click' is '2', expected 0 or 1, or true or false"),
        ("click", [None, 1], "frame, row 1 (counted from 1): column 'click' is None, expected 0 or 1"),
        ("click", [[0], [1]], "frame: column 'click' is List(Int64), expected one value per row"),
        ("clicks", [0, 1], "frame: no column 'click' (did you mean 'clicks'"),
    ],
)
def test_an_invalid_label_is_refused(run, column, values, message):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "hour": [1, 2], column: values})
    with pytest.raises(InputError) as caught:
        tf4ctr.load(run).evaluate(frame)
    assert message in str(caught.value)


def test_an_invalid_weight_is_refused(kinds_run):
    frame = kinds_rows().with_columns(w=pl.when(pl.int_range(pl.len()) == 4).then(-2.0).otherwise("w"))
    with pytest.raises(InputError, match=r"row 5 \(counted from 1\): column 'w' is -2.0, expected a finite number"):
        tf4ctr.load(kinds_run("parquet")).evaluate(frame)


def test_the_embedding_has_the_names_of_the_values(run, kinds_run):
    model = tf4ctr.load(run)
    table = model.embedding("user")
    assert table.columns == ["value", "embedding_simple", "embedding_complex"]
    assert table["value"][0] == "(none)"
    assert table["value"][-1] == "(out of vocabulary)"
    known = pl.read_parquet(run / "vocabulary" / "user.parquet").to_series().cast(pl.String)
    assert table["value"][1:-1].to_list() == known.to_list()
    first = model.schema.offset_of("user")
    for name, weight in zip(("simple", "complex"), model.network.ssem.tables, strict=True):
        own = weight.weight[first : first + len(table)].detach().numpy()
        np.testing.assert_array_equal(table[f"embedding_{name}"].to_numpy(), own)
    with pytest.raises(InputError, match="no field of ids 'usr', did you mean 'user'"):
        model.embedding("usr")
    for field in tf4ctr.load(kinds_run("csv")).schema.id_fields:
        assert len(tf4ctr.load(kinds_run("csv")).embedding(field.name)) == field.vocabulary_size


def test_one_table_for_all_encoders_has_one_column(make_run):
    rows = pl.DataFrame({"click": [0, 1], "user": ["a", "b"], "item": [1, 2]})
    model = tf4ctr.load(make_run(rows, ["user", "item"], "parquet"))
    model.network.ssem = torch.nn.Identity()
    model.network.ssem.table = None  # what the linear encoder alone has
    with pytest.raises(InputError, match="read no embeddings"):
        model.embedding("user")


def test_a_run_has_its_facts_and_a_folder_without_a_run_is_refused(run, make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    model = tf4ctr.load("run")
    assert model.folder == run
    assert repr(model) == "TrainedRun(run)"
    assert model.metrics["test/auc"] > 0
    assert isinstance(model.config, DictConfig)
    assert model.config.dataset.label == model.schema.label == "click"
    assert not model.network.training
    with pytest.raises(InputError, match="there is no config.yaml"):
        tf4ctr.load(tmp_path)
    rows = pl.DataFrame({"click": [0, 1], "user": [1, 2]})
    with pytest.raises(InputError, match="metrics.json does not exist: the run was stopped before its test"):
        tf4ctr.load(make_run(rows, ["user"], "csv")).metrics  # noqa: B018


def test_train_is_the_command_line_and_returns_the_run(run, tmp_path, capfd):
    raw = run.parent / "raw"
    options = {
        "dataset": "frappe",
        "dataset.raw_dir": raw,
        "dataset.prepared_dir": tmp_path / "prepared",
        "dataset.fields": ["user", "item", {"name": "hour", "transform": "log_bucket"}],
        "dataset.label": "click",
        "dataset.rows": None,
        "backbone.complex.hidden_units": [16],
        "stream.batch_size": np.int64(64),
        "trainer": "smoke",
        "logger": "none",
        "hydra.run.dir": tmp_path / "it's a run",
    }
    model = tf4ctr.train(options)
    shown = capfd.readouterr().out
    assert "Settings" in shown
    assert f"{model.metrics['test/auc']:.6f}" in shown
    assert model.folder == tmp_path / "it's a run"
    assert model.metrics["test/auc"] == tf4ctr.load(run).metrics["test/auc"]
    # a mistake that only the training finds
    options |= {"dataset.raw_dir": tmp_path / "nowhere", "dataset.prepared_dir": tmp_path / "other"}
    options |= {"hydra.run.dir": tmp_path / "another"}
    with pytest.raises(InputError, match="the training was refused: .*nowhere"):
        tf4ctr.train(options, quiet=True)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone=deepmf"], "backbone=deepmf: unknown option, did you mean"),
        ({"optimizer.lrate": 1}, "optimizer.lrate: unknown option"),
        (["-m", "seed=1,2"], "override -m: train() makes one run; a sweep is python src/train.py -m"),
        ("seed=1", "expected a list of texts KEY=VALUE, or a mapping"),
        (["seed=1,2"], "1,2"),
    ],
)
def test_a_wrong_override_is_refused_at_once(overrides, message, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(InputError) as caught:
        tf4ctr.train(overrides)
    assert message in str(caught.value)


def test_a_mapping_is_written_in_the_grammar_of_overrides():
    values = {"a": None, "b": True, "c": 1e-4, "d": [1, "x y"], "e": {"k": "it's"}, "f": Path("p"), "g": np.float32(2)}
    expected = ["a=null", "b=true", "c=0.0001", "d=[1,'x y']", r"e={k:'it\'s'}", "f='p'", "g=2.0"]
    assert as_overrides(values) == expected


def test_several_runs_are_an_ensemble(run, tmp_path):
    folders = [run, with_other_weights(run, tmp_path / "other")]
    rows = pl.read_csv(run.parent / "raw" / "test.csv")
    singles = [tf4ctr.load(folder) for folder in folders]
    ensemble = tf4ctr.load([*map(str, folders)])
    assert repr(ensemble) == "Ensemble(run, other)"
    assert [one.folder for one in ensemble.runs] == folders
    p = ensemble.predict(rows)
    own = [one.predict(rows).cast(pl.Float64).to_numpy() for one in singles]
    np.testing.assert_allclose(p, (own[0] + own[1]) / 2, atol=1e-6)
    heads = ensemble.predict(rows.to_pandas(), heads=True)
    assert list(heads.columns) == ["p", "p_run_1", "p_run_2"]
    np.testing.assert_allclose(heads["p_run_2"], own[1], atol=1e-6)
    results = ensemble.evaluate(rows, bootstrap=5)
    auc = [one.evaluate(rows)["auc"] for one in singles]
    assert [results["run_1/auc"], results["run_2/auc"]] == pytest.approx(auc, abs=1e-7)
    assert results["auc"] == pytest.approx(roc_auc_score(rows["click"], p), abs=1e-6)
    assert results["gain/auc"] == pytest.approx(results["auc"] - sum(auc) / 2, abs=1e-7)
    assert {"gain/logloss_low", "gain/gauc_high", "run_2/gauc"} <= set(results)
    with pytest.warns(UserWarning, match="^field 'user': all its values are out of vocabulary"):
        ensemble.predict(rows.with_columns(pl.lit("nobody").alias("user")))


def test_an_ensemble_needs_runs_that_differ_and_read_the_same_columns(run, kinds_run):
    for folders, message in (
        ([], "names no run"),
        ([run, run], "twice: an ensemble has each run once"),
        ([run, kinds_run("csv")], "do not read the same raw columns, they differ in 'age', 'clicks', 'hour', 'ip'"),
    ):
        with pytest.raises(InputError) as caught:
            tf4ctr.load(folders)
        assert message in str(caught.value)
