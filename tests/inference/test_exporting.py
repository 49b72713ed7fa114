import json

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir

from conftest import ROOT, run_script
from tf4ctr.assembly import build_network, load_run
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import FieldSpec
from tf4ctr.errors import InputError
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.inference import exporting
from tf4ctr.inference.exporting import Probability, export, load_safetensors, random_ids
from tf4ctr.inference.prediction import predict


def test_the_onnx_folder_alone_scores_raw_rows_as_predict_does(run, tmp_path):
    result = export(run, "onnx", tmp_path / "export")
    assert 0 <= result.difference <= 1e-5
    manifest = json.loads((tmp_path / "export" / "export.json").read_text())
    assert manifest["check"]["largest_difference"] == result.difference
    schema = Schema.from_dict(manifest["schema"])
    encoder = RowEncoder(
        schema, [FieldSpec.from_config(field) for field in manifest["fields"]], tmp_path / "export" / "vocabulary"
    )
    raw = pl.read_csv(run.parent / "raw" / "test.csv", infer_schema=False)
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    predict(run, run.parent / "raw" / "test.csv", tmp_path / "scores.parquet")
    expected = pl.read_parquet(tmp_path / "scores.parquet")["p"].to_numpy()
    for rows in (1, 100):  # any batch
        p_N = session.run(["p"], {"ids": encoder.ids(raw.head(rows))})[0]
        np.testing.assert_allclose(p_N, expected[:rows], atol=1e-5)


def test_torch_export_and_safetensors_give_the_runs_probabilities(run, tmp_path):
    network, schema, _ = load_run(run)
    ids = torch.from_numpy(random_ids(schema, 37, 5))
    with torch.inference_mode():
        expected = torch.sigmoid(network(ids).fused)
        for form in ("torch_export", "safetensors"):
            assert export(run, form, tmp_path / form).difference <= 1e-5
        torch.testing.assert_close(torch.export.load(tmp_path / "torch_export" / "model.pt2").module()(ids), expected)
        torch.testing.assert_close(Probability(load_safetensors(tmp_path / "safetensors"))(ids), expected)


def test_an_export_is_replaced_and_another_folder_is_not(run, tmp_path):
    for _ in range(2):
        export(run, "safetensors", tmp_path / "export")
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match=r"thesis exists and is not an export"):
        export(run, "safetensors", tmp_path / "thesis")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "thesis"]


def test_a_model_that_differs_from_the_run_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(
        exporting._WRITERS, "onnx", lambda model, example, folder: lambda ids: np.full(len(ids), 0.5, np.float32)
    )
    with pytest.raises(InputError, match=r"differs from the run by .* nothing is written"):
        export(run, "onnx", tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_random_ids_have_all_values_of_each_field_and_no_padding():
    schema = Schema("toy", (Field("user", 4), Field("tags", 5, 2)), "click")
    ids = random_ids(schema, 1000, 0)
    assert ids.dtype == np.int32
    assert [set(column) for column in ids.T] == [{1, 2, 3}, {5, 6, 7, 8}, {5, 6, 7, 8}]


BACKBONES = sorted(path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_can_be_exported_for_any_batch_size(backbone):
    register_resolvers()
    schema = Schema("toy", (Field("user", 7), Field("tags", 9, 3), Field("hour", 4)), "click", "user")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            network = build_network(compose("train", [f"backbone={backbone}"]), schema)
        except InputError:
            network = build_network(compose("train", [f"backbone={backbone}", "framework=plain"]), schema)
    model = Probability(network).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    ids = torch.from_numpy(random_ids(schema, 20, 0))
    graph = exporting._graph(model, ids[:7]).module()
    with torch.inference_mode():
        for rows in (1, 20):
            torch.testing.assert_close(graph(ids[:rows]), model(ids[:rows]))


def test_from_the_command_line(run, tmp_path):
    process = run_script("export.py", f"run={run}", "format=safetensors", f"output={tmp_path}/export")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "largest difference of p, 10,000 rows" in process.stdout
    for arguments, message in (
        ([], "run= is missing"),
        ([f"run={run}", "format=onx"], "did you mean 'onnx'?"),
        (["run=/no"], "no config.yaml"),
    ):
        refused = run_script("export.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")
