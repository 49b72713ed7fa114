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


def test_without_numbers_the_rows_stay_those_of_0_1_0():
    rows = synthetic.ClickModel(0).draw(np.random.default_rng([0, 1, 0]), 1000)
    assert rows.columns == [*synthetic.FIELDS, "click_probability", "click"]
    assert rows.row(0)[:8] == (231, 1, 2, 0, 1, 15, 2, 0)
    assert rows.sum().row(0)[:8] == (75631, 44270, 5456, 10454, 1547, 9947, 2419, 491)
    assert rows["click_probability"].sum() == pytest.approx(343.81636704305515, rel=1e-12)
    assert rows["click"].sum() == 344


@pytest.fixture(scope="module")
def model():
    return synthetic.ClickModel(0, numbers=True)


@pytest.fixture(scope="module")
def rows(model):
    return model.draw(np.random.default_rng(1), 20_000)


def test_numbers_leave_the_ids_as_they_are(rows):
    alone = synthetic.ClickModel(0).draw(np.random.default_rng(1), 20_000)
    assert rows.select(*synthetic.FIELDS).equals(alone.select(*synthetic.FIELDS))
    assert rows["click"].mean() == pytest.approx(alone["click"].mean(), abs=0.02)
    assert not rows["click"].equals(alone["click"])


def test_numbers_and_the_list_are_in_the_files(tmp_path):
    synthetic.generate(tmp_path / "a", train=2000, valid=100, test=1, seed=4, numbers=True)
    train = read(tmp_path / "a", "train")
    assert train.select("price", "age", "noise", "tags").dtypes == [pl.Float64, pl.Int32, pl.Float64, pl.List(pl.Int32)]
    assert train["tags"].list.len().unique().to_list() == [0, 1, 2, 3, 4]
    assert train["tags"].list.explode().drop_nulls().is_between(0, synthetic.TAGS[0] - 1).all()
    assert train["age"].null_count() / 2000 == pytest.approx(synthetic.MISSING_AGES, abs=0.03)
    assert (train["age"].min(), train["age"].max()) == synthetic.AGES
    assert train["price"].equals(train["price"].round(2))
    assert train.select("price", "noise", "tags").null_count().row(0) == (0, 0, 0)
    assert read(tmp_path / "a", "test").columns == train.columns


def test_effects_are_those_that_the_docstring_states(rows):
    rate = rows["click"].mean()
    by_price = [part["click"].mean() for part in rows.sort("price").iter_slices(4000)]
    assert min(by_price[1:4]) > rate > max(by_price[0], by_price[4]) + 0.05  # the middle is best
    known = rows.filter(pl.col("age").is_not_null())
    by_age = [known.filter(pl.col("age").is_between(age, age + 8))["click"].mean() for age in range(18, 80, 9)]
    assert by_age == sorted(by_age)
    missing = rows.filter(pl.col("age").is_null())["click"].mean()
    assert missing < by_age[3] - 0.1  # the effect of a gap is not that of the mean age
    assert abs(np.corrcoef(rows["noise"], rows["click"])[0, 1]) < 3 / np.sqrt(len(rows))


def test_effects_of_tags_are_added(model, rows):
    lists = pl.Series([[], [2], [5], [2, 5], [2, 2]], dtype=pl.List(pl.Int32))
    none, first, second, both, twice = model.extras.effect(rows[[0] * 5].with_columns(tags=lists))
    assert both - none == pytest.approx(first - none + second - none)
    assert twice - none == pytest.approx(2 * (first - none))
    assert first - none == pytest.approx(model.extras.tag_effect[2] / model.extras.deviation)


def averaged(model, rows, hidden, draws=40):
    """The click probability, averaged over the hidden columns' values in the first rows."""
    score = model._score({name: rows[name].to_numpy() for name in synthetic.FIELDS})
    total = np.zeros(len(rows))
    for number in range(draws):
        drawn = rows.select(hidden)[[number] * len(rows)]
        effect = model.extras.effect(rows.with_columns(drawn))
        total += synthetic.click_probability(synthetic.mixed(score, effect), rows["region"].to_numpy())
    return total / draws


def test_the_best_auc_with_numbers_is_that_of_the_true_probability(model, rows):
    assert roc_auc_score(rows["click"], rows["click_probability"]) == pytest.approx(0.830, abs=0.001)
    np.testing.assert_allclose(averaged(model, rows, ["noise"], draws=1), rows["click_probability"])


@pytest.mark.parametrize(
    ("hidden", "best"),
    [(["price", "age", "tags"], 0.734), (["price", "age"], 0.757), (["price"], 0.806), (["tags"], 0.806)],
)
def test_a_model_that_does_not_see_a_column_is_far_below_the_best_auc_of_0_830(model, rows, hidden, best):
    assert roc_auc_score(rows["click"], averaged(model, rows, hidden)) == pytest.approx(best, abs=0.003)


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
