"""Parameter counts of the published runs, and of BARS, must be equal exactly."""

import csv
import json

import pytest

from conftest import SHARED
from test_assembly import composed
from tf4ctr.assembly import build_network
from tf4ctr.data.schema import Field, Schema
from tf4ctr.training.tables import count_parameters

# vocabulary sizes of the published preparation (min_count 2, Criteo 10)
SIZES = {
    "frappe": [942, 4084, 9, 9, 4, 5, 4, 11, 82, 233],
    "movielens_1m": [6042, 4, 9, 23, 3548],
    "kkbox": [29506, 172297, 10, 22, 14, 23, 4, 7, 12, 483, 25369, 97, 9],
    "criteo_x4": [
        *(44, 99, 122, 41, 220, 112, 80, 69, 92, 6, 27, 37, 72),
        *(1446, 554, 157339, 117822, 306, 18, 11882, 630, 5, 39530, 5131, 156656, 3176, 28, 11043),
        *(148913, 12, 4560, 2003, 5, 154564, 18, 17, 53031, 82, 40955),
    ],
}
# name of the weighted sum of two logits in older rows of the table
DFM = {"wsf_logits": "wsf"}
# Older code, with another gate, trained some gm runs. F D is 160 on frappe and 80 on movielens_1m.
# frappe: a second gate like the first (layers 160 * 40 + 40 and 40 + 1, batch norm 2 * 40)
SECOND_GATE = 160 * 40 + 40 + 80 + 41
# movielens_1m: two linear layers from F D to F D instead of a gate (80 * 20 + 20 + 2 * 20 + 20 + 1)
TWO_VECTOR_GATES = 2 * (80 * 80 + 80) - (80 * 20 + 20 + 40 + 21)
OTHER_GATE = {
    "TF4CTRv2_Frappe_004_d44672f7.log": SECOND_GATE,
    "TF4CTRv2_ML-1M_032_0aff4011.log": TWO_VECTOR_GATES,
    "TF4CTRv2_ML-1M_046_3ee5c795.log": TWO_VECTOR_GATES,
    "TF4CTRv2_ML-1M_061_699f1f75.log": TWO_VECTOR_GATES,
    "TF4CTRv2_ML-1M_076_24bf68df.log": TWO_VECTOR_GATES,
    "TF4CTRv2_ML-1M_080_6c918493.log": TWO_VECTOR_GATES,
}


def parameters(dataset, backbone, ssem, dfm, simple_units, complex_units):
    config = composed(f"backbone={backbone}").copy()
    config.ssem, config.dfm = composed(f"ssem={ssem}").ssem, composed(f"dfm={dfm}").dfm
    config.backbone.complex.hidden_units = complex_units
    if backbone == "dual_mlp":
        config.backbone.simple.hidden_units = simple_units
    schema = Schema(dataset, tuple(Field(f"f{i}", size) for i, size in enumerate(SIZES[dataset])), "label")
    return count_parameters(build_network(config, schema))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (("frappe", "dual_mlp", "ser", "wsf", [400, 400], [400, 400, 400]), 711_996),
        (("frappe", "dual_mlp", "shared", "sum", [400, 400], [400, 400, 400]), 700_930),
        (("frappe", "deepfm", "ser", "wsf", [400, 400], [400, 400, 400]), 522_581),
        (("movielens_1m", "dual_mlp", "ser", "wsf", [400], [400, 400, 400]), 604_628),
        (("criteo_x4", "dual_mlp", "ser", "wsf", [400, 400], [400, 400, 400]), 22_719_132),
    ],
)
def test_parameters_equal_the_published_ones(run, expected):
    assert parameters(*run) == expected


def test_every_published_run():
    table = SHARED / "reference" / "tf4ctr_runs.csv"
    if not table.exists():
        pytest.skip(f"needs the published runs in {table}")
    counted: dict[tuple[str, ...], int] = {}
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        dfm = DFM.get(row["dfm"], row["dfm"])
        run = (row["dataset"], row["backbone"], row["ssem"], dfm, row["simple_units"], row["complex_units"])
        if run not in counted:
            counted[run] = parameters(*run[:4], json.loads(run[4]), json.loads(run[5]))
        assert counted[run] + OTHER_GATE.get(row["log"], 0) == int(row["parameters"]), row["log"]
    assert len(rows) == 62


# BARS' models on movielens_tag: 90,239 ids in 3 fields, embeddings of size 10 (frappe's are in
# test_bars.py). The overrides are the model's settings there. AOANet has one bias more here: its
# two parts have a logit each.
@pytest.mark.parametrize(
    ("backbone", "overrides", "expected"),
    [
        ("hofm", ["simple.shared=true"], 992_630),
        ("destine", ["simple.num_layers=3", "simple.units=64", "simple.num_heads=1"], 1_274_821),
        ("aoanet", ["simple.num_layers=3", "simple.subspaces=2"], 1_239_113 + 1),
    ],
)
def test_parameters_equal_those_of_bars(backbone, overrides, expected):
    schema = Schema("movielens_tag", tuple(Field(f"f{i}", size) for i, size in enumerate([90_219, 10, 10])), "label")
    options = [f"backbone.{override}" for override in overrides]
    config = composed(f"backbone={backbone}", "framework=plain", "embedding.dim=10", *options)
    assert count_parameters(build_network(config, schema)) == expected
