import gzip
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from conftest import ROOT, run_script
from tf4ctr import __version__
from tf4ctr.assembly import load_run
from tf4ctr.errors import InputError
from tf4ctr.inference.evaluation import score
from tf4ctr.inference.prediction import predict, unknown_table


@pytest.fixture
def raw(run):
    return run.parent / "raw"


def expected(run):
    network, schema, _ = load_run(run)
    logits = score(network, schema, run.parent / "prepared", "test", 64).logits
    return {name: torch.sigmoid(each).numpy() for name, each in logits.items()}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_every_form_gets_the_probabilities_of_the_prepared_rows(run, raw, tmp_path, kind):
    source, rows = tmp_path / f"new.{kind}", pl.read_csv(raw / "test.csv")
    if kind == "parquet":
        rows.write_parquet(source)
    else:
        text = rows.drop("click").write_csv().encode()  # a label is not needed
        source.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    done = predict(run, source, tmp_path / "scores.parquet", heads=True)
    found = pl.read_parquet(tmp_path / "scores.parquet")
    assert done.rows == len(found) == 100
    for column, head in (("p", "fused"), ("p_simple", "simple"), ("p_complex", "complex")):
        np.testing.assert_allclose(found[column], expected(run)[head], atol=1e-6)
    assert done.mean == pytest.approx(found["p"].mean(), abs=1e-6)
    assert found["user"].cast(pl.Int64).to_list() == rows["user"].to_list()
    if kind == "parquet":
        assert found.drop("p", "p_simple", "p_complex").equals(rows)  # as they were, types too


def test_order_and_rows_are_kept_over_many_batches(run, tmp_path):
    random = np.random.default_rng(0)
    rows = pl.DataFrame(
        {"number": range(400_000), **{name: random.integers(0, 60, 400_000) for name in ("user", "item", "hour")}}
    )
    rows.write_parquet(tmp_path / "new.parquet")
    done = predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    found = pl.read_parquet(tmp_path / "scores.parquet")
    assert done.rows == 400_000
    assert found["number"].equals(rows["number"])
    same = found.group_by("user", "item", "hour").agg(pl.col("p").n_unique(), pl.len())
    assert same["len"].max() > 1
    spread = (
        found.group_by("user", "item", "hour")
        .agg((pl.col("p").max() - pl.col("p").min()).alias("spread"))["spread"]
        .max()
    )
    assert spread < 1e-6


def test_unseen_and_missing_values_are_out_of_vocabulary_and_counted(run, tmp_path):
    (tmp_path / "new.csv").write_text("user,item,hour\n0,1,2\nnobody,1,2\n,1,2\n0,1,\n")
    done = predict(run, tmp_path / "new.csv", tmp_path / "scores.csv")
    found = pl.read_csv(tmp_path / "scores.csv")
    assert found.columns == ["user", "item", "hour", "p"]
    assert len(found) == 4
    assert found["p"][1] == pytest.approx(found["p"][2])
    assert done.out_of_vocabulary["user"] == 0.5
    assert "50.00%" in str(list(unknown_table(done).columns[1].cells))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,hour\n0,1,2\n0,1\n0,1,3\n", r"(?s)cut short or too long.*line 3: 2 cells, the header has 3"),
        ("user,item,hour\n0,1,2\n0,1,2,3\n", r"(?s)cut short or too long.*line 3: 4 cells"),
        ("user,item,hour\n0,1,2\n0,1,noon\n", r"line 3: column 'hour' is 'noon', expected a number"),
        ("user,itme,hour\n0,1,2\n", r"no column 'item' in its header \(did you mean 'itme'"),
    ],
)
def test_a_row_that_is_none_is_told_and_nothing_is_written(run, tmp_path, text, message):
    (tmp_path / "new.csv").write_text(text)
    (tmp_path / "scores.parquet").write_bytes(b"of an earlier time")
    with pytest.raises(InputError, match=message):
        predict(run, tmp_path / "new.csv", tmp_path / "scores.parquet")
    assert (tmp_path / "scores.parquet").read_bytes() == b"of an earlier time"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "scores.parquet"]


@pytest.mark.parametrize("form", ["csv", "csv.gz"])
def test_bad_rows_are_set_aside_with_line_and_reason(run, tmp_path, form):
    text = "\ufeffuser,item,hour\n0,1,2\n\n0,1\n0,1,noon\n0,1,2,3\n3,1,2\n4,,\n"
    source = tmp_path / f"new.{form}"
    source.write_bytes(gzip.compress(text.encode()) if form == "csv.gz" else text.encode())
    done = predict(run, source, tmp_path / "scores.csv", bad_rows="skip")
    assert (done.rows, done.set_aside) == (3, 3)
    found = pl.read_csv(tmp_path / "scores.csv")
    assert found["user"].to_list() == [0, 3, 4]
    bad = pl.read_csv(tmp_path / "scores.bad.csv")
    assert bad.columns == ["line", "reason", "row"]
    assert bad["line"].to_list() == [4, 5, 6]
    assert bad["row"].to_list() == ["0,1", "0,1,noon", "0,1,2,3"]
    assert bad["reason"][0] == "2 cells, the header has 3"
    assert bad["reason"][1] == "column 'hour' is 'noon', expected a number"
    (tmp_path / "good.csv").write_text("user,item,hour\n0,1,2\n3,1,2\n4,,\n")
    predict(run, tmp_path / "good.csv", tmp_path / "good.parquet")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "good.parquet")["p"], found["p"], atol=1e-6)


def test_bad_rows_of_parquet_and_libsvm_are_set_aside_too(run, tmp_path):
    pl.DataFrame({"user": [0, 1, 2], "item": [1, 1, 1], "hour": ["2", "noon", "3"]}).write_parquet(
        tmp_path / "new.parquet"
    )
    (tmp_path / "new.libsvm").write_text("1 0:1 1:1 2:1\n0 3:1 1:1\n0 5:1 1:1 2:1\n")
    for name in ("parquet", "libsvm"):
        done = predict(run, tmp_path / f"new.{name}", tmp_path / "scores.parquet", bad_rows="skip")
        assert (done.rows, done.set_aside) == (2, 1)
        assert pl.read_csv(tmp_path / "scores.bad.csv")["line"].to_list() == [2]


def test_without_bad_rows_none_are_set_aside(run, raw, tmp_path):
    done = predict(run, raw / "test.csv", tmp_path / "scores.parquet", bad_rows="skip")
    assert (done.rows, done.set_aside) == (100, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_the_runs_folder_alone_is_enough(run, raw, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = OmegaConf.load(moved / "config.yaml")
    config.dataset.prepared_dir = "/nowhere"
    OmegaConf.save(config, moved / "config.yaml")
    assert predict(moved, raw / "test.csv", tmp_path / "scores.parquet").rows == 100
    shutil.rmtree(moved / "vocabulary")
    with pytest.raises(InputError, match=r"vocabulary/user.parquet is missing"):
        predict(moved, raw / "test.csv", tmp_path / "scores.parquet")


def test_libsvm_goes_in_as_the_dataset_has_it(run, tmp_path):
    (tmp_path / "new.libsvm").write_text("1 0:1 1:1 2:1\n0 3:1 1:1 2:1\n")
    (tmp_path / "new.csv").write_text("user,item,hour\n0,1,2\n3,1,2\n")
    for name in ("libsvm", "csv"):
        predict(run, tmp_path / f"new.{name}", tmp_path / f"{name}.parquet")
    first, second = (pl.read_parquet(tmp_path / f"{name}.parquet")["p"] for name in ("libsvm", "csv"))
    assert first.equals(second)


def test_from_the_command_line(run, raw, tmp_path):
    done = run_script(
        "predict.py", f"run={run}", f"input={raw}/test.csv", f"output={tmp_path}/scores.csv", "heads=true"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 rows, mean probability" in done.stdout
    assert pl.read_csv(tmp_path / "scores.csv").columns[-3:] == ["p", "p_simple", "p_complex"]
    for arguments, message in (
        ([], "run= is missing"),
        ([f"run={run}", f"input={raw}/test.csv", f"output={tmp_path}/s.csv", "bad_rows=skp"], "did you mean 'skip'?"),
        ([f"run={run}", f"input={raw}/none.csv", f"output={tmp_path}/s.csv"], "there is no such file"),
        ([f"run={run}", f"input={raw}/test.csv", f"output={tmp_path}/s.txt"], "name a .parquet or a .csv file"),
    ):
        refused = run_script("predict.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")


@pytest.mark.parametrize("version", sorted(path.name for path in (ROOT / "tests" / "checkpoints").iterdir()))
def test_a_run_of_an_older_version_still_predicts_the_same(version, tmp_path):
    """The folders in tests/checkpoints were written by the version that they are named after, scores.csv too, by its predict.py."""
    kept = ROOT / "tests" / "checkpoints" / version
    expected = pl.read_csv(kept / "scores.csv")
    expected.drop("p", "p_simple", "p_complex").write_csv(tmp_path / "new.csv")
    predict(kept, tmp_path / "new.csv", tmp_path / "found.csv", heads=True)
    found = pl.read_csv(tmp_path / "found.csv")
    assert found.columns == expected.columns
    for name in ("p", "p_simple", "p_complex"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "0.0.7",
            rf"dfm.weight.*written by version 0.0.7, this is {__version__}: train again, or use that version \(git checkout v0.0.7\)",
        ),
        (None, r"dfm.weight.*older than version 0.1.0"),
        (__version__, r"dfm.weight.*Use the config that it was trained with"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_what_to_do(run, tmp_path, version, message):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["tf4ctr"] = version
    checkpoint["state_dict"]["network.dfm.weights"] = checkpoint["state_dict"].pop("network.dfm.weight")
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / "old")


def test_a_config_of_another_version_says_what_to_do(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.yaml"
    path.write_text(path.read_text().replace("tf4ctr.models.ssem.SeparateRepresentation", "tf4ctr.models.ssem.Gone"))
    with pytest.raises(InputError, match=r"its network cannot be built \(.*Gone"):
        load_run(tmp_path / "old")
