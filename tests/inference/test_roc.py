import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve, roc_curve

from tf4ctr.inference.evaluation import Scores
from tf4ctr.inference.roc import draw_roc, operating_points


def draw(rows=300):
    random = np.random.default_rng(4)
    logit = torch.from_numpy(random.normal(size=rows)).round(decimals=1)  # ties
    label = (torch.from_numpy(random.random(rows)) < torch.sigmoid(logit)).float()
    return logit, label, torch.from_numpy(random.integers(1, 4, rows))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_points_are_those_of_scikit_learn(weighted):
    logit, label, weight = draw()
    weight = weight if weighted else None
    points = operating_points(logit, label, weight)
    false_positive, true_positive, _ = roc_curve(label, logit, sample_weight=weight, drop_intermediate=False)
    np.testing.assert_allclose(points.false_positive_rate, false_positive[1:], atol=1e-12)
    np.testing.assert_allclose(points.recall, true_positive[1:], atol=1e-12)
    precision, recall, _ = precision_recall_curve(label, logit, sample_weight=weight)
    np.testing.assert_allclose(points.precision, precision[-2::-1], atol=1e-12)
    np.testing.assert_allclose(points.recall, recall[-2::-1], atol=1e-12)


@pytest.mark.parametrize("labels", ["both", "one class"])
def test_the_curves_of_all_heads_are_drawn(tmp_path, labels):
    logit, label, weight = draw()
    label = label if labels == "both" else torch.zeros(300)
    draw_roc(Scores({"fused": logit, "simple": -logit}, label, None, torch.empty(0), weight=weight), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
