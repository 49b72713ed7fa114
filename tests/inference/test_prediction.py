import gzip
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from conftest import ROOT, run_script
from inference.fixtures import with_other_weights
from tf4ctr import __version__
from tf4ctr.assembly import load_run
from tf4ctr.errors import InputError
from tf4ctr.inference.evaluation import score
from tf4ctr.inference.findings import unknown_table
from tf4ctr.inference.prediction import predict


@pytest.fixture
def raw(run):
    return run.parent / "raw"


def expected(run):
    network, schema, _ = load_run(run)
    logits = score(network, schema, run.parent / "prepared", "test", 64).logits
    return {name: torch.sigmoid(logit_N).numpy() for name, logit_N in logits.items()}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "csv.zst", "parquet", "arrow", "ndjson", "ndjson.gz"])
def test_every_file_format_gives_the_probabilities_of_the_prepared_rows(run, raw, tmp_path, kind):
    source, rows = tmp_path / f"new.{kind}", pl.read_csv(raw / "test.csv")
    if kind in ("parquet", "arrow"):
        rows.write_parquet(source) if kind == "parquet" else rows.write_ipc(source)
    elif kind == "csv.zst":
        rows.write_csv(source, compression="zstd", check_extension=False)
    else:
        rows_without = rows.drop("click")  # the label may be absent
        text = (rows_without.write_ndjson() if "ndjson" in kind else rows_without.write_csv()).encode()
        source.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    result = predict(run, source, tmp_path / "scores.parquet", heads=True)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert result.rows == len(scores) == 100
    for column, head in (("p", "fused"), ("p_simple", "simple"), ("p_complex", "complex")):
        np.testing.assert_allclose(scores[column], expected(run)[head], atol=1e-6)
    assert result.mean == pytest.approx(scores["p"].mean(), abs=1e-6)
    assert scores["user"].cast(pl.Int64).to_list() == rows["user"].to_list()
    if kind in ("parquet", "arrow"):
        assert scores.drop("p", "p_simple", "p_complex").equals(rows)  # values and types are unchanged


def test_the_input_is_not_replaced(run, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("user,item,hour\n1,2,3\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the input, which it would replace"):
        predict(run, path, tmp_path / "." / "new.csv")
    assert path.read_bytes() == before


def test_order_and_rows_are_kept_over_many_batches(run, tmp_path):
    random = np.random.default_rng(0)
    rows = pl.DataFrame(
        {"number": range(400_000), **{name: random.integers(0, 60, 400_000) for name in ("user", "item", "hour")}}
    )
    rows.write_parquet(tmp_path / "new.parquet")
    result = predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert result.rows == 400_000
    assert scores["number"].equals(rows["number"])
    equal_rows = scores.group_by("user", "item", "hour").agg(pl.len(), spread=pl.col("p").max() - pl.col("p").min())
    assert equal_rows["len"].max() > 1
    assert equal_rows["spread"].max() < 1e-6


def test_unseen_and_missing_values_are_out_of_vocabulary_and_counted(run, tmp_path):
    (tmp_path / "new.csv").write_text("user,item,hour\n0,1,2\nnobody,1,2\n,1,2\n0,1,\n")
    result = predict(run, tmp_path / "new.csv", tmp_path / "scores.csv")
    scores = pl.read_csv(tmp_path / "scores.csv")
    assert scores.columns == ["user", "item", "hour", "p"]
    assert len(scores) == 4
    assert scores["p"][1] == pytest.approx(scores["p"][2])
    assert result.findings[0].out_of_vocabulary["user"] == 0.5
    assert "50.00%" in str(list(unknown_table(result.findings[0]).columns[1].cells))
    assert result.findings[0].all_unknown == []


IDS = [1.0, 2.0, 30.0, None]


@pytest.mark.parametrize("trained", ["parquet Float64", "parquet Int64", "csv Float64", "csv Int64"])
def test_whole_floats_and_integers_are_the_same_ids(make_run, tmp_path, trained):
    """The vocabulary has "3" or "3.0", as training reads it; at prediction they are one id."""
    kind, dtype = trained.split()
    rows = pl.DataFrame({"click": [0, 1, 1, 0], "user": pl.Series(IDS).cast(getattr(pl, dtype)), "item": [1, 2, 3, 4]})
    run = make_run(rows, ["user", "item"], kind)
    inputs = {
        "integers.parquet": rows.with_columns(pl.col("user").cast(pl.Int64)),
        "floats.parquet": rows.with_columns(pl.col("user").cast(pl.Float64)),
        "integers.csv": rows.with_columns(pl.col("user").cast(pl.Int64)),
        "floats.csv": rows.with_columns(pl.col("user").cast(pl.Float64)),
    }
    scores = {}
    for name, frame in inputs.items():
        source = tmp_path / name
        frame.write_csv(source) if source.suffix == ".csv" else frame.write_parquet(source)
        result = predict(run, source, tmp_path / "scores.parquet")
        scores[name] = pl.read_parquet(tmp_path / "scores.parquet")["p"].to_list()
        assert result.findings[0].out_of_vocabulary == {"user": 0.25, "item": 0.0}  # only the missing user
        assert result.findings[0].all_unknown == []
    assert scores == dict.fromkeys(inputs, scores["integers.csv"])
    assert len(set(scores["integers.csv"])) == 4


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_field_whose_values_are_all_unknown_is_reported_with_examples(run, tmp_path, kind):
    rows = {"user": ["u0", None, "u1", "u2"], "item": [1, 2, 3, 4], "hour": [2, 3, 4, 5]}
    source = tmp_path / f"new.{kind}"
    pl.DataFrame(rows).write_csv(source) if kind == "csv" else pl.DataFrame(rows).write_parquet(source)
    result = predict(run, source, tmp_path / "scores.parquet")
    (unknown,) = result.findings[0].all_unknown
    assert (unknown.field, unknown.known) == ("user", ["0", "1"])
    assert set(unknown.values) < {"u0", "u1", "u2"}  # the first ones that a thread reads
    assert len(unknown.values) == 2


def test_a_field_without_values_is_not_reported_as_unknown(run, tmp_path):
    (tmp_path / "new.csv").write_text("user,item,hour\n,1,2\n,2,3\n")
    assert predict(run, tmp_path / "new.csv", tmp_path / "scores.csv").findings[0].all_unknown == []


def test_all_unknown_is_decided_over_all_batches(run, tmp_path):
    """The only known user and the second example are in the last rows of 400,000."""
    users = pl.Series(["nobody"] * 399_999 + ["1"])
    rows = pl.DataFrame({"user": users, "item": ["none"] * 399_999 + ["no"], "hour": ["1"] * 400_000})
    rows.write_parquet(tmp_path / "new.parquet", row_group_size=50_000)
    result = predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    assert [(field, sorted(values)) for field, values, _ in result.findings[0].all_unknown] == [
        ("item", ["no", "none"])
    ]


@pytest.mark.parametrize("trained", ["csv", "parquet"])
def test_lists_of_parquet_get_the_ids_of_training(tags_run, tmp_path, trained):
    rows = pl.DataFrame(
        {"user": [1, 1, 1, 1, 1, 1], "tags": [["b", "a"], ["b", "a", "c"], ["b", None, "a"], ["b", "", "a"], [], None]}
    )
    rows.write_parquet(tmp_path / "new.parquet")
    result = predict(tags_run(trained), tmp_path / "new.parquet", tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores.drop("p").equals(rows)
    assert scores["p"][:4].n_unique() == 1  # the first two values; missing elements do not count
    assert scores["p"][4] == scores["p"][5] != scores["p"][0]
    assert result.findings[0].out_of_vocabulary == {"user": 0.0, "tags.0": 2 / 6, "tags.1": 0.0}


def test_lists_of_parquet_and_texts_of_csv_get_the_same_probabilities(tags_run, tmp_path):
    texts = ["b|a", "c", "unknown|a", "", "a|b|c"]
    lists = [text.split("|") for text in texts]
    pl.DataFrame({"user": [1] * 5, "tags": texts}).write_csv(tmp_path / "new.csv")
    pl.DataFrame({"user": [1] * 5, "tags": lists}).write_parquet(tmp_path / "new.parquet")
    scores = []
    for name in ("new.csv", "new.parquet"):
        predict(tags_run("csv"), tmp_path / name, tmp_path / "scores.parquet")
        scores.append(pl.read_parquet(tmp_path / "scores.parquet")["p"].to_list())
    assert scores[0] == scores[1]


def test_lists_of_numbers_are_lists_of_their_texts(make_run, tmp_path):
    rows = pl.DataFrame({"click": [0, 1], "user": [1, 2], "tags": [[1.0, 2.0], [3.0, None]]})
    run = make_run(rows, ["user", {"name": "tags", "width": 2}], "parquet")
    rows.with_columns(pl.col("tags").cast(pl.List(pl.Int32))).write_parquet(tmp_path / "new.parquet")
    result = predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    assert result.findings[0].out_of_vocabulary == {"user": 0.0, "tags.0": 0.0, "tags.1": 0.0}


@pytest.mark.parametrize(
    ("rows", "output", "message"),
    [
        ({"user": [1], "tags": [["a"]]}, "scores.csv", r"'tags' is List\(String\).*name a .parquet file as output="),
        ({"user": [1], "tags": [["a"]], "more": [{"x": 1}]}, "s.csv", r"csv file cannot contain: name a .parquet"),
        ({"user": [[1]], "tags": [["a"]]}, "scores.parquet", r"field 'user': its column 'user' is a list"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_before_scoring(tags_run, tmp_path, rows, output, message):
    pl.DataFrame(rows).write_parquet(tmp_path / "new.parquet")
    with pytest.raises(InputError, match=message):
        predict(tags_run("parquet"), tmp_path / "new.parquet", tmp_path / output)
    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


def test_text_for_a_list_field_without_separator_is_refused(tags_run, tmp_path):
    (tmp_path / "new.csv").write_text("user,tags\n1,a\n")
    with pytest.raises(InputError, match="field 'tags': its column 'tags' is text: set the field's separator"):
        predict(tags_run("parquet"), tmp_path / "new.csv", tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,hour\n0,1,2\n0,1\n0,1,3\n", r"(?s)has invalid rows.*line 3: 2 cells, the header has 3"),
        ("user,item,hour\n0,1,2\n0,1,2,3\n", r"(?s)has invalid rows.*line 3: 4 cells"),
        ('user,item,hour,note\n0,1,2,a\n0,1,2,b"\n', r"(?s)has invalid rows.*line 3: a quote without its pair"),
        ("user,item,hour\n0,1,2\n0,1,noon\n", r"line 3: column 'hour' is 'noon', expected a number"),
        ("user,item,hour\n0,1,2\n\n\n0,1,noon\n", r"line 5: column 'hour' is 'noon', expected a number"),
        ("user,itme,hour\n0,1,2\n", r"no column 'item' in its header \(did you mean 'itme'"),
        ("user,item,hour,note,note\n0,1,2,a,b\n", r"its header names column 'note' 2 times"),
    ],
)
def test_an_invalid_row_is_reported_and_nothing_is_written(run, tmp_path, text, message):
    (tmp_path / "new.csv").write_text(text)
    (tmp_path / "scores.parquet").write_bytes(b"of an earlier prediction")
    with pytest.raises(InputError, match=message):
        predict(run, tmp_path / "new.csv", tmp_path / "scores.parquet")
    assert (tmp_path / "scores.parquet").read_bytes() == b"of an earlier prediction"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "scores.parquet"]


@pytest.mark.parametrize("bad_rows", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,item,hour\n0,1,2\n".encode("utf-16"), "new.csv is encoded as UTF-16, expected UTF-8"),
        (b"user,item,hour\n0,1,2\nM\xfcller,1,2\n", "new.csv, line 3: byte 0xfc at column 2 is not UTF-8"),
    ],
)
def test_another_encoding_is_named(run, tmp_path, content, message, bad_rows):
    (tmp_path / "new.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        predict(run, tmp_path / "new.csv", tmp_path / "scores.csv", bad_rows=bad_rows)


@pytest.mark.parametrize("form", ["csv", "csv.gz"])
def test_bad_rows_are_set_aside_with_line_and_reason(run, tmp_path, form):
    text = "\ufeffuser,item,hour\n0,1,2\n\n0,1\n0,1,noon\n0,1,2,3\n3,1,2\n4,,\n"
    source = tmp_path / f"new.{form}"
    source.write_bytes(gzip.compress(text.encode()) if form == "csv.gz" else text.encode())
    result = predict(run, source, tmp_path / "scores.csv", bad_rows="skip")
    assert (result.rows, result.set_aside) == (3, 3)
    scores = pl.read_csv(tmp_path / "scores.csv")
    assert scores["user"].to_list() == [0, 3, 4]
    bad = pl.read_csv(tmp_path / "scores.csv.bad.csv")
    assert bad.columns == ["line", "reason", "row"]
    assert bad["line"].to_list() == [4, 5, 6]
    assert bad["row"].to_list() == ["0,1", "0,1,noon", "0,1,2,3"]
    assert bad["reason"][0] == "2 cells, the header has 3"
    assert bad["reason"][1] == "column 'hour' is 'noon', expected a number"
    (tmp_path / "good.csv").write_text("user,item,hour\n0,1,2\n3,1,2\n4,,\n")
    predict(run, tmp_path / "good.csv", tmp_path / "good.parquet")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "good.parquet")["p"], scores["p"], atol=1e-6)


def test_the_bad_rows_of_an_earlier_prediction_do_not_stay_beside_a_new_one(run, tmp_path):
    for rows, is_there in (("0,1,noon", True), ("0,1,2", False)):
        (tmp_path / "new.csv").write_text(f"user,item,hour\n{rows}\n0,1,2\n")
        predict(run, tmp_path / "new.csv", tmp_path / "scores.csv", bad_rows="skip")
        assert (tmp_path / "scores.csv.bad.csv").exists() == is_there


def test_a_file_with_a_similar_name_is_not_taken_for_that_of_the_bad_rows(run, tmp_path):
    for name in ("scores.bad.csv", "scores.csv.bad.csv"):
        (tmp_path / name).write_text("user,item,hour\n0,1,2\n")
    predict(run, tmp_path / "scores.bad.csv", tmp_path / "scores.parquet")
    assert (tmp_path / "scores.bad.csv").exists()
    with pytest.raises(InputError, match=r"scores.csv.bad.csv is the file of the invalid rows of output=.*scores.csv:"):
        predict(run, tmp_path / "scores.csv.bad.csv", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv.bad.csv").exists()


def test_a_column_of_the_input_is_not_replaced_by_the_probability(run, tmp_path):
    (tmp_path / "new.csv").write_text("user,item,hour,p,p_simple\n0,1,2,0.5,0.6\n")
    with pytest.raises(InputError, match="the input has a column 'p', as the output has"):
        predict(run, tmp_path / "new.csv", tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()
    (tmp_path / "new.csv").write_text("user,item,hour,p_simple\n0,1,2,0.6\n")
    assert predict(run, tmp_path / "new.csv", tmp_path / "scores.csv").rows == 1
    assert pl.read_csv(tmp_path / "scores.csv")["p_simple"].to_list() == [0.6]
    with pytest.raises(InputError, match="a column 'p_simple'"):
        predict(run, tmp_path / "new.csv", tmp_path / "heads.csv", heads=True)


def test_a_line_with_a_stray_quote_is_set_aside(run, tmp_path):
    (tmp_path / "new.csv").write_text('user,item,hour,note\n0,1,2,"a, b"\n0,1,2,4"\n3,1,2,c\n')
    result = predict(run, tmp_path / "new.csv", tmp_path / "scores.csv", bad_rows="skip")
    assert (result.rows, result.set_aside) == (2, 1)
    assert pl.read_csv(tmp_path / "scores.csv")["note"].to_list() == ["a, b", "c"]
    assert pl.read_csv(tmp_path / "scores.csv.bad.csv").rows() == [(3, "a quote without its pair", '0,1,2,4"')]


def test_a_layout_without_quotes_reads_them_as_text(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.dataset.layouts[0].quote = None
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    (tmp_path / "new.csv").write_text('user,item,hour,note\n0,1,2,4"\n3,1\n')
    with pytest.raises(InputError, match="line 3: 2 cells"):
        predict(tmp_path / "run", tmp_path / "new.csv", tmp_path / "scores.parquet")
    result = predict(tmp_path / "run", tmp_path / "new.csv", tmp_path / "scores.parquet", bad_rows="skip")
    assert (result.rows, result.set_aside) == (1, 1)
    assert pl.read_parquet(tmp_path / "scores.parquet")["note"].to_list() == ['4"']


def test_bad_rows_of_parquet_and_libsvm_are_set_aside_too(run, tmp_path):
    rows = {"user": [0, 1, 2], "item": [1, 1, 1], "hour": ["2", "noon", "3"], "more": [["a"], ["b", None], None]}
    pl.DataFrame(rows).write_parquet(tmp_path / "new.parquet")
    (tmp_path / "new.libsvm").write_text("1 0:1 1:1 2:1\n0 3:1 1:1\n0 5:1 1:1 2:1\n")
    for name in ("parquet", "libsvm"):
        result = predict(run, tmp_path / f"new.{name}", tmp_path / "scores.parquet", bad_rows="skip")
        assert (result.rows, result.set_aside) == (2, 1)
        assert pl.read_csv(tmp_path / "scores.parquet.bad.csv")["line"].to_list() == [2]
    with pytest.raises(InputError, match="row 2: column 'hour' is 'noon', expected a number"):
        predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")


AMOUNTS = {"click": [0, 1, 1, 0], "user": [1, 2, 3, 1], "amount": [5.0, 7.0, 3.0, 2.0]}


def test_a_row_for_which_the_network_overflows_is_a_bad_row(make_run, tmp_path):
    rows = pl.DataFrame(AMOUNTS)
    run = make_run(rows, ["user", {"name": "amount", "kind": "number"}], "parquet")
    large = rows.with_columns(amount=pl.Series([5.0, 7.0, 1e38, 2.0]))
    large.write_parquet(tmp_path / "new.parquet")
    with pytest.raises(InputError, match=r"new.parquet, row 3: the network's output is not finite"):
        predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet", heads=True)
    assert not (tmp_path / "scores.parquet").exists()
    result = predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet", heads=True, bad_rows="skip")
    assert (result.rows, result.set_aside) == (3, 1)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores["amount"].to_list() == [5.0, 7.0, 2.0]
    assert result.mean == pytest.approx(scores["p"].mean())
    assert result.findings[0].out_of_vocabulary["user"] == 0
    rows.filter(pl.int_range(pl.len()) != 2).write_parquet(tmp_path / "small.parquet")
    predict(run, tmp_path / "small.parquet", tmp_path / "expected.parquet", heads=True)
    np.testing.assert_allclose(scores["p"], pl.read_parquet(tmp_path / "expected.parquet")["p"], atol=1e-6)


def test_without_bad_rows_no_rows_are_set_aside(run, raw, tmp_path):
    result = predict(run, raw / "test.csv", tmp_path / "scores.parquet", bad_rows="skip")
    assert (result.rows, result.set_aside) == (100, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_prediction_needs_only_the_runs_folder(run, raw, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = OmegaConf.load(moved / "config.yaml")
    config.dataset.prepared_dir = "/nowhere"
    OmegaConf.save(config, moved / "config.yaml")
    assert predict(moved, raw / "test.csv", tmp_path / "scores.parquet").rows == 100
    shutil.rmtree(moved / "vocabulary")
    with pytest.raises(InputError, match=r"vocabulary/user.parquet is missing"):
        predict(moved, raw / "test.csv", tmp_path / "scores.parquet")


def test_libsvm_has_the_columns_in_the_datasets_order(run, tmp_path):
    (tmp_path / "new.libsvm").write_text("1 0:1 1:1 2:1\n0 3:1 1:1 2:1\n")
    (tmp_path / "new.csv").write_text("user,item,hour\n0,1,2\n3,1,2\n")
    for name in ("libsvm", "csv"):
        predict(run, tmp_path / f"new.{name}", tmp_path / f"{name}.parquet")
    first, second = (pl.read_parquet(tmp_path / f"{name}.parquet")["p"] for name in ("libsvm", "csv"))
    assert first.equals(second)


def mean_of(*probabilities):
    return np.mean([column.to_numpy().astype(np.float64) for column in probabilities], 0)


def test_several_runs_give_the_mean_of_their_probabilities(make_run, tmp_path):
    """Each has its own vocabulary and transform, and its own findings."""
    few = pl.DataFrame({"click": [0, 1, 1, 0], "user": [1, 2, 3, 4], "price": [1.0, 2.0, 8.0, 9.0]})
    many = few.with_columns(user=pl.Series([3, 4, 5, 6]), click=pl.Series([1, 0, 0, 1]))
    runs = [
        make_run(few, ["user", {"name": "price", "kind": "number"}], "csv"),
        make_run(many, ["user", {"name": "price", "kind": "number", "transform": "log1p"}], "csv"),
        make_run(many, ["user", "price"], "csv"),
    ]
    rows = pl.DataFrame({"note": ["a", "b", "c", "d"], "user": [3, 1, 6, 7], "price": [2.0, None, 8.0, 5.5]})
    rows.write_csv(tmp_path / "new.csv")
    singles, own = [], []
    for run in runs:
        singles += predict(run, tmp_path / "new.csv", tmp_path / "scores.parquet").findings
        own.append(pl.read_parquet(tmp_path / "scores.parquet")["p"])
    result = predict(runs, tmp_path / "new.csv", tmp_path / "scores.parquet", heads=True)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores.columns == ["note", "user", "price", "p", "p_run_1", "p_run_2", "p_run_3"]
    assert scores["note"].to_list() == ["a", "b", "c", "d"]
    for name, expected in zip(("p_run_1", "p_run_2", "p_run_3"), own, strict=True):
        np.testing.assert_allclose(scores[name], expected, atol=1e-6)
    np.testing.assert_allclose(scores["p"], mean_of(*own), atol=1e-6)
    assert np.ptp([*map(mean_of, own)], 0).max() > 0.01  # they do differ
    assert result.mean == pytest.approx(scores["p"].mean(), abs=1e-6)
    assert result.findings == singles
    assert [findings.out_of_vocabulary["user"] for findings in result.findings] == [0.5, 0.5, 0.5]
    assert [findings.missing for findings in result.findings] == [{"price": 0.25}, {"price": 0.25}, {}]
    assert result.findings[2].out_of_vocabulary["price"] == 0.5


def test_an_ensemble_keeps_the_order_over_many_batches(run, tmp_path):
    random = np.random.default_rng(0)
    rows = pl.DataFrame({name: random.integers(0, 60, 250_000) for name in ("user", "item", "hour")}).with_row_index()
    rows.write_parquet(tmp_path / "new.parquet")
    runs = [run, with_other_weights(run, tmp_path / "other")]
    assert predict(runs, tmp_path / "new.parquet", tmp_path / "scores.parquet", heads=True).rows == 250_000
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores["index"].equals(rows["index"])
    np.testing.assert_allclose(scores["p"], mean_of(scores["p_run_1"], scores["p_run_2"]), atol=1e-6)
    some = rows.sample(500, seed=1)
    some.write_parquet(tmp_path / "some.parquet")
    predict(runs[1], tmp_path / "some.parquet", tmp_path / "single.parquet")
    np.testing.assert_allclose(
        pl.read_parquet(tmp_path / "single.parquet")["p"], scores["p_run_2"].gather(some["index"]), atol=1e-6
    )


def test_a_row_that_one_run_of_an_ensemble_cannot_read_is_invalid(make_run, tmp_path):
    rows = pl.DataFrame({"click": [0, 1], "user": [1, 2], "hour": [3, 4]})
    runs = [make_run(rows, ["user", field], "csv") for field in ("hour", {"name": "hour", "transform": "log_bucket"})]
    (tmp_path / "new.csv").write_text("user,hour\n1,3\n2,noon\n2,4\n")
    predict(runs[0], tmp_path / "new.csv", tmp_path / "scores.csv")
    with pytest.raises(InputError, match="line 3: column 'hour' is 'noon', expected a number"):
        predict(runs, tmp_path / "new.csv", tmp_path / "scores.csv")
    result = predict(runs, tmp_path / "new.csv", tmp_path / "scores.csv", bad_rows="skip")
    assert (result.rows, result.set_aside) == (2, 1)
    assert pl.read_csv(tmp_path / "scores.csv")["hour"].to_list() == [3, 4]
    pl.DataFrame({"user": [1], "hour": [[3]]}).write_parquet(tmp_path / "new.parquet")
    with pytest.raises(InputError, match="field 'hour': its column 'hour' is a list"):
        predict(runs, tmp_path / "new.parquet", tmp_path / "scores.parquet")


@pytest.mark.parametrize("kind", ["csv", "libsvm"])
def test_runs_that_read_a_file_in_different_ways_are_refused(run, tmp_path, kind):
    other = with_other_weights(run, tmp_path / "other")
    config = OmegaConf.load(other / "config.yaml")
    if kind == "csv":
        config.dataset.layouts[0].separator = ";"
    else:
        config.dataset.fields = [config.dataset.fields[place] for place in (1, 0, 2)]
    OmegaConf.save(config, other / "config.yaml")
    (tmp_path / "new.csv").write_text("user,item,hour\n0,1,2\n")
    (tmp_path / "new.libsvm").write_text("1 0:1 1:1 2:1\n")
    with pytest.raises(InputError, match=r"run and .*other read this file in different ways \(dataset.layouts"):
        predict([run, other], tmp_path / f"new.{kind}", tmp_path / "scores.parquet")
    pl.DataFrame({"user": [0], "item": [1], "hour": [2]}).write_parquet(tmp_path / "new.parquet")
    assert predict([run, other], tmp_path / "new.parquet", tmp_path / "scores.parquet").rows == 1


def test_from_the_command_line(run, raw, tmp_path):
    rows = pl.read_csv(raw / "test.csv").with_columns(pl.format("[u]{}", "user").alias("user"))
    rows.write_csv(tmp_path / "new.csv")
    process = run_script(
        "predict.py", f"run={run}", f"input={tmp_path}/new.csv", f"output={tmp_path}/scores.csv", "heads=true"
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "100 rows, mean probability" in process.stdout
    assert "warning: field 'user': all its values are out of vocabulary. The input has '[u]" in process.stdout
    assert pl.read_csv(tmp_path / "scores.csv").columns[-3:] == ["p", "p_simple", "p_complex"]
    ensemble = f"run={run},{with_other_weights(run, tmp_path / 'other')}"
    process = run_script("predict.py", ensemble, f"input={tmp_path}/new.csv", f"output={tmp_path}/scores.csv")
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"run_1: {run}\nrun_2: {tmp_path}/other\n" in process.stdout
    assert process.stdout.count("warning: field 'user'") == 1  # the runs have one vocabulary
    for arguments, message in (
        ([], "run= is missing"),
        ([f"run={run}", f"input={raw}/test.csv", f"output={tmp_path}/s.csv", "bad_rows=skp"], "did you mean 'skip'?"),
        ([f"run={run}", f"input={raw}/none.csv", f"output={tmp_path}/s.csv"], "the file does not exist"),
        ([f"run={run}", f"input={raw}/test.csv", f"output={tmp_path}/s.txt"], "name a .parquet or a .csv file"),
    ):
        refused = run_script("predict.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")


VERSIONS = sorted(path.name for path in (ROOT / "tests" / "checkpoints").iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_older_version_predicts_the_same(version, tmp_path):
    """A folder of tests/checkpoints has the name of the version that wrote it and scores.csv."""
    kept = ROOT / "tests" / "checkpoints" / version
    expected = pl.read_csv(kept / "scores.csv")
    expected.drop("p", "p_simple", "p_complex").write_csv(tmp_path / "new.csv")
    predict(kept, tmp_path / "new.csv", tmp_path / "scores.csv", heads=True)
    scores = pl.read_csv(tmp_path / "scores.csv")
    assert scores.columns == expected.columns
    for name in ("p", "p_simple", "p_complex"):
        np.testing.assert_allclose(scores[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_older_version_resumes(version, raw_dir, tmp_path):
    """The kept run trained one of two epochs on the files of `write_raw`; the second follows."""
    shutil.copytree(ROOT / "tests" / "checkpoints" / version, tmp_path / "run")
    options = [
        *("dataset=frappe", f"dataset.raw_dir={raw_dir}", f"dataset.prepared_dir={tmp_path}/prepared"),
        *("dataset.label=click", "dataset.fields=[user,item,{name: hour, transform: log_bucket}]"),
        *("dataset.rows=null", "backbone.complex.hidden_units=[6]", "embedding.dim=2", "optimizer.lr=0.02"),
        *("stream.batch_size=64", "trainer=cpu", "trainer.max_epochs=2", "logger=none"),
    ]
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    process = run_script("train.py", *options, f"ckpt={path}")
    assert process.returncode == 0, process.stdout + process.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 14  # 7 of the kept run
    assert last["optimizer_states"][0]["state"][0]["step"] == 14


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "0.0.7",
            rf"dfm.weight.*written by version 0.0.7, this is {__version__}: train again, or use that version"
            r" \(git checkout v0.0.7\)",
        ),
        (None, r"dfm.weight.*older than version 0.1.0"),
        (__version__, r"dfm.weight.*Use the config that it was trained with"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(run, tmp_path, version, message):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["tf4ctr"] = version
    checkpoint["state_dict"]["network.dfm.weights"] = checkpoint["state_dict"].pop("network.dfm.weight")
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / "old")


def test_a_config_of_another_version_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.yaml"
    path.write_text(path.read_text().replace("tf4ctr.models.ssem.SeparateRepresentation", "tf4ctr.models.ssem.Gone"))
    with pytest.raises(InputError, match=r"its network cannot be built \(.*Gone"):
        load_run(tmp_path / "old")


def test_keys_of_objects_are_read_from_ndjson_and_the_rows_are_kept(make_run, tmp_path):
    rows = pl.DataFrame(
        {"click": [0, 1], "user": [{"id": 7, "city": "x"}, {"id": 8, "city": "y"}], "price": [1.5, None]}
    )
    fields = ["user.id", {"name": "city", "column": "user.city"}, {"name": "price", "kind": "number"}]
    run = make_run(rows, fields, "ndjson")
    new = pl.concat([rows[1:], rows[:1], rows]).drop("click").with_columns(more=pl.Series([["a"], None, [], ["b"]]))
    (tmp_path / "new.ndjson").write_text(new.write_ndjson().replace("\n", "\n\n", 1))
    result = predict(run, tmp_path / "new.ndjson", tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores.drop("p").equals(new)
    assert scores["p"][0] == scores["p"][3] != scores["p"][1] == scores["p"][2]
    assert result.findings[0].out_of_vocabulary == {"user.id": 0, "city": 0}
    assert result.findings[0].missing == {"price": 0.5}
    with (tmp_path / "new.ndjson").open("a") as file:
        file.write('{"user": {"id": 7, "city": "x"}, "price": "cheap"}\n')
    with pytest.raises(InputError, match="line 6: column 'price' is 'cheap', expected a finite number"):
        predict(run, tmp_path / "new.ndjson", tmp_path / "scores.parquet")
    result = predict(run, tmp_path / "new.ndjson", tmp_path / "scores.parquet", bad_rows="skip")
    assert (result.rows, result.set_aside) == (4, 1)
    with pytest.raises(InputError, match="csv file cannot contain: name a .parquet"):
        predict(run, tmp_path / "new.ndjson", tmp_path / "scores.csv")
    (tmp_path / "new.ndjson").write_text('{"user": {"id": 7, "city": "x"}, "price": 1}\n{"user": \n')
    with pytest.raises(InputError, match="line 2: expected a JSON object"):
        predict(run, tmp_path / "new.ndjson", tmp_path / "scores.parquet")
