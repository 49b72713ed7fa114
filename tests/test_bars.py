"""experiment=bars/frappe_x1/MODEL: parameters and settings are those of BARS."""

import csv
import re

import polars as pl
import pytest

from conftest import ROOT, SHARED
from test_assembly import composed, spec_of
from tf4ctr.assembly import build_module, build_network, encoders
from tf4ctr.data.schema import Field, Schema
from tf4ctr.training.tables import count_parameters

FOLDER = ROOT / "conf" / "experiment" / "bars" / "frappe_x1"
# vocabulary sizes with min_count 1: the values of train.csv, padding, and one for unknown values
SIZES = {"user": 956, "item": 4084, "daytime": 9, "weekday": 9, "isweekend": 4, "homework": 5, "cost": 4}
SIZES |= {"weather": 11, "country": 82, "city": 235}
FUXICTR_2 = ("finalmlp", "finalnet_1b", "finalnet_2b")  # its tables have these sizes; FuxiCTR 1.1 has one row less

# file: (the model's name in BARS, its parameters there, how many more we have); the files say why
MODELS = {
    "afm": ("AFM", 60_826, 0),
    "afn": ("AFN", 4_066_711, 1000),
    "afn_plus": ("AFN+", 4_482_205, 1000 - 53_890 - 3),
    "aoanet": ("AOANet", 418_331, 1),
    "autoint": ("AutoInt", 306_051, 5 * 128 * 128),
    "autoint_plus": ("AutoInt+", 622_180, 4 * 128 * 128),
    "cin": ("CIN", 147_984, 2),
    "crossnet": ("CrossNet", 55_191, 0),
    "crossnetv2": ("CrossNetv2", 94_391, 0),
    "dcn": ("DCN", 418_591, 1),
    "dcnv2": ("DCNv2", 458_391, 1),
    "deepfm": ("DeepFM", 423_280, 1),
    "deepim": ("DeepIM", 417_922, 0),
    "destine": ("DESTINE", 623_346, 0),
    "dlrm": ("DLRM", 417_891, 0),
    "dnn": ("DNN", 781_892, 417_891 - 781_892),
    "edcn": ("EDCN", 86_351, 600 - 1200),
    "ffm": ("FFM", 490_400, 0),
    "fibinet": ("FiBiNET", 743_480, 100 + 1),
    "fignn": ("FiGNN", 89_090, 0),
    "finalmlp": ("FinalMLP", 253_392, -(956 + 4084) * 10),
    "finalnet_1b": ("FinalNet_1B", 256_791, 101 * 400 + 401 * 400),
    "finalnet_2b": ("FinalNet_2B", 338_502, 400 + 401 * 400 + 101 * 400),
    "fm": ("FM", 59_280, 0),
    "fmfm": ("FmFM", 59_730, 0),
    "fwfm": ("FwFM", 107_826, 5389 - 53_890),
    "hofm": ("HOFM", 113_170, 0),
    "ipnn": ("IPNN", 433_491, 0),
    "lr": ("LR", 5_390, 0),
    "masknet": ("MaskNet", 571_691, 0),
    "nfm": ("NFM", 384_880, 1),
    "sam": ("SAM", 58_791, 0),
    "wide_deep": ("WideDeep", 423_280, 1),
    "xdeepfm": ("xDeepFM", 429_809, 2),
}

REGULARIZERS = {"lr": 1e-5, "fm": 5e-6, "fwfm": 5e-6, "fmfm": 1e-5, "ffm": 1e-6, "hofm": 1e-6}  # of BARS' logs
WITHOUT_COUNTERPART = {"DSSM", "HFM+"}


def of(model):
    return composed(f"experiment=bars/frappe_x1/{model}")


def bars():
    """Rows of the table of BARS' results by model; each has a dictionary of its settings."""
    path = SHARED / "reference" / "bars_frappe_x1.csv"
    if not path.exists():
        pytest.skip(f"needs BARS' results in {path}")
    with path.open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        row["settings"] = dict(setting.split("=", 1) for setting in row["settings"].split("; "))
    return rows


@pytest.mark.parametrize("model", MODELS)
def test_parameters_and_settings_are_those_of_bars(model):
    name, parameters, more = MODELS[model]
    config = of(model)
    rows = {field: size - (model not in FUXICTR_2) for field, size in SIZES.items()}
    schema = Schema("frappe", tuple(Field(field, size) for field, size in rows.items()), "label")
    assert count_parameters(build_network(config, schema)) == parameters + more

    theirs = bars()[name]["settings"]
    assert (config.stream.batch_size, config.optimizer.lr) == (4096, 1e-3)
    assert (theirs["batch_size"], theirs["learning_rate"]) == ("4096", "0.001")
    assert config.embedding.dim == int(theirs.get("embedding_dim", 10))
    assert config.embedding.l2 == (REGULARIZERS.get(model) or float(theirs["embedding_regularizer"]))
    nodes = [*encoders(config).values()]
    assert {node.embedding_l2 for node in nodes} == {config.embedding.l2}
    units = {str(list(node.hidden_units)) for node in nodes if "hidden_units" in node}
    assert units <= {value for key, value in theirs.items() if key.endswith(("hidden_units", "mlp_units"))}
    dropouts = " ".join(value for key, value in theirs.items() if key.endswith("dropout"))
    assert {node.dropout for node in nodes if "dropout" in node} <= set(map(float, re.findall(r"[\d.]+", dropouts)))


def test_every_model_has_a_file_with_its_results():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*MODELS, "common"}
    rows = bars()
    assert {name for name, *_ in MODELS.values()} == rows.keys() - WITHOUT_COUNTERPART
    for model, (name, parameters, _) in MODELS.items():
        row, text = rows[name], (FOLDER / f"{model}.yaml").read_text()
        auc, logloss, count = re.search(r"test AUC ([\d.]+), logloss ([\d.]+), ([\d,]+) parameters", text).groups()
        assert (auc, logloss) == (row["auc_mean"], row["logloss_mean"])
        assert int(count.replace(",", "")) == parameters == int(row["parameters"])
        assert (f"mean of {row['runs']} runs" in text) == (row["runs"] != "1")


def test_the_best_epoch_is_that_of_the_auc_alone(schema):
    config = of("deepfm")
    callbacks = config.callbacks
    deciding = ("lr_plateau", "early_stopping", "checkpoint_best")
    assert {callbacks[name].monitor for name in deciding} == {"val/monitor"}
    assert config.monitor == "auc"
    assert callbacks.early_stopping.patience == 2
    assert (callbacks.lr_plateau.patience, callbacks.lr_plateau.factor) == (0, 0.1)
    assert spec_of(config).min_count == 1
    build_module(config, schema)


def test_sizes_are_those_of_the_training_rows():
    path = SHARED / "data" / "frappe" / "train.csv"
    if not path.exists():
        pytest.skip(f"needs frappe in {path.parent}")
    counts = pl.read_csv(path).select(pl.col(*SIZES).n_unique() + 2)
    assert counts.row(0, named=True) == SIZES
