import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from conftest import run_script
from inference.fixtures import kinds_rows
from tf4ctr.assembly import load_run
from tf4ctr.data import vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import NUMBERS, SEQUENCES, Field, Scaling, Schema
from tf4ctr.errors import InputError
from tf4ctr.inference.evaluation import (
    Scores,
    calibration_error,
    draw_reliability,
    measure,
    metrics_table,
    reliability,
    score,
)
from tf4ctr.inference.examples import extremes, rows_table
from tf4ctr.inference.importance import shuffled_columns
from tf4ctr.inference.slices import by_value, length_bins, values_table

SCHEMA = Schema("toy", (Field("user", 5), Field("tags", 4, 2)), "click", "user")


def make_scores(rows=400, scale=1.0):
    """Rows whose label follows `scale` times their fused logit."""
    random = np.random.default_rng(3)
    fused = torch.from_numpy(random.normal(size=rows)).round(decimals=1)  # ties
    label = torch.from_numpy(random.random(rows)) < torch.sigmoid(scale * fused)
    ids = torch.from_numpy(
        np.stack([random.integers(1, 5, rows), 5 + random.integers(1, 4, rows), 5 + random.integers(0, 4, rows)], 1)
    )
    return Scores({"fused": fused, "simple": fused / 2, "complex": -fused}, label.float(), ids[:, 0], ids)


@pytest.fixture
def folder(tmp_path):
    """A vocabulary/ for SCHEMA."""
    for name, values in (("user", ["a", "b", "c"]), ("tags", ["x", "y"])):
        vocabulary.save(pl.Series(name, values), tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_metrics_of_every_head_equal_those_of_scikit_learn():
    scores = make_scores()
    results = measure(scores, 0, 0)
    for name, logit in scores.logits.items():
        prefix, probability = "" if name == "fused" else f"{name}/", torch.sigmoid(logit)
        assert results[f"{prefix}auc"] == pytest.approx(roc_auc_score(scores.label, logit), abs=1e-9)
        assert results[f"{prefix}logloss"] == pytest.approx(log_loss(scores.label, probability), abs=1e-9)
    assert results["predicted_over_observed"] == pytest.approx(
        float(torch.sigmoid(scores.logits["fused"]).sum() / scores.label.sum())
    )
    assert not any(name.endswith("_low") for name in results)
    assert "gauc" in results


def test_the_calibration_error_is_small_if_the_label_follows_the_probability():
    calibrated, overconfident = (measure(make_scores(20_000, scale), 0, 0)["ece"] for scale in (1.0, 0.2))
    assert calibrated < 0.02
    assert overconfident > 0.1


def test_the_calibration_error_is_that_of_torchmetrics():
    for rows in (1, 7, 5000):
        p = torch.rand(rows, dtype=torch.float64)
        p[0] = 1.0
        label = torch.rand(rows) < p
        assert calibration_error(p, label.float()) == binary_calibration_error(p, label.long(), n_bins=20)


def weighted(scores, seed=0):
    """The same rows with weights 0, 1, 2 or 3, and these rows repeated as often."""
    times = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, len(scores.label)))
    logits = {name: logit.repeat_interleave(times) for name, logit in scores.logits.items()}
    rest = (part if part is None else part.repeat_interleave(times, 0) for part in scores[1:5])
    return scores._replace(weight=times / 2), Scores(logits, *rest)


def test_weighted_metrics_are_those_of_repeated_rows():
    scores, repeated = weighted(make_scores())
    results, expected = measure(scores, 0, 0), measure(repeated, 0, 0)
    assert results.keys() == expected.keys()
    for name, value in results.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name
    assert results["auc"] != pytest.approx(measure(make_scores(), 0, 0)["auc"], abs=1e-4)


def test_weighted_intervals_contain_the_weighted_metric():
    scores, _ = weighted(make_scores(2000))
    results = measure(scores, 200, 1)
    assert results["auc_low"] < results["auc"] < results["auc_high"]
    assert results["logloss_low"] < results["logloss"] < results["logloss_high"]
    assert results["gauc_low"] < results["gauc"] < results["gauc_high"]


@pytest.mark.parametrize("field", ["user", "tags"])
def test_weighted_values_are_those_of_repeated_rows(folder, field):
    scores, repeated = weighted(make_scores())
    table, expected = (by_value(rows, SCHEMA, field, folder).sort("value") for rows in (scores, repeated))
    for name in ("click_rate", "predicted", "predicted_over_observed", "auc"):
        np.testing.assert_allclose(table[name], expected[name], atol=1e-9)
    assert table["rows"].to_list() == by_value(make_scores(), SCHEMA, field, folder).sort("value")["rows"].to_list()


def test_resamples_of_one_label_do_not_count(caplog):
    scores = make_scores(400)
    scores = scores._replace(label=torch.zeros(400).index_fill(0, torch.tensor([3, 200]), 1.0), group=None)
    results = measure(scores, 50, 1)
    assert 0 <= results["auc_low"] < results["auc_high"] <= 1
    assert "of 50 resamples have rows of one label only" in caplog.text


def test_a_network_without_an_output_has_no_metrics(caplog):
    scores = make_scores(400)
    scores.logits["fused"][3] = torch.nan
    results = measure(scores, 5, 1)
    for name in ("auc", "logloss", "gauc", "ece", "predicted_over_observed", "auc_low", "logloss_high"):
        assert np.isnan(results[name]), name
    assert 0 < results["simple/auc_low"] < 1
    assert "logloss: 5 of 5 resamples have rows for which the network's output is NaN" in caplog.text
    assert "label" not in caplog.text


def test_resamples_without_weights_are_not_blamed_on_the_labels(caplog):
    scores = make_scores(3)._replace(weight=torch.tensor([1.0, 0.0, 0.0]), group=None)
    measure(scores, 50, 1)
    assert "logloss: " in caplog.text
    assert not [line for line in caplog.messages if line.startswith("logloss") and "label" in line]


def test_brackets_in_a_value_are_shown_as_they_are():
    console = Console(width=200, record=True)
    row = {"value": "[/b] [rec]", "rows": 3, "click_rate": 0.5}
    console.print(values_table("user", pl.DataFrame([row])))
    console.print(rows_table("t", pl.DataFrame([{"row": 1, "label": 1, "q": 0.5, "user": "[/b] [rec]"}]), ["fused"]))
    assert console.export_text().count("[/b] [rec]") == 2


def test_intervals_contain_the_metric_and_shrink_with_the_rows():
    small, large = (measure(make_scores(rows), 300, 1) for rows in (400, 6400))
    widths = []
    for results in (small, large):
        for head in ("", "simple/", "complex/"):
            assert results[f"{head}auc_low"] < results[f"{head}auc"] < results[f"{head}auc_high"]
            assert results[f"{head}logloss_low"] < results[f"{head}logloss"] < results[f"{head}logloss_high"]
        assert results["gauc_low"] < results["gauc"] < results["gauc_high"]
        widths.append(results["auc_high"] - results["auc_low"])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)


def test_by_value_counts_and_measures_each_value(folder):
    scores = make_scores()
    table = by_value(scores, SCHEMA, "user", folder)
    assert set(table["value"]) == {"a", "b", "c", "(out of vocabulary)"}
    assert table["rows"].to_list() == sorted(table["rows"], reverse=True)
    for row in table.iter_rows(named=True):
        number = ["(none)", "a", "b", "c", "(out of vocabulary)"].index(row["value"])
        mask = scores.ids[:, 0] == number
        assert row["rows"] == int(mask.sum())
        assert row["click_rate"] == pytest.approx(float(scores.label[mask].mean()))
        assert row["auc"] == pytest.approx(roc_auc_score(scores.label[mask], scores.logits["fused"][mask]), abs=1e-9)


def test_a_row_counts_for_each_value_of_its_list_and_not_for_padding(folder):
    scores = make_scores()
    table = by_value(scores, SCHEMA, "tags", folder)
    ids = scores.ids[:, 1:] - 5
    numbers = {"x": 1, "y": 2, "(out of vocabulary)": 3}
    assert set(table["value"]) == set(numbers)
    for row in table.iter_rows(named=True):
        times = (ids == numbers[row["value"]]).sum(1)  # a row with a value twice counts twice
        label, fused = (values.repeat_interleave(times) for values in (scores.label, scores.logits["fused"]))
        assert row["rows"] == len(label)
        assert row["click_rate"] == pytest.approx(float(label.mean()))
        assert row["predicted"] == pytest.approx(float(torch.sigmoid(fused).mean()))
        assert row["predicted_over_observed"] == pytest.approx(float(torch.sigmoid(fused).sum() / label.sum()))
        assert row["auc"] == pytest.approx(roc_auc_score(label, fused), abs=1e-9)


def test_a_value_with_rows_of_one_class_has_no_auc(folder):
    scores = make_scores()
    scores.label[scores.ids[:, 0] == 2] = 1
    table = by_value(scores, SCHEMA, "user", folder)
    assert table.filter(value="b")["auc"].to_list() == [None]


def test_an_unknown_field_is_refused(folder):
    with pytest.raises(InputError, match="by=usr: toy has no such field of ids or numbers, did you mean 'user'"):
        by_value(make_scores(), SCHEMA, "usr", folder)


PAST = Schema(
    "toy",
    (
        Field("user", 5),
        Field("history", 5, 30, kind=SEQUENCES, of="user"),
        Field("age", 4, 30, kind=SEQUENCES, aligned_with="history"),
        Field("likes", 3, 2, kind=SEQUENCES),
    ),
    "click",
)


def with_pasts(length, rows=400):
    """Scores of rows whose histories have these lengths, and always one value in `likes`."""
    scores = make_scores(rows)
    places = np.arange(30)
    # the ids of `user` begin at 0, those of `age` at 5, those of `likes` at 9
    history, age = (np.where(places < length[:, None], padding + 2, padding) for padding in (0, 5))
    columns = [scores.ids[:, :1].numpy(), history, age, np.tile([10, 9], (rows, 1))]
    return scores._replace(ids=torch.from_numpy(np.concatenate(columns, 1)))


@pytest.mark.parametrize("is_weighted", [False, True])
def test_rows_are_measured_by_the_length_of_their_history(folder, is_weighted):
    random = np.random.default_rng(5)
    length = random.integers(0, 31, 400)
    scores = with_pasts(length)
    weight = random.integers(0, 3, 400) / 2 if is_weighted else np.ones(400)
    if is_weighted:
        scores = scores._replace(weight=torch.from_numpy(weight))
    table = by_value(scores, PAST, "history_length", folder)
    assert len(table) <= 10
    assert table["value"][0] == "0"
    ends = [(int(value.split(" to ")[0]), int(value.split(" to ")[-1])) for value in table["value"]]
    assert [low for low, _ in ends[1:]] == [high + 1 for _, high in ends[:-1]]  # without holes
    assert ends[-1][1] == 30
    label, p = scores.label.numpy(), torch.sigmoid(scores.logits["fused"]).numpy()
    for (low, high), row in zip(ends, table.iter_rows(named=True), strict=True):
        own = (low <= length) & (length <= high)
        assert row["rows"] == own.sum()
        assert low == 0 or 30 < own.sum() < 60  # 400 / 10, but the rows of one length stay together
        assert row["click_rate"] == pytest.approx(np.average(label[own], weights=weight[own]))
        assert row["predicted"] == pytest.approx(np.average(p[own], weights=weight[own]))
        expected = roc_auc_score(label[own], p[own], sample_weight=weight[own])
        assert row["auc"] == pytest.approx(expected, abs=1e-9)
    (row,) = by_value(scores, PAST, "likes_length", folder).iter_rows(named=True)
    assert (row["value"], row["rows"]) == ("1", 400)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ([0, 0, 0], {"0": 3}),
        ([4, 4], {"4": 2}),
        ([0, 1, 7], {"0": 1, "1": 1, "7": 1}),
        ([0] * 90 + [1] * 5 + [2] * 5, {"0": 90, "1": 5, "2": 5}),
        ([1] * 60 + [2, 3, 4, 5], {"1": 60, "2": 1, "3": 1, "4": 1, "5": 1}),
        ([50] * 60 + list(range(1, 31)), {"1 to 10": 10, "11 to 20": 10, "21 to 30": 10, "50": 60}),
        ([50] * 60 + list(range(1, 30)), {"1 to 10": 10, "11 to 20": 10, "21 to 29": 9, "50": 60}),
        (list(range(1, 19)), {f"{n} to {n + 1}": 2 for n in range(1, 19, 2)}),
    ],
)
def test_the_intervals_of_lengths_have_about_equally_many_rows(length, expected):
    bins, names = length_bins(np.array(length))
    assert {names[number]: bins.tolist().count(number) for number in sorted(set(bins.tolist()))} == expected


@pytest.mark.parametrize("name", ["history", "age"])
def test_a_sequence_is_refused_with_the_name_of_its_length(folder, name):
    with pytest.raises(InputError, match=f"by={name}: '{name}' is a sequence.* by=history_length measures by"):
        by_value(with_pasts(np.ones(400)), PAST, name, folder)


def test_only_the_leading_sequence_has_a_length(folder):
    with pytest.raises(InputError, match="no such field of ids or numbers, did you mean"):
        by_value(with_pasts(np.ones(400)), PAST, "age_length", folder)


def test_a_field_with_the_name_of_a_length_is_meant_itself(folder):
    schema = Schema("toy", (Field("history_length", 5, of="user"), *PAST.fields), "click")
    scores = with_pasts(np.full(400, 3))
    own = scores._replace(ids=torch.cat([scores.ids[:, :1], scores.ids], 1))
    expected = by_value(scores, PAST, "user", folder)
    assert by_value(own, schema, "history_length", folder).equals(expected)


PRICES = tuple(float(value) for value in np.log1p(np.linspace(0, 256, 257)))
PRICED = Schema(
    "toy",
    (
        Field("user", 5),
        Field("price", 0, kind=NUMBERS, scaling=Scaling("standard", 2.0, 4.0, PRICES)),
        Field("tags", 4, 2),
        Field("liked", 4, 2, of="tags", pooling="mean"),
        Field("ip", 4, hashed=True),
    ),
    "click",
)
FIELDS = [FieldSpec("user"), FieldSpec("price", kind="number", transform="log1p")]


def priced(rows=400):
    """Scores with a price from 0 to 300, missing in each ninth row."""
    scores, random = make_scores(rows), np.random.default_rng(4)
    raw = np.where(np.arange(rows) % 9 == 0, np.nan, random.integers(0, 300, rows))
    numbers = torch.from_numpy((np.log1p(raw) - 2) / 4).float().unsqueeze(1)
    liked, ip = scores.ids[:, 1:].flip(1), torch.from_numpy(9 + random.integers(1, 4, (rows, 1)))
    return scores._replace(ids=torch.cat([scores.ids, liked, ip], 1), numbers=numbers), raw


def test_a_number_is_measured_in_intervals(folder):
    scores, raw = priced()
    table = by_value(scores, PRICED, "price", folder, FIELDS)
    limits = [26, 51, 77, 102, 128, 154, 179, 205, 230]
    names = ["(-inf, 26)", *(f"[{low}, {high})" for low, high in pairwise(limits)), "[230, inf)"]
    assert table["value"].to_list() == [*names, "(missing)"]
    fused, label = scores.logits["fused"].numpy(), scores.label.numpy()
    places = np.where(np.isnan(raw), 10, np.searchsorted(limits, raw, side="right"))
    for number, row in enumerate(table.iter_rows(named=True)):
        mask = places == number
        assert row["rows"] == mask.sum()
        assert row["click_rate"] == pytest.approx(label[mask].mean())
        assert row["auc"] == pytest.approx(roc_auc_score(label[mask], fused[mask]), abs=1e-9)
    assert values_table("price", table).row_count == 11


def test_shared_and_hashed_fields_have_their_values(folder):
    scores, _ = priced()
    shared = by_value(scores, PRICED, "liked", folder)
    assert shared.sort("value").equals(by_value(scores, PRICED, "tags", folder).sort("value"))
    assert set(by_value(scores, PRICED, "ip", folder)["value"]) == {"(hash 1)", "(hash 2)", "(out of vocabulary)"}


def test_extreme_rows_show_raw_numbers(folder):
    scores, raw = priced()
    for table in extremes(scores, PRICED, 30, folder, FIELDS):
        assert table.columns[-5:] == ["user", "price", "tags", "liked", "ip"]
        for row in table.iter_rows(named=True):
            price = raw[row["row"] - 1]
            assert row["price"] == (None if np.isnan(price) else f"{price:.0f}")
        assert table["price"].null_count()
        assert "price=(missing)" in " ".join(map(str, rows_table("t", table, scores.logits).columns[-1].cells))


def test_a_dataset_with_other_rows_is_not_scored(run):
    """Its test rows may be training rows of the run."""
    network, schema, _ = load_run(run)
    score(network, replace(schema, digest=""), run.parent / "prepared", "test", 50)  # a run of an older version
    with pytest.raises(InputError, match="other rows or other known values than the run was trained on"):
        score(network, replace(schema, digest="that of another split"), run.parent / "prepared", "test", 50)


def test_the_kinds_of_a_run_are_evaluated_with_its_weights(kinds_run):
    """`by` a number, from the command line; the metrics are weighted as the run's config says."""
    run = kinds_run("csv")
    process = run_script("evaluate.py", f"run={run}", "by=price", "bootstrap=5", "samples=3", "importance=true")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "test, 200 weighted rows" in process.stdout
    rows = kinds_rows()
    network, schema, _ = load_run(run)
    scores = score(network, schema, run.parent / "prepared", "test", 64, weighted=True)
    results = json.loads((run / "evaluation" / "test.json").read_text())
    expected = roc_auc_score(rows["click"], scores.logits["fused"], sample_weight=rows["w"])
    assert results["auc"] == pytest.approx(expected, abs=1e-6)
    p = torch.sigmoid(scores.logits["fused"])
    assert results["logloss"] == pytest.approx(log_loss(rows["click"], p, sample_weight=rows["w"]), abs=1e-6)
    table = pl.read_csv(run / "evaluation" / "test-by-price.csv")
    assert table["rows"].sum() == 200
    assert table.filter(value="(missing)")["rows"].item() == rows["price"].null_count()
    importance = pl.read_csv(run / "evaluation" / "test-importance.csv")
    assert set(importance["field"]) == {column.name for column in shuffled_columns(schema)}
    assert importance["auc_loss"].to_list() == sorted(importance["auc_loss"], reverse=True)
    for name in ("roc", "importance"):
        assert (run / "evaluation" / f"test-{name}.png").read_bytes().startswith(b"\x89PNG")
    hardest = pl.read_csv(run / "evaluation" / "test-hardest.csv")
    for row in hardest.iter_rows(named=True):
        original = rows.row(row["row"] - 1, named=True)
        assert row["price"] == original["price"]
        assert row["age"] == (None if original["age"] is None else min(max(original["age"], 18), 90))
        assert row["clicks"] == original["clicks"]


def test_the_hardest_and_the_easiest_rows_have_their_values(folder):
    scores = make_scores()
    probability = torch.sigmoid(scores.logits["fused"]).numpy()
    q = np.where(scores.label.numpy() == 1, probability, 1 - probability)
    hardest, easiest = extremes(scores, SCHEMA, 7, folder)
    np.testing.assert_allclose(hardest["q"], np.sort(q)[:7])
    np.testing.assert_allclose(easiest["q"], np.sort(q)[::-1][:7])
    assert hardest.columns == ["row", "label", "q", "q_simple", "q_complex", "user", "tags"]
    users, tags = ["(none)", "a", "b", "c", "(out of vocabulary)"], ["", "x", "y", "(out of vocabulary)"]
    for table in (hardest, easiest):
        for row in table.iter_rows(named=True):
            ids = scores.ids[row["row"] - 1].tolist()
            assert row["label"] == scores.label[row["row"] - 1]
            assert row["user"] == users[ids[0]]
            assert row["tags"] == "|".join(tags[number - 5] for number in ids[1:] if number > 5)


def test_fields_with_the_names_of_other_columns_have_columns_of_their_own(tmp_path):
    names = ("q", "q_len", "row", "label", "q_simple")
    for name in names:
        vocabulary.save(pl.Series(name, ["a", "b", "c"]), tmp_path)
    schema, scores = Schema("toy", tuple(Field(name, 5) for name in names), "click", None), make_scores()
    ids = 5 * torch.arange(5) + scores.ids[:, :1]
    hardest, easiest = extremes(scores._replace(ids=ids), schema, 3, tmp_path)
    of_fields = ["field: q", "q_len", "field: row", "field: label", "field: q_simple"]
    assert hardest.columns == ["row", "label", "q", "q_simple", "q_complex", *of_fields]
    assert hardest["q"].max() < easiest["q"].min()
    value = ["(none)", "a", "b", "c"][scores.ids[hardest["row"][0] - 1, 0]]
    table = rows_table("t", hardest, scores.logits, schema)
    assert [column.header for column in table.columns] == ["row", "label", "q", "q_simple", "q_complex", "values"]
    assert next(iter(table.columns[-1].cells)) == "  ".join(f"{name}={value}" for name in of_fields)


def test_tables_and_picture(folder, tmp_path):
    scores = make_scores()
    assert metrics_table("t", measure(scores, 5, 0)).row_count == 9
    hardest, _ = extremes(scores, SCHEMA, 3, folder)
    table = rows_table("t", hardest, scores.logits)
    assert [column.header for column in table.columns] == ["row", "label", "q", "q_simple", "q_complex", "values"]
    values = f"user={hardest['user'][0]}  tags={hardest['tags'][0]}"
    assert next(iter(table.columns[-1].cells)) == values
    more = {f"q_m{number}": pl.col("q") for number in range(3)}
    of_five = rows_table("t", hardest.with_columns(**more), [*scores.logits, "m0", "m1", "m2"])
    assert [column.header for column in of_five.columns] == ["row", "label", "q", "values"]
    assert next(iter(of_five.columns[-1].cells)) == values
    assert values_table("user", by_value(scores, SCHEMA, "user", folder)).row_count == 4
    points = reliability(scores)
    assert points.filter(head="fused")["rows"].sum() == len(scores.label)
    fused = points.filter(head="fused")
    shares = fused["rows"] / len(scores.label)
    assert fused["clicked"].dot(shares) == pytest.approx(float(scores.label.mean()))
    assert fused["predicted"].dot(shares) == pytest.approx(float(torch.sigmoid(scores.logits["fused"]).mean()))
    counting = scores._replace(weight=(scores.logits["fused"] > scores.logits["fused"].median()).float())
    assert not reliability(counting).filter(head="fused").to_series(2).is_nan().any()  # the lower bins have no weight
    assert len(reliability(counting).filter(head="fused")) <= 11
    draw_reliability(points, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_gives_the_metrics_of_the_runs_own_test(toy, tmp_path):
    assert run_script("train.py", *toy, "page=true", "logger=csv").returncode == 0
    process = run_script("evaluate.py", f"run={tmp_path}/run", "by=item", "bootstrap=10")
    assert process.returncode == 0, process.stdout + process.stderr
    own = json.loads((tmp_path / "run" / "metrics.json").read_text())
    results = json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())
    assert {"auc", "logloss", "gauc", "simple/auc", "complex/logloss"} <= set(results)
    for name, value in results.items():
        if f"test/{name}" in own:
            assert value == pytest.approx(own[f"test/{name}"], abs=1e-6)
    assert (tmp_path / "run" / "evaluation" / "test-by-item.csv").read_text().startswith("value,rows,click_rate")
    assert "95 % interval" in process.stdout
    page = (tmp_path / "run" / "index.html").read_text()
    assert f"[{results['auc_low']:.5f}, {results['auc_high']:.5f}]" in page
    assert '"calibration": {"test": {"fused": {"rows": [5, ' in page
    hardest, easiest = (
        pl.read_csv(tmp_path / "run" / "evaluation" / f"test-{name}.csv") for name in ("hardest", "easiest")
    )
    assert len(hardest) == len(easiest) == 10
    assert hardest["q"].max() < easiest["q"].min()
    raw = pl.read_csv(tmp_path / "raw" / "test.csv", infer_schema=False)
    shown = hardest.with_columns(pl.col("user", "item", "hour").cast(pl.String)).row(0, named=True)
    original = raw.row(shown["row"] - 1, named=True)
    assert str(shown["label"]) == original["click"]
    assert all(shown[name] in (original[name], "(out of vocabulary)") for name in ("user", "item", "hour"))
    for arguments, message in (
        ([], "run= is missing"),
        ([f"run={tmp_path}"], "no config.yaml"),
        ([f"run={tmp_path}/run", "split=tset"], "'test'"),
        ([f"run={tmp_path}/run", "importance_rows=0"], "importance_rows is 0: expected a whole number from 1 on"),
        ([f"run={tmp_path}/run", "samples=-1"], "samples is -1: expected a whole number from 0 on"),
    ):
        refused = run_script("evaluate.py", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
    network, schema, _ = load_run(tmp_path / "run")
    other = Schema("toy", schema.fields[:2], "click", "user")
    with pytest.raises(InputError, match="other fields or vocabularies"):
        score(network, other, tmp_path / "prepared" / "toy", "test", 50)
