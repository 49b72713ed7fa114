import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import distributed

from conftest import WARM
from tf4ctr.metrics import (
    AUC,
    BINS,
    GroupedAUC,
    LogitRows,
    LogLoss,
    add_to_bins,
    auc,
    auc_by_group,
    auc_of_bins,
    grouped_auc,
)


def sklearn_gauc(score, label, group):
    """gAUC by its definition, group by group."""
    total = weight = 0.0
    for value in np.unique(group):
        rows = group == value
        if len(set(label[rows])) == 2:
            total += rows.sum() * roc_auc_score(label[rows], score[rows])
            weight += rows.sum()
    return total / weight if weight else float("nan")


# few distinct scores and groups: many ties, groups of one class and of one row
rows = st.lists(
    st.tuples(
        st.sampled_from([-50.0, -1.5, -0.0, 0.0, 1e-7, 0.3, 2.0, 50.0]),
        st.integers(0, 1),
        st.sampled_from([0, 1, 2, 7, 2**31 - 1]),
    ),
    min_size=1,
    max_size=60,
)


@given(rows)
def test_auc_and_gauc_equal_scikit_learn(drawn):
    score, label, group = (np.array(column) for column in zip(*drawn, strict=True))
    tensors = torch.tensor(score, dtype=torch.float32), torch.tensor(label, dtype=torch.float32), torch.tensor(group)
    expected = roc_auc_score(label, score) if len(set(label)) == 2 else float("nan")
    assert float(auc(*tensors[:2])) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert float(grouped_auc(*tensors)) == pytest.approx(sklearn_gauc(score, label, group), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(drawn=rows)
def test_auc_of_each_group_equals_scikit_learn(dtype, drawn):
    score, label, group = (np.array(column) for column in zip(*drawn, strict=True))
    area, positives, count = auc_by_group(torch.tensor(score, dtype=dtype), torch.tensor(label), torch.tensor(group))
    groups = [group == value for value in np.unique(group)]
    expected = [
        roc_auc_score(label[rows], score[rows]) if len(set(label[rows])) == 2 else float("nan") for rows in groups
    ]
    assert area.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert positives.tolist() == [label[rows].sum() for rows in groups]
    assert count.tolist() == [rows.sum() for rows in groups]


def test_auc_by_group_keeps_the_digits_of_float64():
    score = torch.tensor([0.1, 0.1 + 1e-12, 0.1], dtype=torch.float64)
    area, _, _ = auc_by_group(score, torch.tensor([0, 1, 1]), torch.tensor([3, 3, 1], dtype=torch.int32))
    assert area.tolist() == [pytest.approx(float("nan"), nan_ok=True), 1.0]


def test_without_rows_auc_and_gauc_are_undefined():
    empty = torch.zeros(0)
    assert torch.isnan(auc(empty, empty))
    assert torch.isnan(grouped_auc(empty, empty, torch.zeros(0, dtype=torch.int64)))


def test_gauc_orders_any_float32_within_a_group():
    score = torch.randn(5000) * 10.0 ** torch.randint(-30, 30, (5000,))
    label = torch.randint(0, 2, (5000,)).float()
    group = torch.randint(0, 300, (5000,))
    assert float(grouped_auc(score, label, group)) == pytest.approx(
        sklearn_gauc(score.numpy(), label.numpy(), group.numpy()), abs=1e-12
    )


def test_metrics_over_batches_equal_scikit_learn():
    logit = torch.randn(3000).mul(3).round(decimals=1)  # ties
    label = (torch.rand(3000) < torch.sigmoid(logit)).float()
    group = torch.randint(0, 400, (3000,))
    metrics = AUC(), LogLoss(), GroupedAUC()
    for part in torch.arange(3000).split(700):
        metrics[0].update(logit[part], label[part])
        metrics[1].update(logit[part], label[part])
        metrics[2].update(logit[part], label[part], group[part])
    probability = torch.sigmoid(logit.double()).numpy()
    assert float(metrics[0].compute()) == pytest.approx(roc_auc_score(label, probability), abs=1e-6)
    assert float(metrics[1].compute()) == pytest.approx(log_loss(label, probability), abs=1e-6)
    assert float(metrics[2].compute()) == pytest.approx(
        sklearn_gauc(probability, label.numpy(), group.numpy()), abs=1e-6
    )


def test_logloss_of_saturated_logits_is_exact():
    metric = LogLoss()
    metric.update(torch.tensor([50.0, -50.0, 50.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert float(metric.compute()) == pytest.approx(50 / 3, rel=1e-9)


def test_metrics_forget_after_reset():
    metric = AUC()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert float(metric.compute()) == 0.0
    metric.reset()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert float(metric.compute()) == 1.0


def test_auc_takes_logits_of_bf16():
    metric = AUC()
    metric.update(torch.tensor([0.5, -0.5], dtype=torch.bfloat16), torch.tensor([1.0, 0.0]))
    assert float(metric.compute()) == 1.0


@given(rows, st.integers(0, 2**32 - 1))
def test_a_weight_counts_as_so_many_rows(drawn, seed):
    score, label, group = (np.array(column) for column in zip(*drawn, strict=True))
    weight = np.random.default_rng(seed).integers(0, 4, len(score))
    one = [torch.tensor(score, dtype=torch.float32), torch.tensor(label, dtype=torch.float32), torch.tensor(group)]
    many = [part.repeat_interleave(torch.tensor(weight)) for part in one]
    if not len(many[0]):
        return
    weight = torch.tensor(weight, dtype=torch.float32)
    near = {"abs": 1e-12, "nan_ok": True}
    assert float(auc(*one[:2], weight)) == pytest.approx(float(auc(*many[:2])), **near)
    assert float(grouped_auc(*one, weight)) == pytest.approx(float(grouped_auc(*many)), **near)
    for weighted, repeated, parts in (
        (AUC(weighted=True), AUC(), 2),
        (GroupedAUC(weighted=True), GroupedAUC(), 3),
        (LogLoss(), LogLoss(), 2),
    ):
        for rows_of_batch in torch.arange(len(score)).chunk(2):
            weighted.update(*(part[rows_of_batch] for part in one[:parts]), weight[rows_of_batch])
        repeated.update(*many[:parts])
        assert float(weighted.compute()) == pytest.approx(float(repeated.compute()), **near)


def test_groups_of_one_class_do_not_count_whatever_their_weights():
    rng = np.random.default_rng(0)
    group, label = rng.integers(0, 15_000, 20_000), rng.integers(0, 2, 20_000)
    score, weight = rng.normal(size=20_000).astype(np.float32), rng.lognormal(0, 3, 20_000)
    rows = pl.DataFrame({"group": group, "label": label, "score": score, "weight": weight})
    areas = [
        (roc_auc_score(part["label"], part["score"], sample_weight=part["weight"]), part["weight"].sum())
        for part in rows.partition_by("group")
        if part["label"].n_unique() == 2
    ]
    tensors = [torch.from_numpy(part) for part in (score, label, group, weight)]
    area, _, _ = auc_by_group(*tensors)
    assert int((~area.isnan()).sum()) == len(areas)
    values, weights = zip(*areas, strict=True)
    assert float(grouped_auc(*tensors)) == pytest.approx(np.average(values, weights=weights), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_that_is_nan_gives_no_auc(dtype):
    score, label = torch.tensor([0.1, 0.2, torch.nan, torch.nan], dtype=dtype), torch.tensor([0, 0, 1, 1])
    assert auc(score, label).isnan()
    assert grouped_auc(score, label, torch.tensor([0, 1, 0, 1])).isnan()


def bins_of(score, label, weight=None):
    counts = torch.zeros(2, BINS, dtype=torch.int64 if weight is None else torch.float64)
    add_to_bins(counts, score, label, weight)
    return counts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [1e-30, 1e-4, 2.0, 1e30])
def test_the_auc_of_bins_is_as_near_to_the_exact_one_as_it_says(spread, weighted):
    """A spread of 1e-4 around 1: nearly all rows are in a few bins."""
    normal = torch.randn(20_000)
    score = normal * spread + (spread == 1e-4)
    label = (torch.rand(20_000) < torch.sigmoid(normal)).float()
    weight = torch.rand(20_000) if weighted else None
    negative, positive = counts = bins_of(score, label, weight)
    bound = float((negative * positive).sum() / (2 * negative.sum() * positive.sum()))
    error = abs(float(auc_of_bins(counts)) - float(auc(score, label, weight)))
    assert error <= bound + 1e-15
    if spread == 1e-4:
        assert 0.01 < error < bound < 0.2
    else:
        assert error < 1e-6 < bound < 1e-4


def test_the_auc_of_bins_is_exact_if_different_scores_are_in_different_bins():
    score = torch.tensor([-torch.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 0.5, 0.5001, torch.inf])
    label = torch.tensor([0.0, 1, 0, 1, 0, 1, 1, 0, 0, 1])
    assert float(auc_of_bins(bins_of(score, label))) == float(auc(score, label))
    assert torch.isnan(auc_of_bins(bins_of(score, torch.zeros(10))))


@pytest.mark.parametrize("weighted", [False, True])
def test_above_a_number_of_rows_auc_keeps_bins_in_place_of_rows(weighted):
    score, label, weight = torch.randn(3000), torch.randint(0, 2, (3000,)).float(), torch.rand(3000)
    columns = (score, label, weight) if weighted else (score, label)
    exact, binned = AUC(weighted, exact_rows=3000), AUC(weighted, exact_rows=2999)
    for _ in range(2):
        for rows_of_batch in torch.arange(3000).split(700):
            for metric in (exact, binned):
                metric.update(*(column[rows_of_batch] for column in columns))
        assert torch.equal(exact.compute(), auc(*columns))
        assert float(binned.compute()) == pytest.approx(float(auc_of_bins(bins_of(*columns))), abs=1e-14)
        assert not binned.score
        exact.reset()
        binned.reset()
        assert not binned.bins


def measure(rank, folder, score, label):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    values = []
    for exact_rows in (101, 100, 10):
        metric = AUC(exact_rows=exact_rows)
        metric.update(score[rank::2], label[rank::2])
        kept = bool(metric.score)
        values.append((kept, float(metric.compute())))
    torch.save(values, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_ranks_sum_their_bins_also_if_one_has_a_row_more(tmp_path):
    score, label = torch.randn(101), torch.randint(0, 2, (101,)).float()
    ranks = [WARM.Process(target=measure, args=(rank, tmp_path, score, label)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for number, rank in enumerate(ranks):
        rank.join(60)
        rank.kill()
        values = torch.load(tmp_path / f"{number}.pt")
        assert [kept for kept, _ in values] == [number == 1, number == 1, False]
        binned = float(auc_of_bins(bins_of(score, label)))
        assert [value for _, value in values] == [binned, binned, binned]


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_bins_have_the_logits_labels_and_weights_of_the_rows(weighted):
    """Above a number of rows, a calibration is fitted on them: it differs in the fourth digit."""
    generator = torch.Generator().manual_seed(2)
    logit = 4 * torch.randn(3000, generator=generator)
    label = (torch.rand(3000, generator=generator) < torch.sigmoid(logit / 2)).float()
    columns = [logit, label, *([torch.rand(3000, generator=generator)] if weighted else [])]
    exact, binned = (LogitRows(weighted, exact_rows) for exact_rows in (3000, 2999))
    for metric in (exact, binned):
        metric.update(*(column[:2000] for column in columns))
        metric.update(*(column[2000:] for column in columns))
    rows, stand_ins = exact.compute(), binned.compute()
    assert stand_ins.pop("rows") == 3000
    names = ["logit_B", "label_B", "weight_B"][: len(columns)]
    assert [torch.equal(rows[name], column) for name, column in zip(names, columns, strict=True)] == [True] * len(names)
    weight = rows.get("weight_B", torch.ones(3000)).double()
    assert float(stand_ins["weight_B"].sum()) == pytest.approx(float(weight.sum()))
    for moment in (lambda z, y: y, lambda z, y: z, lambda z, y: z * y, lambda z, y: torch.sigmoid(z)):
        expected = (weight * moment(logit, label)).sum() / weight.sum()
        found = (stand_ins["weight_B"] * moment(stand_ins["logit_B"], stand_ins["label_B"])).sum() / weight.sum()
        assert float(found) == pytest.approx(float(expected), abs=2e-4)
    nearest = (logit[:, None] - stand_ins["logit_B"]).abs().min(1).values
    assert (nearest <= logit.abs() / 8192).all()
