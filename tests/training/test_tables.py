import io
import math

from rich.console import Console

from conftest import draw_ids
from tf4ctr.training import tables
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
    shown = text(tables.parts_table(network))
    assert f"{sum(p.numel() for p in network.parameters()):,}" in shown
    assert network(draw_ids(schema, 4)).fused.shape == (4,)
    assert all(name in shown for name in ("ssem", "simple", "complex", "dfm", "SeparateRepresentation"))


def test_a_metric_that_is_nan_is_undefined():
    shown = text(tables.metrics_table({**METRICS, "val/auc": math.nan, "test/gauc": math.nan}))
    assert shown.count("undefined") == 2
    assert "nan" not in shown


def test_metrics_of_every_head_and_the_best_possible():
    shown = text(tables.metrics_table(METRICS))
    assert "Best epoch 3 of 5" in shown
    assert "0.765432" in shown
    assert "best possible" not in shown
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
