import json

import numpy as np
import polars as pl
import pytest
import torch

from conftest import run_script
from tf4ctr.assembly import load_run
from tf4ctr.data import vocabulary
from tf4ctr.data.schema import Field, Schema
from tf4ctr.inference.evaluation import score
from tf4ctr.training.focus import BINS, draw_focus, draw_gates, gate_table
from training.test_loggers import offline_records


def test_a_run_writes_the_focus_of_its_heads(toy, tmp_path):
    options = ["ssem=gm", "dfm=vf", "trainer.max_epochs=3", "optimizer.lr=0.01"]
    result = run_script("train.py", *toy, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    focus = json.loads((folder / "focus.json").read_text())
    assert focus["epochs"] == list(range(1, metrics["epochs"] + 1))
    assert set(focus["q"]) == {"fused", "simple", "complex"}
    network, schema, _ = load_run(folder)
    scores = score(network, schema, tmp_path / "prepared" / "toy", "valid", 64)
    for head, shares in focus["q"].items():
        assert np.shape(shares) == (metrics["epochs"], BINS)
        probability = torch.sigmoid(scores.logits[head]).numpy()
        q = np.where(scores.label.numpy() == 1, probability, 1 - probability)
        expected = np.histogram(q, BINS, (0, 1))[0] / len(q)
        # one row of 100 may be on the edge of a bin
        np.testing.assert_allclose(shares[metrics["best_epoch"] - 1], expected, atol=0.011)
    assert np.add(*focus["weights"].values()) == pytest.approx(np.ones(metrics["epochs"]))
    gates = pl.read_csv(folder / "gates.csv")
    assert gates.filter(field="hour")["rows"].sum() == 100
    assert gates["simple"].is_between(0, 1).all()
    for name in ("focus.png", "gates.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    pictures = {item.key or item.nested_key[0] for record in offline_records(folder, "history") for item in record.item}
    assert {"focus", "gates", "curves"} <= pictures


def test_a_resumed_run_keeps_the_earlier_validations(toy, tmp_path):
    toy = [*toy, "logger=none", "trainer.val_check_interval=0.5"]  # an epoch has 7 steps
    assert run_script("train.py", *toy, "trainer.max_epochs=1").returncode == 0
    result = run_script("train.py", *toy, "trainer.max_epochs=2", f"ckpt={tmp_path}/run/checkpoints/last.ckpt")
    assert result.returncode == 0, result.stdout + result.stderr
    focus = json.loads((tmp_path / "run" / "focus.json").read_text())
    assert focus["epochs"] == [0.4286, 0.8571, 1.4286, 1.8571]
    assert {len(shares) for shares in focus["q"].values()} == {4}
    assert {len(weights) for weights in focus["weights"].values()} == {4}


def test_gates_are_means_over_the_rows_of_a_value(tmp_path):
    schema = Schema("toy", (Field("user", 4), Field("hour", 3)), "click")
    for name, values in (("user", ["a", "b"]), ("hour", ["9"])):
        vocabulary.save(pl.Series(name, values), tmp_path)
    rows, share = torch.tensor([0, 4, 0, 2, 0, 5, 1]), torch.tensor([0, 1.0, 0, 1.5, 0, 2.0, 0.5])
    table = gate_table(rows, share, schema, tmp_path)
    assert table.rows() == [
        ("user", "a", 4, 0.25),
        ("user", "(out of vocabulary)", 2, 0.75),
        ("hour", "9", 5, 0.4),
        ("hour", "(out of vocabulary)", 1, 0.5),
    ]
    draw_gates(table, tmp_path / "gates.png")
    assert (tmp_path / "gates.png").exists()


def test_one_epoch_of_one_head_is_drawn(tmp_path):
    draw_focus([3], {"fused": [[1 / BINS] * BINS]}, {}, tmp_path / "focus.png")
    assert (tmp_path / "focus.png").read_bytes().startswith(b"\x89PNG")
