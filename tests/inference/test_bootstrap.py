import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tf4ctr.inference.bootstrap import Ranking, bootstrap, mean
from tf4ctr.metrics import grouped_auc


def draw(rows=80):
    random = np.random.default_rng(3)
    score = random.normal(size=rows).round(1).astype(np.float32)  # ties
    return score, random.integers(0, 2, rows), random.integers(0, 6, rows), random.random(rows)


def by_hand(score, label, group, times):
    """AUC, and gAUC, with each row repeated."""
    rows = np.repeat(np.arange(len(score)), times)
    parts = (torch.from_numpy(part[rows]) for part in (score, label, group))
    return roc_auc_score(label[rows], score[rows]), float(grouped_auc(*parts))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_resamples_equal_repeated_rows(weighted):
    score, label, group, loss = draw()
    weight = np.random.default_rng(8).integers(0, 3, 80) if weighted else None
    measures = {
        "auc": Ranking(score, label).auc,
        "gauc": Ranking(score, label, group).auc,
        "logloss": mean(loss),
    }
    samples = bootstrap(measures, 80, 20, 5, weight)
    random = np.random.default_rng(5)
    for number in range(20):
        times = random.poisson(1.0, 80) * (1 if weight is None else weight)
        auc, gauc = by_hand(score, label, group, times)
        assert samples["auc"][number] == pytest.approx(auc, abs=1e-12)
        assert samples["gauc"][number] == pytest.approx(gauc, abs=1e-12)
        assert samples["logloss"][number] == pytest.approx(np.average(loss, weights=times))


def test_groups_of_one_class_do_not_count_and_without_others_there_is_no_auc():
    score, label = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 1, 1])
    ranking = Ranking(score, label, np.array([7, 7, 9, 9]))
    assert ranking.auc(np.ones(4)) == 1.0
    assert math.isnan(ranking.auc(np.array([1.0, 0.0, 1.0, 1.0])))


def test_a_score_that_is_nan_has_no_auc():
    score, label = np.array([1.0, math.nan, 3.0, 4.0]), np.array([0, 1, 0, 1])
    for group in (None, np.array([7, 7, 9, 9])):
        assert math.isnan(Ranking(score, label, group).auc(np.ones(4)))
