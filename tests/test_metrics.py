import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tf4ctr.metrics import AUC, GroupedAUC, LogLoss, auc, grouped_auc


def sklearn_gauc(score, label, group):
    """The definition, group by group."""
    total = weight = 0.0
    for value in np.unique(group):
        rows = group == value
        if len(set(label[rows])) == 2:
            total += rows.sum() * roc_auc_score(label[rows], score[rows])
            weight += rows.sum()
    return total / weight if weight else float("nan")


# few distinct scores and groups: many ties, one-class groups and single rows
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
