import warnings

from tf4ctr.training.curves import draw_curves


def test_an_undefined_metric_has_no_panel(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,val/logloss\n1,0.9,0.7\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a legend without lines
        assert draw_curves(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_from_metrics_csv(tmp_path):
    assert draw_curves(tmp_path) is None
    (tmp_path / "metrics.csv").write_text(
        "epoch,train/loss,val/auc,val/simple/auc,val/logloss,val/gauc\n1,0.9,0.6,0.5,0.7,0.6\n2,0.8,0.7,0.6,0.6,\n"
    )
    path = draw_curves(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
