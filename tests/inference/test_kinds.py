"""Prediction, exports and HTTP agree on rows with fields of every kind."""

import json

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient

from inference.fixtures import KINDS, as_csv, kinds_rows
from tf4ctr.assembly import load_run
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.inference.evaluation import score
from tf4ctr.inference.exporting import Probability, export, load_safetensors, random_inputs
from tf4ctr.inference.prediction import predict
from tf4ctr.inference.request_rows import example_row
from tf4ctr.inference.serving import ServedModel, create_app

# what no training row has: unseen ids, numbers far outside, a row of gaps
ODD = pl.DataFrame(
    [
        {"user": 99, "price": 1e9, "item": "z", "age": -5, "liked": ["z", "a"], "ip": "new", "clicks": 77},
        {"user": None, "price": None, "item": None, "age": None, "liked": None, "ip": None, "clicks": None},
        {"user": 1, "price": -3.5, "item": "c", "age": 200, "liked": [], "ip": "9", "clicks": 0},
        {"user": 1, "price": 0.0, "item": "c", "age": 18, "liked": ["c", None, "c"], "ip": "10.0.1.1", "clicks": 1},
    ],
    schema=kinds_rows().drop("click", "w").schema,
)
NEW = pl.concat([kinds_rows(40, seed=1).drop("click", "w"), ODD])
TEXTS = as_csv(NEW).select(pl.all().cast(pl.String))
GAPS = 41  # the row of gaps
NUMBERS = ["price", "rank", "age", "clicks"]
JSON = {"content-type": "application/json"}  # of a body with NaN or infinity, which the client does not write
WRITERS = {
    ".csv": lambda rows, path: as_csv(rows).write_csv(path),
    ".parquet": pl.DataFrame.write_parquet,
    ".ndjson": pl.DataFrame.write_ndjson,
    ".arrow": pl.DataFrame.write_ipc,
}


def predicted(run, rows, path):
    """The rows that `predict` writes for rows in a file of some format, and its result."""
    WRITERS[path.suffix](rows, path)
    result = predict(run, path, path.with_suffix(".out.parquet"))
    return pl.read_parquet(path.with_suffix(".out.parquet")), result


@pytest.fixture(scope="module")
def exported(kinds_run, tmp_path_factory):
    return export(kinds_run("csv"), "onnx", tmp_path_factory.mktemp("kinds") / "onnx").folder


@pytest.fixture(scope="module")
def client(exported):
    with TestClient(create_app(ServedModel(exported))) as client:
        yield client


def test_prediction_onnx_and_http_agree(kinds_run, exported, client, tmp_path):
    scores, _ = predicted(kinds_run("csv"), NEW, tmp_path / "new.parquet")
    expected = scores["p"].to_numpy()
    assert np.isfinite(expected).all()
    assert len(np.unique(expected)) > 40

    manifest = json.loads((exported / "export.json").read_text())
    schema = Schema.from_dict(manifest["schema"])
    assert schema == load_run(kinds_run("csv"))[1]
    fields = [FieldSpec.from_config(field) for field in manifest["fields"]]
    assert fields == [FieldSpec.from_config(field) for field in KINDS]
    assert manifest["inputs"] == {"ids": schema.columns, "numbers": NUMBERS}
    encoder = RowEncoder(schema, fields, exported / "vocabulary")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for place in (slice(0, 44), slice(0, 1), slice(GAPS, GAPS + 1)):  # any batch, the last one with gaps only
        inputs = {"ids": encoder.ids(TEXTS[place]), "numbers": encoder.numbers(TEXTS[place])}
        (p_N,) = session.run(["p"], inputs)
        np.testing.assert_allclose(p_N, expected[place], atol=1e-6)
    assert np.isnan(inputs["numbers"]).all()

    for rows in (NEW, TEXTS):
        p = client.post("/predict", json={"rows": rows.to_dicts()}).json()["p"]
        np.testing.assert_allclose(p, expected, atol=1e-6)


@pytest.mark.parametrize("trained", ["csv", "parquet", "ndjson"])
def test_every_file_format_gives_the_probabilities_of_the_prepared_rows(kinds_run, tmp_path, trained):
    run = kinds_run(trained)
    network, schema, _ = load_run(run)
    expected = torch.sigmoid(score(network, schema, run.parent / "prepared", "test", 64).logits["fused"]).numpy()
    gaps = {name: kinds_rows()[name.replace("rank", "price")].null_count() / 200 for name in NUMBERS}
    for suffix in WRITERS:
        if suffix == ".csv" and trained != "csv":
            continue  # the other runs have lists
        scores, result = predicted(run, kinds_rows(), tmp_path / f"new{suffix}")
        np.testing.assert_allclose(scores["p"], expected, atol=1e-6)
        assert result.findings[0].missing == gaps
        assert result.findings[0].all_unknown == result.findings[0].all_missing == []
        if suffix != ".csv":
            assert scores.drop("p").equals(kinds_rows())


@pytest.mark.parametrize("form", ["torch_export", "safetensors"])
def test_other_exports_take_numbers_too(kinds_run, tmp_path, form):
    run = kinds_run("csv")
    network, schema, _ = load_run(run)
    assert export(run, form, tmp_path / form).difference <= 1e-6
    inputs = [torch.from_numpy(part) for part in random_inputs(schema, 37, 5).values()]
    with torch.inference_mode():
        expected = torch.sigmoid(network(*inputs).fused)
        if form == "torch_export":
            model = torch.export.load(tmp_path / form / "model.pt2").module()
        else:
            model = Probability(load_safetensors(tmp_path / form))
        torch.testing.assert_close(model(*inputs), expected)


def test_texts_that_mean_a_missing_value_are_missing(kinds_run, client, tmp_path):
    """The run has the null values NA and -1; the output keeps them as they are."""
    gap = dict.fromkeys(NEW.columns)
    rows = [gap, *({**gap, name: text} for name in NEW.columns for text in ("NA", "-1"))]
    texts = pl.DataFrame(rows, schema=dict.fromkeys(NEW.columns, pl.String)).with_row_index()
    texts.write_csv(tmp_path / "new.csv")
    predict(kinds_run("csv"), tmp_path / "new.csv", tmp_path / "scores.csv")
    scores = pl.read_csv(tmp_path / "scores.csv", infer_schema=False)
    assert scores.drop("p").equals(texts.cast(pl.String))
    assert scores["p"].n_unique() == 1
    typed = [{**gap, "price": -1}, {**gap, "clicks": -1.0}]
    p = client.post("/predict", json={"rows": [*rows, *typed]}).json()["p"]
    np.testing.assert_allclose(p, float(scores["p"][0]), atol=1e-6)
    columns = pl.DataFrame(typed, schema=NEW.schema, strict=False)
    _, result = predicted(kinds_run("csv"), columns, tmp_path / "typed.parquet")
    assert result.findings[0].missing == dict.fromkeys(NUMBERS, 1)


@pytest.mark.parametrize("value", ["cheap", "1,5", " 1", "inf", float("inf"), True])
def test_a_price_that_is_not_a_number_is_a_bad_row(kinds_run, tmp_path, value):
    row = {**NEW.row(0, named=True), "liked": "a"}
    rows = pl.DataFrame({name: [cell, cell] for name, cell in row.items()}).with_columns(
        price=pl.Series([value, value] if isinstance(value, bool) else [type(value)(3.5), value])
    )
    rows.write_parquet(tmp_path / "new.parquet")
    line = 1 if isinstance(value, bool) else 2
    with pytest.raises(InputError, match=rf"row {line}: column 'price' is '{str(value).lower()}'|'{value}'"):
        predict(kinds_run("csv"), tmp_path / "new.parquet", tmp_path / "scores.parquet")
    result = predict(kinds_run("csv"), tmp_path / "new.parquet", tmp_path / "scores.parquet", bad_rows="skip")
    assert (result.rows, result.set_aside) == (line - 1, 3 - line)
    reason = pl.read_csv(tmp_path / "scores.parquet.bad.csv")["reason"][0]
    assert "expected a finite number" in reason


def test_nan_in_a_float_column_is_missing(kinds_run, tmp_path):
    rows = NEW.with_columns(price=pl.lit(float("nan")))
    scores, result = predicted(kinds_run("csv"), rows, tmp_path / "nan.parquet")
    assert result.findings[0].missing["price"] == 1
    without = predicted(kinds_run("csv"), rows.with_columns(price=pl.lit(None, pl.Float64)), tmp_path / "gaps.parquet")[
        0
    ]
    assert scores["p"].equals(without["p"])
    assert [field for field, _, _ in result.findings[0].all_missing] == ["price", "rank"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("price", "cheap", "expected a finite number, its text or null, found 'cheap'"),
        ("price", " 1", "found ' 1'"),
        ("price", "1_0", "found '1_0'"),
        ("price", True, "found 'true'"),
        ("price", float("inf"), "found 'inf'"),
        ("price", "-1e999", "found '-1e999'"),
        pytest.param("price", 10**400, "found '1000", id="a large integer"),
        ("price", [1.5], "expected a number, its text or null, found a list"),
        ("price", {"eur": 1}, "found an object"),
        ("age", [30], "found a list"),
        ("clicks", "many", "expected a finite number, its text or null, found 'many'"),
    ],
)
def test_a_value_that_is_not_a_number_is_422_with_the_fields_name(client, field, value, message):
    row = {**dict.fromkeys(NEW.columns), "user": float("nan"), field: value}
    answer = client.post("/predict", content=json.dumps({"rows": [row]}), headers=JSON)
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", "rows", 0, field]
    assert message in fault["msg"]


def test_values_that_are_the_same_number(client):
    """Also those that `invalid: missing` takes as missing."""
    row = NEW.row(0, named=True)
    for name, values in {
        "price": [3, 3.0, "3", "3.0", "+3", "3e0", "0.3E1", "3."],
        "clicks": [2, 2.0, "2", "2.0"],
        "age": [None, float("nan"), "NaN", "old", "inf", float("inf"), True, ""],
    }.items():
        content = json.dumps({"rows": [{**row, name: value} for value in values]})
        p = client.post("/predict", content=content, headers=JSON).json()["p"]
        assert len(set(p)) == 1, (name, p)


def test_a_column_without_a_number_is_reported(kinds_run, tmp_path):
    """Of `invalid: missing` with examples of its texts."""
    rows = NEW.with_columns(age=pl.lit("old"), clicks=pl.lit(None, pl.Int64))
    _, result = predicted(kinds_run("csv"), rows, tmp_path / "new.parquet")
    assert [(field, values) for field, _, values in result.findings[0].all_missing] == [
        ("age", ["old"]),
        ("clicks", []),
    ]
    assert result.findings[0].missing["age"] == result.findings[0].missing["clicks"] == 1


def test_shared_and_hashed_fields_in_the_warning_of_unknown_values(kinds_run, tmp_path):
    """A list shares item's vocabulary, and every text is known to a hashed field."""
    rows = NEW.with_columns(liked=pl.lit(["y", "z"]), ip=pl.lit("never seen"))
    _, result = predicted(kinds_run("csv"), rows, tmp_path / "new.parquet")
    assert [tuple(unknown) for unknown in result.findings[0].all_unknown] == [
        (name, ["y", "z"], ["b", "c"]) for name in ("liked", "seen")
    ]
    assert result.findings[0].out_of_vocabulary["ip"] == 0


def test_the_example_row_can_be_sent_and_is_in_the_docs(exported, client):
    row = example_row(ServedModel(exported).encoder)
    assert row["price"] == pytest.approx(kinds_rows()["price"].median(), abs=0.5)
    assert row["age"] == pytest.approx(kinds_rows()["age"].clip(18, 90).median(), abs=1)
    assert (row["liked"], row["ip"], row["clicks"]) == (["b"], "1", "0")
    assert client.post("/predict", json={"rows": [row]}).status_code == 200
    properties = client.get("/openapi.json").json()["components"]["schemas"]["Row"]["properties"]
    assert properties["price"]["examples"] == [row["price"]]
    assert {option["type"] for option in properties["price"]["anyOf"]} == {"integer", "number", "string", "null"}


def test_missing_numbers_are_counted(exported):
    with TestClient(create_app(ServedModel(exported))) as client:
        client.post("/predict", json={"rows": [{**NEW.row(0, named=True), "price": None}] * 3})
        metrics = client.get("/metrics").text
    assert 'tf4ctr_missing_total{column="price"} 3.0' in metrics
    assert 'tf4ctr_missing_total{column="rank"} 3.0' in metrics


def test_vectors_of_rows_agree_too(make_run, tmp_path):
    random = np.random.default_rng(0)
    image = random.normal(size=(50, 3)).round(3).tolist()
    rows = pl.DataFrame({"click": [0, 1] * 25, "user": [i % 9 for i in range(50)], "image": [None, *image[1:]]})
    run = make_run(rows, ["user", {"name": "image", "kind": "vector", "width": 3}], "parquet")
    scores, result = predicted(run, rows, tmp_path / "new.parquet")
    assert result.findings[0].missing == {"image": 1 / 50}
    model = ServedModel(export(run, "onnx", tmp_path / "onnx").folder)
    assert example_row(model.encoder) == {"user": "0", "image": [0.0, 0.0, 0.0]}
    with TestClient(create_app(model)) as client:
        p = client.post("/predict", json={"rows": rows.drop("click").to_dicts()}).json()["p"]
        np.testing.assert_allclose(p, scores["p"], atol=1e-6)
        for value, message in (
            ([1, 2], "expected a list of 3 numbers or null, found [1, 2]"),
            ([1, "x", 2], "expected a finite number, its text or null, found 'x'"),
            ([1, None, 2], "found a missing one in it"),
            (5, "expected a list of 3 numbers or null, found 5"),
        ):
            (fault,) = client.post("/predict", json={"rows": [{"user": 1, "image": value}]}).json()["detail"]
            assert fault["loc"] == ["body", "rows", 0, "image"]
            assert message in fault["msg"]
