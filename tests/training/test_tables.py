import io
import math
import re

import pytest
from rich.console import Console

from conftest import draw_ids
from tf4ctr.training import tables
from tf4ctr.training.memory import table_memory
from training.test_module import make_module


def text(table):
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return stream.getvalue()


METRICS = {
    **{
        f"{stage}/{head}{name}": 0.5
        for stage in ("val", "test")
        for head in ("", "simple/", "complex/")
        for name in ("auc", "logloss")
    },
    "val/gauc": 0.7654321,
    "test/gauc": 0.6,
    "best_epoch": 3,
    "epochs": 5,
}


def test_parts_add_up_to_the_total(schema):
    network = make_module(schema).network
    shown = text(tables.parts_table(network, table_memory(network)))
    assert f"{sum(p.numel() for p in network.parameters()):,}" in shown
    assert network(draw_ids(schema, 4)).fused.shape == (4,)
    assert all(name in shown for name in ("ssem", "simple", "complex", "dfm", "SeparateRepresentation"))
    shares = [float(share) for share in re.findall(r"([\d.]+)%", shown)]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert re.search(r"simple .*FM .* 2 │", shown)  # half the embedding size
    assert re.search(r"complex .*MLP .* 4 │", shown)
    assert "Memory of the tables, per device: weight" in shown


def test_a_metric_that_is_nan_is_undefined():
    shown = text(tables.metrics_table({**METRICS, "val/auc": math.nan, "test/gauc": math.nan}))
    assert shown.count("undefined") == 2
    assert "nan" not in shown


def test_metrics_of_every_head_and_the_best_possible():
    shown = text(tables.metrics_table(METRICS))
    assert "Best epoch 3 of 5" in shown
    assert "0.765432" in shown
    assert "best possible" not in shown
    calibrated = text(tables.metrics_table({**METRICS, "test/uncalibrated_logloss": 0.765111}))
    assert re.search(r"test +│ uncalibrated +│ +│ 0.765111 │", calibrated)
    assert "0.812345" in text(tables.metrics_table({**METRICS, "test/best_auc": 0.812345}))


def test_settings_show_the_chosen_option_and_its_values():
    shown = text(
        tables.settings_table(
            {"loss": "tf"}, {"seed": 7, "ckpt": None, "loss": {"_target_": "x", "alpha": 0.25, "deep": {"c": 1}}}
        )
    )
    assert "alpha=0.25" in shown
    assert "deep.c=1" in shown
    assert "_target_" not in shown
    assert "ckpt" not in shown


def test_settings_that_were_set_are_shown_with_their_origin():
    shown = text(tables.origins_table([("optimizer.lr", "1e-4", "command line"), ("dataset.fields", "[a]", "dataset")]))
    assert [part.strip() for part in re.search(r"│(.*lr.*)│", shown)[1].split("│")] == [
        "optimizer.lr",
        "1e-4",
        "command line",
    ]
    assert "[a]" in shown  # no markup
    assert "verbose=true shows them" in shown


def test_the_line_of_data_has_rows_click_rate_fields_and_table_rows(schema):
    rows = {"train": 400_000, "valid": 5, "test": 6}
    manifest = {"splits": {split: {"rows": count, "click_rate": 0.25} for split, count in rows.items()}}
    expected = "data: rows 400,000 train, 5 valid, 6 test; click rate 0.2500; 3 fields; 16 table rows"
    assert tables.data_line(manifest, schema) == expected


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({"test/auc": 0.75}, None),
        ({"test/auc": math.nan, "test/best_auc": 0.8}, None),
        ({"test/auc": 0.75, "test/best_auc": 0.8}, "test AUC 0.750000, 0.050000 from the best possible 0.800000"),
    ],
)
def test_the_distance_to_the_best_possible_auc_is_shown_where_it_is_known(metrics, line):
    assert tables.distance_line(metrics) == line
