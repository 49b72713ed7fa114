import asyncio
import json
import shutil

import polars as pl
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from conftest import run_script
from tf4ctr.errors import InputError
from tf4ctr.inference.exporting import export
from tf4ctr.inference.prediction import predict
from tf4ctr.inference.serving import MAX_ROWS, Batcher, ServedModel, create_app, example_row


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(run, "onnx", tmp_path_factory.mktemp("served") / "onnx").folder


@pytest.fixture
def client(exported):
    with TestClient(create_app(ServedModel(exported))) as client:
        yield client


def test_raw_rows_get_the_probabilities_that_predict_gives(run, client, tmp_path):
    predict(run, run.parent / "raw" / "test.csv", tmp_path / "scores.parquet")
    expected = pl.read_parquet(tmp_path / "scores.parquet")["p"].to_list()
    rows = pl.read_csv(run.parent / "raw" / "test.csv").drop("click").to_dicts()
    assert client.post("/predict", json={"rows": rows}).json()["p"] == pytest.approx(expected, abs=1e-6)
    as_text = [{key: str(value) for key, value in row.items()} for row in rows[:3]]
    assert client.post("/predict", json={"rows": as_text}).json()["p"] == pytest.approx(expected[:3], abs=1e-6)


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"user": 1, "item": 2}, "hour", "Field required"),
        ({"user": 1, "item": 2, "hour": "noon"}, "hour", "'noon' is not a number"),
        ({"user": 1, "itme": 2, "item": 2, "hour": 3}, "itme", "Extra inputs are not permitted"),
        ({"user": [1], "item": 2, "hour": 3}, "user", "valid"),
        ({"user": True, "item": 2, "hour": 3}, "user", "valid"),
    ],
)
def test_a_bad_row_is_422_with_its_number_and_the_fields_name(client, row, field, message):
    answer = client.post("/predict", json={"rows": [{"user": 1, "item": 2, "hour": 3}, row]})
    assert answer.status_code == 422
    fault = answer.json()["detail"][0]
    assert fault["loc"][:4] == ["body", "rows", 1, field]
    assert message in fault["msg"]


def test_the_example_can_be_sent(exported, client):
    model = ServedModel(exported)
    row = example_row(model.encoder)
    assert list(row) == ["user", "item", "hour"]
    assert client.post("/predict", json={"rows": [row]}).status_code == 200
    ids = model.encoder.ids(pl.DataFrame([row]))
    assert (ids[:, :2] != model.encoder.unknown_W[:2]).all()


@pytest.mark.parametrize("rows", [[], [{"user": 1, "item": 2, "hour": 3}] * (MAX_ROWS + 1)])
def test_no_rows_and_too_many_are_refused(client, rows):
    assert client.post("/predict", json={"rows": rows}).status_code == 422


def test_health_metrics_and_docs(exported, client):
    assert client.get("/health").json()["run"] == json.loads((exported / "export.json").read_text())["run"]
    client.post("/predict", json={"rows": [{"user": None, "item": "nothing like it", "hour": 3}] * 2})
    found = client.get("/metrics").text
    assert "tf4ctr_rows_total 2.0" in found
    assert 'tf4ctr_out_of_vocabulary_total{column="item"} 2.0' in found
    assert 'handler="/predict"' in found
    assert "user" in json.dumps(client.get("/openapi.json").json()["components"]["schemas"]["Row"]["properties"])


def test_requests_that_come_in_meanwhile_are_scored_together_and_apart(exported):
    async def scored():
        registry = CollectorRegistry()
        batcher = Batcher(ServedModel(exported), registry)
        rows = [[[str(number), "2", "3"]] * (number + 1) for number in range(6)]
        requests = [asyncio.create_task(batcher.score(each)) for each in rows]
        await asyncio.sleep(0)  # all of them wait
        worker = asyncio.create_task(batcher.work())
        found = await asyncio.gather(*requests)
        alone = [await batcher.score(each) for each in rows]
        worker.cancel()
        return found, alone, registry

    found, alone, registry = asyncio.run(scored())
    assert [len(each) for each in found] == [1, 2, 3, 4, 5, 6]
    for first, second in zip(found, alone, strict=True):
        assert first == pytest.approx(second, abs=1e-6)
    assert registry.get_sample_value("tf4ctr_batch_rows_count") == 1 + 6


def test_a_failing_model_fails_its_requests_and_not_the_app(exported):
    async def failing():
        model = ServedModel(exported)
        batcher = Batcher(model, CollectorRegistry())
        worker = asyncio.create_task(batcher.work())
        with pytest.raises(Exception, match="columns"):
            await batcher.score([["too", "few"]])
        answer = await batcher.score([["1", "2", "3"]])
        worker.cancel()
        return answer

    assert len(asyncio.run(failing())) == 1


def test_what_is_no_onnx_export_is_told(run, exported, tmp_path):
    with pytest.raises(InputError, match=r"there is no export.json; make one with python src/export.py"):
        ServedModel(tmp_path)
    other = export(run, "safetensors", tmp_path / "weights").folder
    with pytest.raises(InputError, match=r"is safetensors, and onnx is what can be served"):
        ServedModel(other)
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "vocabulary" / "user.parquet").unlink()
    with pytest.raises(InputError, match=r"user.parquet is missing"):
        ServedModel(broken)
    for arguments, message in (([], "export= is missing"), ([f"export={tmp_path}"], "there is no export.json")):
        refused = run_script("serve.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")
