import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from conftest import make_spec
from tf4ctr.data import synthetic
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare


def read(folder, split):
    return pl.read_parquet(folder / split)


def test_rows_depend_on_the_seed_and_not_on_the_sizes_of_other_splits(tmp_path):
    synthetic.generate(tmp_path / "a", train=1000, valid=200, test=300, seed=1)
    synthetic.generate(tmp_path / "b", train=50, valid=200, test=300, seed=1)
    synthetic.generate(tmp_path / "c", train=1000, valid=200, test=300, seed=2)
    assert read(tmp_path / "a", "test").equals(read(tmp_path / "b", "test"))
    assert not read(tmp_path / "a", "test").equals(read(tmp_path / "c", "test"))
    assert not read(tmp_path / "a", "train").head(200).equals(read(tmp_path / "a", "valid"))


def test_rows_are_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 400)
    ticks = []
    synthetic.generate(tmp_path / "a", train=1000, valid=1, test=400, seed=1, tick=ticks.append)
    assert [len(read(tmp_path / "a", split)) for split in ("train", "valid", "test")] == [1000, 1, 400]
    assert len(list((tmp_path / "a" / "train").iterdir())) == 3
    assert ticks == [400, 400, 200, 1, 400]


def test_clicks_follow_click_probability():
    rows = synthetic.ClickModel(0).draw(np.random.default_rng(0), 200_000)
    for part in rows.sort("click_probability").iter_slices(20_000):
        expected = part["click_probability"].mean()
        deviation = np.sqrt(expected * (1 - expected) / 20_000)
        assert part["click"].mean() == pytest.approx(expected, abs=5 * deviation)


def test_values_follow_the_power_law():
    rows = synthetic.ClickModel(0).draw(np.random.default_rng(0), 200_000)
    size, exponent = synthetic.FIELDS["item"]
    counts = np.bincount(rows["item"], minlength=size)
    expected = 1 / np.arange(1, size + 1) ** exponent
    assert counts / 200_000 == pytest.approx(expected / expected.sum(), abs=0.004)


def test_region_0_is_easier_than_region_1():
    rows = synthetic.ClickModel(0).draw(np.random.default_rng(0), 100_000)
    easy, hard = (rows.filter(pl.col("region") == region) for region in (0, 1))
    assert (
        roc_auc_score(easy["click"], easy["click_probability"])
        > roc_auc_score(hard["click"], hard["click_probability"]) + 0.15
    )


def test_the_best_auc_in_the_manifest_is_the_auc_of_the_true_probability(tmp_path):
    spec = make_spec(
        tmp_path,
        name="synthetic",
        raw_dir=None,
        prepared_dir=tmp_path / "prepared",
        fields=tuple(synthetic.FIELDS),
        layouts=({"reader": "parquet", "train": "train", "valid": "valid", "test": "test"},),
        generator={"train": 3000, "valid": 500, "test": 700, "seed": 4},
        click_probability="click_probability",
    )
    manifest = read_manifest(prepare(spec))
    synthetic.generate(tmp_path / "again", train=3000, valid=500, test=700, seed=4)
    for split in ("train", "valid", "test"):
        rows = read(tmp_path / "again", split)
        assert manifest["best_auc"][split] == pytest.approx(
            roc_auc_score(rows["click"], rows["click_probability"]), abs=1e-9
        )
        assert manifest["splits"][split]["rows"] == len(rows)
    assert not (spec.prepared_dir / "raw").exists()
