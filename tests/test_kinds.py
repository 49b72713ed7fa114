"""A dataset with a field of every kind, from raw files to a tested run."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from conftest import run_script, without_times

SPLITS = {"train": 400, "valid": 120, "test": 120}
FIELDS = (
    "[user,{name: item, max_values: 20},{name: price, kind: number, transform: log1p},"
    "{name: age, kind: number, scale: quantile},{name: tags, width: 3, pooling: mean},{name: ip, hash: 50},"
    "{name: liked, width: 2, of: item, pooling: max},{name: image, kind: vector, width: 3},"
    "{name: text, kind: vector, width: 2, of: item, file: texts.parquet, frozen: false}]"
)


@pytest.fixture
def kinds(tmp_path):
    """Overrides that train a small network on a dataset with a field of every kind."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for seed, (split, rows) in enumerate(SPLITS.items()):
        random = np.random.default_rng(seed)
        price = random.exponential(20, rows).round(2)
        frame = pl.DataFrame(
            {
                "rating": random.integers(1, 6, rows) - (price < 10),
                "user": random.integers(0, 30, rows),
                "item": random.integers(0, 40, rows),
                "price": [None if value > 40 else value for value in price.tolist()],
                "age": random.integers(18, 90, rows),
                "tags": [random.integers(0, 9, number).tolist() for number in random.integers(0, 5, rows)],
                "ip": random.integers(0, 999, rows),
                "liked": [random.integers(0, 40, number).tolist() for number in random.integers(0, 4, rows)],
                "image": random.normal(size=(rows, 3)).tolist(),
                "w": random.random(rows) + 0.5,
            }
        )
        frame.write_parquet(raw / f"{split}.parquet")
    texts = pl.DataFrame({"item": range(30), "text": np.random.default_rng(9).normal(size=(30, 2)).tolist()})
    texts.write_parquet(raw / "texts.parquet")
    layout = "{reader: parquet, " + ", ".join(f"{split}: {split}.parquet" for split in SPLITS) + "}"
    return [
        *("dataset=frappe", "dataset.rows=null", f"dataset.raw_dir={raw}", f"dataset.prepared_dir={tmp_path}/prepared"),
        *(f"dataset.fields={FIELDS}", f"dataset.layouts=[{layout}]", "dataset.group=user"),
        *("dataset.label={column: rating, positive: '>= 4'}", "+dataset.weight=w", "+dataset.weighted_metrics=true"),
        *("backbone.complex.hidden_units=[16]", "stream.batch_size=64", "trainer=cpu", "trainer.max_epochs=2"),
        *("logger=csv", f"hydra.run.dir={tmp_path}/run"),
    ]


def train(options):
    result = run_script("train.py", *options)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("ssem", ["ser", "gm"])
def test_a_run_on_every_kind_resumes_to_the_same_end(kinds, tmp_path, ssem):
    kinds += [f"ssem={ssem}"]
    train(kinds)
    whole = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(np.isfinite(value) for value in whole.values())
    train([*kinds, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/half"])
    train([*kinds, f"ckpt={tmp_path}/half/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/half"])
    assert without_times(json.loads((tmp_path / "half" / "metrics.json").read_text())) == without_times(whole)
    weights = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    given = [name for name in weights if name.endswith("table_NV")]
    assert given
    assert all(weights[name].abs().sum() > 0 for name in given)


@pytest.mark.parametrize("number", ["bins", "piecewise", "periodic", "autodis"])
@pytest.mark.parametrize("embedding", ["dense", "rowwise"])
def test_every_number_option_trains_with_every_table(kinds, tmp_path, number, embedding):
    train([*kinds, f"number={number}", f"embedding={embedding}", "trainer=smoke"])
    assert np.isfinite(json.loads((tmp_path / "run" / "metrics.json").read_text())["test/auc"])


def test_two_ranks_train_on_every_kind_as_one(kinds, tmp_path):
    """Without what is random or depends on a rank's own rows: dropout and batch norm."""
    kinds += ["backbone.complex.dropout=0", "backbone.complex.batch_norm=false", "trainer.max_epochs=1"]
    metrics = []
    for trainer in ("cpu", "ddp_cpu"):
        train([*kinds, f"trainer={trainer}", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/{trainer}"])
        metrics.append(without_times(json.loads((tmp_path / trainer / "metrics.json").read_text())))
    assert metrics[1] == {name: pytest.approx(value, abs=1e-4) for name, value in metrics[0].items()}
