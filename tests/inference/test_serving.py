import asyncio
import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest
from fastapi.testclient import TestClient
from omegaconf import OmegaConf
from prometheus_client import CollectorRegistry

from conftest import ROOT, run_script
from tf4ctr.errors import InputError
from tf4ctr.inference.exporting import export
from tf4ctr.inference.prediction import predict
from tf4ctr.inference.request_errors import InvalidRows
from tf4ctr.inference.request_rows import example_row
from tf4ctr.inference.serving import (
    MAX_BODY_BYTES,
    MAX_ROWS,
    Batcher,
    ServedModel,
    create_app,
)


def name_of(requirement: str) -> str:
    """The package of a requirement, as it is imported."""
    return re.split("[<>=[]", requirement)[0].replace("-", "_")


def run_code(code: str, folder: Path) -> str:
    """What Python prints, in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder).stdout


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


def test_a_whole_float_is_the_integer(client):
    users = (1, 1.0, "1", "1.0")
    rows = [{"user": user, "item": 2, "hour": hour} for user in users for hour in (3, 3.0, "3", "3.0")]
    p = client.post("/predict", json={"rows": [*rows, {"user": 99, "item": 2, "hour": 3}]}).json()["p"]
    assert len(set(p[:-1])) == 1
    assert p[-1] != p[0]


def test_an_empty_text_is_a_missing_value(kinds_run, tmp_path):
    """As in the files of the training: also of a number, and of a hash, which knows each text."""
    model = ServedModel(export(kinds_run("csv"), "onnx", tmp_path / "onnx").folder)
    row = example_row(model.encoder)
    rows = [{**row, column: missing} for column in row for missing in (None, "")]
    with TestClient(create_app(model)) as client:
        p = client.post("/predict", json={"rows": [row, *rows]}).json()["p"]
    assert p[1::2] == p[2::2]
    assert len({p[0], *p[1::2]}) == 1 + len(row)


def test_a_list_field_takes_a_json_list(tags_run, tmp_path):
    lists = (["b", "a"], ["b", "a", "c"], ["b", None, "a"], [], None, ["unknown"])
    rows = [{"user": 1, "tags": tags} for tags in lists]
    pl.DataFrame(rows).write_parquet(tmp_path / "new.parquet")
    predict(tags_run("csv"), tmp_path / "new.parquet", tmp_path / "scores.parquet")
    expected = pl.read_parquet(tmp_path / "scores.parquet")["p"].to_list()
    model = ServedModel(export(tags_run("csv"), "onnx", tmp_path / "onnx").folder)
    with TestClient(create_app(model)) as client:
        p = client.post("/predict", json={"rows": [{"user": 1, "tags": "b|a"}, *rows, example_row(model.encoder)]})
        assert p.json()["p"][1:-1] == pytest.approx(expected, abs=1e-6)
        assert len(set(p.json()["p"][:4])) == 1  # the first two values count, as a list or as text
        assert p.json()["p"][4] != p.json()["p"][0]
        (fault,) = client.post("/predict", json={"rows": [{"user": 1, "tags": [["b"]]}]}).json()["detail"]
        assert fault["loc"] == ["body", "rows", 0, "tags"]
        assert "found a list" in fault["msg"]


def test_booleans_and_lists_of_numbers_are_the_texts_of_training(make_run, tmp_path):
    """The training data is parquet with lists: they have no separator."""
    rows = pl.DataFrame({"click": [0, 1], "member": [True, False], "tags": [[1, 2], [3, None]]})
    run = make_run(rows, ["member", {"name": "tags", "width": 2}], "parquet")
    lists = [{"member": True, "tags": tags} for tags in ([1, 2], [1.0, 2.0], ["1", "2"], [1, None, "2"], [2, 3])]
    values = [{"member": value, "tags": [1, 2]} for value in ("true", False, "false", "no")]
    model = ServedModel(export(run, "onnx", tmp_path / "onnx").folder)
    with TestClient(create_app(model)) as client:
        p = client.post("/predict", json={"rows": [*lists, *values, example_row(model.encoder)]}).json()["p"]
        assert p[0] == p[1] == p[2] == p[3] == p[5]
        assert p[6] == p[7]
        assert len({p[0], p[4], p[6], p[8]}) == 4
        (fault,) = client.post("/predict", json={"rows": [{"member": True, "tags": "1|2"}]}).json()["detail"]
        assert "expected a list, found '1|2'" in fault["msg"]


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"user": 1, "item": 2}, "hour", "Field required"),
        ({"user": 1, "item": 2, "hour": "noon"}, "hour", "'noon' is not a number"),
        ({"user": 1, "item": 2, "hour": True}, "hour", "'true' is not a number"),
        ({"user": 1, "itme": 2, "item": 2, "hour": 3}, "itme", "Extra inputs are not permitted"),
        ({"user": [1], "item": 2, "hour": 3}, "user", "expected text, a number, true, false or null, found a list"),
        ({"user": {"id": 1}, "item": 2, "hour": 3}, "user", "found an object"),
    ],
)
def test_an_invalid_row_is_422_with_its_number_and_the_fields_name(client, row, field, message):
    answer = client.post("/predict", json={"rows": [{"user": 1, "item": 2, "hour": 3}, row]})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", "rows", 1, field]
    assert message in fault["msg"]


def test_the_answer_to_many_invalid_rows_is_small(client):
    answer = client.post("/predict", json={"rows": [{}] * MAX_ROWS})
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    assert answer.json()["detail"][0] == {
        "type": "missing",
        "loc": ["body", "rows", 0, "user"],
        "msg": "Field required",
        "input": {},
    }
    assert len(answer.json()["detail"]) == 20
    assert answer.json()["more"] == 3 * MAX_ROWS - 20
    good = [{"user": 1, "item": 2, "hour": 3}]
    answer = client.post("/predict", json={"rows": good * 50 + [{"user": 1, "item": 2}] * 21}).json()
    assert [fault["loc"] for fault in answer["detail"]] == [["body", "rows", 50 + row, "hour"] for row in range(20)]
    assert answer["more"] == 1


@pytest.mark.parametrize(
    ("row", "start"),
    [({"user": "u" * 100_000}, '{"user": "uuu'), ({"item": 2, "hour": 3, "user": [1] * 100_000}, "[1, 1, 1")],
)
def test_a_long_value_of_an_invalid_row_is_cut(client, row, start):
    answer = client.post("/predict", json={"rows": [row] * 25})
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    fault = answer.json()["detail"][0]
    assert fault["input"].startswith(start)
    assert fault["input"].endswith("...")
    assert len(fault["input"]) == 1_003


def test_half_of_a_character_is_422_and_not_an_error_of_all_requests_in_the_batch(client):
    """JavaScript sends it after it has cut an emoji in two; no text in UTF-8 has it."""
    body = rb'{"rows": [{"user": "\ud83d", "item": 2, "hour": 3}]}'
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert r"found half of a character in '\ud83d'" in answer.json()["detail"][0]["msg"]
    whole = client.post("/predict", content=body.replace(b"d83d", b"d83d\\ude00"), headers=answer.request.headers)
    assert whole.status_code == 200


@pytest.fixture
def small(exported):
    """An app that takes bodies of up to 500 bytes."""
    with TestClient(create_app(ServedModel(exported), max_body_bytes=500)) as client:
        yield client


def body(size):
    """A valid body of `size` bytes."""
    text = json.dumps({"rows": [{"user": 1, "item": 2, "hour": 3}]})
    return text.encode() + b" " * (size - len(text))


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_above_the_limit_is_413(small, streamed):
    """A streamed body comes in pieces and has no content-length."""

    def post(content):
        pieces = (content[start : start + 100] for start in range(0, len(content), 100))
        return small.post("/predict", content=pieces if streamed else content, headers=JSON)

    assert post(body(500)).status_code == 200
    answer = post(body(501))
    assert answer.status_code == 413
    assert "more than 500 bytes" in answer.json()["detail"]
    assert "max_body_bytes" in answer.json()["detail"]
    assert small.get("/health").status_code == 200
    assert 'status="4xx"' in small.get("/metrics").text


def test_the_rest_of_a_large_body_is_not_read(small):
    read = []

    def pieces():
        for number in range(100):
            read.append(number)
            yield b" " * 100

    async def post():
        messages = ({"type": "http.request", "body": piece, "more_body": True} for piece in pieces())
        answers = []

        async def receive():
            return next(messages)

        async def send(message):
            answers.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "root_path": ""}
        await small.app(scope | {"headers": [(b"content-type", b"application/json")]}, receive, send)
        return answers[0]["status"]

    assert asyncio.run(post()) == 413
    assert read == [0, 1, 2, 3, 4, 5]


def test_the_default_limit_takes_a_full_request(client):
    rows = [{"user": "u" * 250, "item": "i" * 250, "hour": 3}] * MAX_ROWS
    assert client.post("/predict", json={"rows": rows}).status_code == 200
    assert client.post("/predict", content=body(MAX_BODY_BYTES + 1), headers=JSON).status_code == 413
    assert OmegaConf.load(ROOT / "conf" / "serve.yaml").max_body_bytes == MAX_BODY_BYTES


@pytest.mark.parametrize("limit", [0, "8MB", 1.5])
def test_an_invalid_limit_is_refused(exported, limit):
    with pytest.raises(InputError, match=r"max_body_bytes is .*expected a whole number from 1 on"):
        create_app(ServedModel(exported), limit)


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
    metrics = client.get("/metrics").text
    assert "tf4ctr_rows_total 2.0" in metrics
    assert 'tf4ctr_out_of_vocabulary_total{column="item"} 2.0' in metrics
    assert 'handler="/predict"' in metrics
    assert "user" in json.dumps(client.get("/openapi.json").json()["components"]["schemas"]["Row"]["properties"])


def test_requests_that_wait_are_scored_together_and_answered_one_by_one(exported):
    async def scored():
        registry = CollectorRegistry()
        batcher = Batcher(ServedModel(exported), registry)
        rows = [[[str(number), "2", "3"]] * (number + 1) for number in range(6)]
        requests = [asyncio.create_task(batcher.score(request)) for request in rows]
        await asyncio.sleep(0)  # all of them wait
        worker = asyncio.create_task(batcher.work())
        together = await asyncio.gather(*requests)
        alone = [await batcher.score(request) for request in rows]
        worker.cancel()
        return together, alone, registry

    together, alone, registry = asyncio.run(scored())
    assert [len(p_N) for p_N in together] == [1, 2, 3, 4, 5, 6]
    for first, second in zip(together, alone, strict=True):
        assert first == pytest.approx(second, abs=1e-6)
    assert registry.get_sample_value("tf4ctr_batch_rows_count") == 1 + 6


def test_an_error_of_the_model_fails_its_requests_and_not_the_app(exported):
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


def test_an_error_of_a_batch_fails_only_the_request_that_causes_it(exported):
    async def together():
        batcher = Batcher(ServedModel(exported), CollectorRegistry())
        rows = ([["1", "2", "3"]], [["too", "few"]], [["1", "2", "3"]] * 2)
        requests = [asyncio.create_task(batcher.score(cells)) for cells in rows]
        await asyncio.sleep(0)  # all of them wait
        worker = asyncio.create_task(batcher.work())
        answers = await asyncio.gather(*requests, return_exceptions=True)
        worker.cancel()
        return answers

    first, fault, last = asyncio.run(together())
    assert isinstance(fault, Exception)
    assert first[0] == pytest.approx(last[1], abs=1e-6)


def test_a_row_for_which_the_model_overflows_is_422_and_the_others_are_scored(make_run, tmp_path):
    rows = pl.DataFrame({"click": [0, 1, 1, 0], "user": [1, 2, 3, 1], "amount": [5.0, 7.0, 3.0, 2.0]})
    run = make_run(rows, ["user", {"name": "amount", "kind": "number"}], "parquet")
    model = ServedModel(export(run, "onnx", tmp_path / "onnx").folder)
    good, large = {"user": 1, "amount": 5.0}, {"user": 1, "amount": 1e38}
    with TestClient(create_app(model)) as client:
        assert client.post("/predict", json={"rows": [good, good]}).status_code == 200
        answer = client.post("/predict", json={"rows": [good, large, good] + [large] * 20})
    assert answer.status_code == 422
    assert answer.json()["detail"][0] == {
        "type": "no_probability",
        "loc": ["body", "rows", 1],
        "msg": "the model has no probability for these values",
    }
    assert answer.json()["more"] == 1

    async def together():
        batcher = Batcher(model, CollectorRegistry())
        requests = [asyncio.create_task(batcher.score(cells)) for cells in ([["1", 5.0]], [["1", 1e38]])]
        await asyncio.sleep(0)  # both wait
        worker = asyncio.create_task(batcher.work())
        answers = await asyncio.gather(*requests, return_exceptions=True)
        worker.cancel()
        return answers

    first, second = asyncio.run(together())
    assert 0 < first[0] < 1
    assert isinstance(second, InvalidRows)


def test_a_folder_that_is_not_an_onnx_export_is_refused(run, exported, tmp_path):
    with pytest.raises(InputError, match=r"it has no export.json; create one with python src/export.py"):
        ServedModel(tmp_path)
    other = export(run, "safetensors", tmp_path / "weights").folder
    with pytest.raises(InputError, match=r"has format safetensors, expected onnx"):
        ServedModel(other)
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "vocabulary" / "user.parquet").unlink()
    with pytest.raises(InputError, match=r"user.parquet is missing"):
        ServedModel(broken)
    limit = [f"export={exported}", "max_body_bytes=8MB"]
    for arguments, message in (
        (limit, "max_body_bytes is '8MB'"),
        ([], "export= is missing"),
        ([f"export={tmp_path}"], "it has no export.json"),
    ):
        refused = run_script("serve.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")


def test_a_port_in_use_is_refused_before_the_server_says_that_it_serves():
    listen = runpy.run_path(str(ROOT / "src" / "serve.py"))["listen"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"host=127.0.0.1 port={port}: cannot listen there .*in use.* port=8001"):
            listen("127.0.0.1", port)
    for host, port in (("nowhere.invalid", 8000), ("127.0.0.1", 70_000), ("127.0.0.1", "http")):
        with pytest.raises(InputError, match=f"host={host} port={port}: cannot listen there"):
            listen(host, port)
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_the_container_has_what_the_server_imports():
    (code,) = re.findall(r'python -c "(.*)" \\\n +> req', (ROOT / "docs" / "Dockerfile").read_text(), re.DOTALL)
    installed = {name_of(line) for line in run_code(code.replace("\\\n", ""), ROOT).splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name_of(line) for line in project["optional-dependencies"]["serve"]} < installed
    absent = {name_of(line) for line in project["dependencies"]} - installed
    assert {"torch", "lightning", "matplotlib"} < absent
    served = "import runpy, uvicorn, tf4ctr.inference.serving; runpy.run_path('serve.py')"
    run_code(f"import sys; sys.modules.update(dict.fromkeys({absent})); {served}", ROOT / "src")
