import json
import shutil

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT, run_script
from tf4ctr.assembly import build, build_network, load_run
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import NUMBERS, Field, Scaling, Schema
from tf4ctr.errors import InputError
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.inference import exporting
from tf4ctr.inference.exporting import Probability, export, load_safetensors, random_ids, random_inputs
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


def test_an_export_is_calibrated_as_the_run_is(run, tmp_path):
    calibrated = tmp_path / "calibrated"
    shutil.copytree(run, calibrated)
    config, path = OmegaConf.load(run / "config.yaml"), calibrated / "checkpoints" / "best.ckpt"
    OmegaConf.save(OmegaConf.merge(config, {"calibrate": True}), calibrated / "config.yaml")
    checkpoint = torch.load(path, weights_only=True)
    fitted = {"scale": torch.tensor(0.5), "shift": torch.tensor(-1.0)}
    checkpoint["state_dict"] |= {f"network.calibration.{name}": value for name, value in fitted.items()}
    torch.save(checkpoint, path)
    network, schema, _ = load_run(calibrated)
    ids = torch.from_numpy(random_ids(schema, 37, 5))
    with torch.inference_mode():
        expected = torch.sigmoid(load_run(run)[0](ids).fused / 2 - 1)
        torch.testing.assert_close(torch.sigmoid(network(ids).fused), expected)
    for form in ("onnx", "torch_export", "safetensors"):
        assert export(calibrated, form, tmp_path / form).difference <= 1e-5
    p_N = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx").run(["p"], {"ids": ids.numpy()})[0]
    np.testing.assert_allclose(p_N, expected, atol=1e-5)


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


def number(name, scale="standard"):
    quantiles = tuple(float(value) for value in np.random.default_rng(len(name)).normal(size=257).round(1))
    return Field(name, 0, kind=NUMBERS, scaling=Scaling(scale, 0.0, 1.0, tuple(sorted(quantiles))))


KINDS = Schema(
    "toy",
    (
        Field("user", 7),
        number("price"),
        Field("tags", 9, 3),
        Field("liked", 9, 2, of="tags", pooling="mean"),
        number("age", "quantile"),
        Field("seen", 9, 2, of="tags", pooling="max"),
        Field("ip", 4, hashed=True),
    ),
    "click",
    "user",
)


def test_random_ids_have_all_values_of_each_field_and_no_padding():
    schema = Schema("toy", (Field("user", 4), number("price"), Field("tags", 5, 2), Field("liked", 5, of="tags")), "y")
    ids = random_ids(schema, 1000, 0)
    assert ids.dtype == np.int32
    assert [set(column) for column in ids.T] == [{1, 2, 3}, *[{5, 6, 7, 8}] * 3]


def test_random_numbers_are_normal_with_gaps():
    numbers = random_inputs(KINDS, 10_000, 0)["numbers"]
    assert numbers.dtype == np.float32
    assert numbers.shape == (10_000, 2)
    np.testing.assert_allclose(np.isnan(numbers).mean(0), 0.1, atol=0.01)
    np.testing.assert_allclose(np.nanmean(numbers, 0), 0, atol=0.03)
    np.testing.assert_allclose(np.nanstd(numbers, 0), 1, atol=0.03)
    assert not (numbers[:, 0] == numbers[:, 1]).any()
    assert "numbers" not in random_inputs(Schema("toy", (Field("user", 4),), "y"), 10, 0)


class Stacked(torch.nn.Module):
    """The embeddings of some ways of numbers, one after the other, in place of a probability."""

    def __init__(self, ways):
        super().__init__()
        self.ways = torch.nn.ModuleList(ways)

    def forward(self, numbers_BN):
        return torch.cat([way(numbers_BN) for way in self.ways], 1)


def test_onnx_takes_gaps_infinity_and_any_batch_of_every_way_of_numbers(tmp_path):
    paths = sorted((ROOT / "conf" / "number").glob("*.yaml"))
    model = Stacked([build(OmegaConf.load(path))(KINDS.number_fields, 4) for path in paths]).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    numbers = random_inputs(KINDS, 500, 0)["numbers"]
    limits = [way.cut_NK.numpy() for way in model.ways if hasattr(way, "cut_NK")]
    numbers[:16] = limits[0][:, :16].T  # values that equal a limit between bins
    numbers[20:24, 0] = (np.inf, -np.inf, 1e30, 0)
    numbers[24] = np.nan
    session = exporting._to_onnx(model, {"numbers": torch.from_numpy(numbers[:64])}, tmp_path)
    with torch.inference_mode():
        expected = model(torch.from_numpy(numbers)).numpy()
    assert np.isfinite(expected).all()
    for place in (slice(0, 500), slice(24, 25)):
        np.testing.assert_allclose(session(numbers[place]), expected[place], rtol=1e-5, atol=1e-6)


BACKBONES = sorted(path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_can_be_exported_for_any_batch_size(backbone):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            network = build_network(compose("train", [f"backbone={backbone}"]), KINDS)
        except InputError:
            network = build_network(compose("train", [f"backbone={backbone}", "framework=plain"]), KINDS)
    model = Probability(network).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    inputs = {name: torch.from_numpy(part) for name, part in random_inputs(KINDS, 20, 0).items()}
    graph = exporting._graph(model, {name: part[:7] for name, part in inputs.items()}).module()
    with torch.inference_mode():
        for rows in (1, 20):
            some = [part[:rows] for part in inputs.values()]
            torch.testing.assert_close(graph(*some), model(*some))


def test_from_the_command_line(run, tmp_path):
    process = run_script("export.py", f"run={run}", "format=safetensors", f"output={tmp_path}/export")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "largest difference of p, 10,000 rows" in process.stdout
    for arguments, message in (
        ([], "run= is missing"),
        ([f"run={run}", "format=onx"], "did you mean 'onnx'?"),
        (["run=/no"], "there is no such folder"),
        ([f"run={run},/no"], "run= names 2 runs, and an export has the network of one: name one run"),
    ):
        refused = run_script("export.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.replace("\n", " ")
