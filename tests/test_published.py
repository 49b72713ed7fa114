"""Parameter counts of the published runs, to the digit."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT, SHARED
from tf4ctr.assembly import build_network
from tf4ctr.data.schema import Field, Schema
from tf4ctr.reporting import count_parameters
from tf4ctr.runs import register_resolvers

# vocabulary sizes of the published preparation (min_count 2, Criteo 10)
SIZES = {
    "frappe": [942, 4084, 9, 9, 4, 5, 4, 11, 82, 233],
    "movielens_1m": [6042, 4, 9, 23, 3548],
    "criteo_x4": [
        *(44, 99, 122, 41, 220, 112, 80, 69, 92, 6, 27, 37, 72),
        *(1446, 554, 157339, 117822, 306, 18, 11882, 630, 5, 39530, 5131, 156656, 3176, 28, 11043),
        *(148913, 12, 4560, 2003, 5, 154564, 18, 17, 53031, 82, 40955),
    ],
}
# what the table calls the weighted sum of two logits in its older runs
DFM = {"wsf_logits": "wsf"}
DONE = {"backbone": {"dual_mlp", "deepfm"}, "ssem": {"shared", "ser"}, "dfm": {"sum", "wsf"}}


def parameters(dataset, backbone, ssem, dfm, simple_units, complex_units):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        units = [f"backbone.complex.hidden_units={complex_units}"]
        if backbone == "dual_mlp":
            units.append(f"backbone.simple.hidden_units={simple_units}")
        config = compose("train", [f"backbone={backbone}", f"ssem={ssem}", f"dfm={dfm}", *units])
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


def test_every_published_run_of_the_parts_that_exist():
    table = SHARED / "reference" / "tf4ctr_runs.csv"
    if not table.exists():
        pytest.skip(f"needs the published runs in {table}")
    seen = set()
    with table.open() as file:
        for row in csv.DictReader(file):
            row["dfm"] = DFM.get(row["dfm"], row["dfm"])
            if row["dataset"] not in SIZES or any(row[group] not in options for group, options in DONE.items()):
                continue
            run = (row["dataset"], row["backbone"], row["ssem"], row["dfm"], row["simple_units"], row["complex_units"])
            if run in seen:
                continue
            seen.add(run)
            found = parameters(*run[:4], json.loads(run[4]), json.loads(run[5]))
            assert found == int(row["parameters"]), f"{row['log']}: {found} parameters, published {row['parameters']}"
    assert len(seen) >= 10
