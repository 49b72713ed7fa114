import warnings

import polars as pl

from tf4ctr.training.curves import (
    TERMS,
    best_epoch,
    draw_curves,
    head_of,
    heads_of,
    learning_rate_falls,
    panels_of,
    style_of,
)


def test_an_undefined_metric_has_no_panel(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,val/logloss\n1,0.9,0.7\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a legend without lines
        assert draw_curves(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_the_training_is_beside_the_validation_and_the_heads_are_in_order():
    terms = ["train/bce", "train/loss", "train/tf_complex", "train/tf_middle", "train/tf_simple"]
    val = [f"val/{head}{name}" for head in ("", "complex/", "middle/", "simple/") for name in ("auc", "logloss")]
    names = ["epoch", "step", "lr", *terms, *val, "val/gauc", "val/monitor"]
    heads = heads_of(names)
    assert heads == ["fused", "simple", "middle", "complex"]
    panels = panels_of(names, heads)
    assert list(panels.values()) == [
        ["train/bce", "train/loss", "train/tf_simple", "train/tf_middle", "train/tf_complex"],
        ["val/logloss", "val/simple/logloss", "val/middle/logloss", "val/complex/logloss", "train/bce"],
        ["val/auc", "val/simple/auc", "val/middle/auc", "val/complex/auc"],
        ["val/gauc"],
    ]
    assert [head_of(name, ["fused", "a", "big_a"]) for name in ("train/tf_big_a", "train/bce_a", "train/taught")] == [
        *("big_a", "a", "fused")
    ]


def test_the_logloss_without_the_calibration_is_dotted():
    names = ["train/loss", "train/bce", "val/logloss", "val/uncalibrated_logloss", "val/simple/logloss"]
    panels = panels_of(names, heads_of(names))
    styles = {title: {name: style_of(name, title) for name in panel} for title, panel in panels.items()}
    assert styles[TERMS] == {"train/loss": "solid", "train/bce": "solid"}
    validation = {"val/logloss": "solid", "val/uncalibrated_logloss": "dot", "val/simple/logloss": "solid"}
    assert styles["logloss in training and validation"] == {**validation, "train/bce": "dash"}


def test_curves_are_drawn_from_metrics_csv(tmp_path):
    assert draw_curves(tmp_path) is None
    (tmp_path / "metrics.csv").write_text(
        "epoch,train/loss,val/auc,val/simple/auc,val/logloss,val/gauc\n1,0.9,0.6,0.5,0.7,0.6\n2,0.8,0.7,0.6,0.6,\n"
    )
    path = draw_curves(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_the_best_validation_and_the_falls_of_the_learning_rate_are_found():
    rows = pl.DataFrame(
        {
            "epoch": [0.5, 1.0, 1.5, 2.0, 2.5],
            "lr": [1e-3, 1e-3, None, 1e-4, 1e-5],  # no validation at 1.5
            "val/auc": [0.6, 0.5, None, 0.7, 0.65],
        }
    )
    assert learning_rate_falls(rows) == [1.0, 2.0]  # each at the validation that decided it
    assert best_epoch(rows) == 2.0
    monitored = rows.with_columns(pl.Series("val/monitor", [1.0, 1.5, None, 1.2, 1.5]))
    assert best_epoch(monitored) == 1.0  # the first one of equals, as in best.ckpt
    older = rows.select("epoch", "val/auc").with_columns(pl.lit(None).cast(pl.Float64).alias("val/auc"))
    assert best_epoch(older) is None
    assert learning_rate_falls(older) == []


def test_a_late_first_validation_is_a_number(tmp_path):
    rows = [f"{epoch},0.9,{0.7 if epoch > 150 else ''}" for epoch in range(1, 160)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/logloss", *rows]) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of categories that are numbers
        assert draw_curves(tmp_path)
