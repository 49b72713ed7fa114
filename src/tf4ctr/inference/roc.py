"""The ROC curve and the precision-recall curve of every head of a split."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tf4ctr.inference.evaluation import Scores
from tf4ctr.training.head_colours import head_colours

DRAWN_POINTS = 500  # of a curve at most: more do not change its line visibly


class OperatingPoints(NamedTuple):
    """What happens if the rows from a score on are called clicks; one point per score.

    The highest score is first.

    Attributes:
        recall: share of the clicks that are called so (the true positive rate), float64 [P].
        false_positive_rate: share of the other rows that are called clicks, [P].
        precision: share of clicks among the rows that are called so, [P].
    """

    recall: Tensor
    false_positive_rate: Tensor
    precision: Tensor


def operating_points(logit_N: Tensor, label_N: Tensor, weight_N: Tensor | None = None) -> OperatingPoints:
    """The points of scikit-learn's `roc_curve` and `precision_recall_curve`, from one sort.

    Args:
        logit_N: any monotone score, [N].
        label_N: 0 or 1, [N], of both classes.
        weight_N: of the rows, [N]; None for equal ones.
    """
    order = torch.argsort(logit_N, descending=True)
    logit_N, label_N = logit_N[order], label_N[order].double()
    weight_N = torch.ones_like(label_N) if weight_N is None else weight_N[order].double()
    last_P = torch.nonzero(torch.diff(logit_N, append=logit_N.new_tensor([torch.nan])) != 0).squeeze(1)  # of each tie
    positive_P, rows_P = (weight_N * label_N).cumsum(0)[last_P], weight_N.cumsum(0)[last_P]
    negative_P = rows_P - positive_P
    return OperatingPoints(positive_P / positive_P[-1], negative_P / negative_P[-1], positive_P / rows_P)


def draw_roc(scores: Scores, path: Path) -> None:
    """Draw both curves of every head: ROC on the left, precision against recall on the right.

    The grey lines are those of a score without information.
    """
    from matplotlib.figure import Figure  # importing it takes most of a second

    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    roc, precision = figure.subplots(1, 2)
    colours = head_colours(scores.logits)
    for name, logit_N in scores.logits.items():
        points = operating_points(logit_N, scores.label, scores.weight)
        click_rate = float(points.precision[-1])
        along = _evenly(points.recall + points.false_positive_rate)  # both axes of the ROC curve
        roc.plot(
            *(np.concatenate([[0.0], values[along]]) for values in (points.false_positive_rate, points.recall)),
            label=name,
            color=colours[name],
        )
        along = _evenly(points.recall)
        precision.plot(points.recall[along], points.precision[along], color=colours[name])
    roc.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    precision.axhline(click_rate, color="0.7", linewidth=1, zorder=0)
    precision.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.02))
    for axis in (roc, precision):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(8, len(scores.logits)))
    figure.savefig(path, dpi=120)


def _evenly(position_P: Tensor) -> Tensor:
    """The places of at most 500 points, evenly along an ascending coordinate; the last is kept."""
    steps = torch.linspace(float(position_P[0]), float(position_P[-1]), DRAWN_POINTS, dtype=position_P.dtype)
    places = torch.searchsorted(position_P, steps).clamp(max=len(position_P) - 1)
    return torch.unique(places)
