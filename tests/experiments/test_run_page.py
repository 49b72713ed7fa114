"""index.html of a run: its content. tests/experiments/test_page.py has it in a browser, too."""

import json
import re

import pytest

from tf4ctr.experiments import html_file
from tf4ctr.experiments.run_page import write_run_page
from tf4ctr.training.head_colours import head_colours

CURVES = (
    "epoch,step,lr,train/bce,train/loss,train/tf_complex,train/tf_simple,val/auc,val/complex/auc,val/logloss,"
    "val/simple/auc\n1,9,0.001,0.7,1.2,0.4,0.5,0.6,0.61,0.69,0.58\n2,18,0.001,0.6,1.1,0.3,0.4,0.5,0.62,nan,0.59\n"
    "3,27,0.0001,0.5,1.0,0.2,0.3,0.55,,0.7,0.6\n"
)
CONFIG = "seed: 2019\ndataset:\n  name: shop\n  prepared_dir: /gone\nloss:\n  c: 0.7\n  focus: null\n  units: [4, 4]\n"
METRICS = {
    "parameters": 12345,
    "val/auc": 0.6,
    "val/simple/auc": 0.58,
    "test/auc": 0.611111,
    "test/gauc": 0.6,
    "test/uncalibrated_logloss": 0.55,
    "test/simple/auc": 0.57,
    "test/best_auc": 0.8,
    "epochs": 3,
    "seconds": 1234.5,
}
START = {"started": "2026-11-26", "command": "src/train.py dataset=<b>", "overrides": ["a=1"], "git": {"commit": "abc"}}


@pytest.fixture(autouse=True)
def _packed(monkeypatch):
    monkeypatch.setattr(html_file, "packed_plotly", lambda: "PACKED")


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run with two heads."""
    folder = tmp_path / "day" / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- dataset=shop\n- '+a.b=[1,2]'\n")
    choices = {"hydra": {"runtime": {"choices": {"backbone": "deepfm", "framework": "tf4ctr"}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(json.dumps(choices))
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "metrics.csv").write_text(CURVES)
    (folder / "environment.json").write_text(json.dumps([START, START | {"started": "2026-11-27"}]))
    return folder


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))


def test_the_page_has_metrics_config_and_environment(run):
    text = write_run_page(run).read_text()
    assert "<h1>Run day/run</h1>" in text
    assert "backbone deepfm, framework tf4ctr, dataset shop, seed 2019" in text
    rows = [("split", "head", "AUC", "logloss", "gAUC"), ("val", "fused", "0.60000", "", "")]
    rows += [("val", "simple", "0.58000", "", ""), ("test", "fused", "0.61111", "", "0.60000")]
    rows += [("test", "uncalibrated", "", "0.55000", ""), ("test", "best possible", "0.80000", "", "")]
    rows += [("parameters", "12,345"), ("seconds", "1,234.5")]
    rows += [("dataset", "shop"), ("+a.b", "[1,2]"), ("loss.c", "0.7"), ("loss.focus", "null")]
    rows += [("loss.units", "[4, 4]")]
    rows += [("git.commit", "abc"), ("command", "src/train.py dataset=&lt;b&gt;")]
    for row in rows:
        assert "".join(f"<td>{cell}</td>" for cell in row) in text.replace("th>", "td>")
    assert text.index("2026-11-27") < text.index("2026-11-26")  # the last start is first
    assert "The prepared dataset is not in /gone now" in text
    assert ">PACKED</script>" in text


def test_the_curves_are_those_of_curves_png(run):
    curves = data_of(write_run_page(run).read_text())["curves"]
    assert (curves["epoch"], curves["best"], curves["falls"]) == ([1, 2, 3], 1, [2])
    panels = {panel["title"]: panel["lines"] for panel in curves["panels"]}
    assert list(panels) == ["training loss and its terms", "logloss in training and validation", "validation AUC"]
    colours = head_colours(["simple", "complex"])
    lines = [(line["name"], line["colour"]) for line in panels["validation AUC"]]
    assert lines == [(f"val/{name}auc", colours[name.strip("/") or "fused"]) for name in ("", "simple/", "complex/")]
    assert panels["validation AUC"][2]["y"] == [0.61, 0.62, None]
    logloss, train = panels["logloss in training and validation"]
    assert (logloss["y"], logloss["style"]) == ([0.69, None, 0.7], "solid")
    assert (train["name"], train["style"], train["colour"]) == ("train/bce", "dash", colours["fused"])


def test_an_evaluation_adds_intervals_calibration_and_pictures(run):
    before = write_run_page(run).read_text()
    assert data_of(before)["calibration"] == {}
    assert "<img" not in before
    (run / "evaluation").mkdir()
    measured = {"auc": 0.62, "ece": 0.01, "simple/auc": 0.57, "auc_low": 0.6, "auc_high": 0.64}
    (run / "evaluation" / "test.json").write_text(json.dumps(measured))
    (run / "evaluation" / "test-reliability.csv").write_text(
        "head,rows,predicted,clicked\nfused,5,0,0\nsimple,5,0.6,1\n"
    )
    (run / "evaluation" / "test-roc.png").write_bytes(b"\x89PNG")
    text = write_run_page(run).read_text()
    assert "<td>0.62000 [0.60000, 0.64000]</td>" in text
    assert "<td>0.01000</td>" in text
    assert 'alt="test: ROC, and precision by recall"' in text
    data = data_of(text)
    assert data["calibration"]["test"]["simple"] == {"rows": [5], "predicted": [0.6], "clicked": [1]}
    assert data["colours"]["simple"] == head_colours([])["simple"]


def test_a_run_that_left_little_has_a_page_nevertheless(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    text = write_run_page(tmp_path).read_text()
    assert "It did not train: stopped before its end" in text
    assert data_of(text) == {"curves": None, "focus": None, "calibration": {}, "colours": head_colours([])}


def test_without_plotly_nothing_is_written_and_a_line_says_so(run, monkeypatch, caplog):
    monkeypatch.setattr(html_file, "packed_plotly", lambda: None)
    with caplog.at_level("INFO"):
        assert write_run_page(run) is None
    assert "index.html was not written, because plotly is missing" in caplog.text
    assert not (run / "index.html").exists()
