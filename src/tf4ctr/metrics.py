"""AUC, logloss and grouped AUC in torchmetrics form: exact, computed by one sort on the device, synchronised over ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def auc(score_B: Tensor, label_B: Tensor) -> Tensor:
    """Area under the ROC curve, exact, ties counted half (scikit-learn's `roc_auc_score`).

    Args:
        score_B: any monotone score, [B].
        label_B: 0 or 1, [B].

    Returns:
        float64 scalar; NaN where one class is missing.
    """
    order = torch.argsort(score_B)
    area, _, _ = _areas(score_B[order], torch.zeros_like(order), label_B[order])
    return area[0] if len(area) else torch.tensor(torch.nan, dtype=torch.float64, device=score_B.device)


def grouped_auc(score_B: Tensor, label_B: Tensor, group_B: Tensor) -> Tensor:
    """gAUC: the mean of the groups' AUCs, weighted by their rows; a group of one class does not count.

    Args:
        score_B: any monotone score, [B], taken as float32.
        label_B: 0 or 1, [B].
        group_B: whole numbers from 0 to 2**31 - 1, [B].

    Returns:
        float64 scalar; NaN where no group has both classes.
    """
    if len(score_B) == 0:
        return torch.tensor(torch.nan, dtype=torch.float64, device=score_B.device)
    # One sort by (group, score): the group in the high half of an int64, below it the score's bits, turned so that they
    # order as the floats do (a negative float's bits run backwards). Adding 0.0 makes -0.0 and 0.0 the same number.
    bits = (score_B.float() + 0.0).view(torch.int32).long()
    bits = torch.where(bits < 0, -(2**31) - bits - 1, bits)
    order = torch.argsort(group_B * 2**32 + bits)
    area, positives, rows = _areas(score_B[order].float(), group_B[order], label_B[order])
    both = (positives > 0) & (positives < rows)
    return (area[both] * rows[both]).sum() / rows[both].sum()


def _areas(score_B: Tensor, group_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AUC, positives and rows of each group, [G] each, from rows sorted by (group, score). Counts are int64, so nothing is lost."""
    new_group = torch.ones_like(group_B, dtype=torch.bool)
    new_group[1:] = group_B[1:] != group_B[:-1]
    new_tie = new_group.clone()
    new_tie[1:] |= score_B[1:] != score_B[:-1]
    positive_before = F.pad(label_B.long().cumsum(0), (1, 0))  # [B + 1]: positives among the first i rows
    rows = torch.tensor([len(label_B)], device=label_B.device)

    tie_start = new_tie.nonzero().squeeze(1)
    tie_end = torch.cat([tie_start[1:], rows])
    group_start = new_group.nonzero().squeeze(1)
    group_end = torch.cat([group_start[1:], rows])
    group_of_tie = new_group.long().cumsum(0)[tie_start] - 1

    tie_positives = positive_before[tie_end] - positive_before[tie_start]
    tie_negatives = tie_end - tie_start - tie_positives
    negative_before = (tie_start - positive_before[tie_start]) - (group_start - positive_before[group_start])[
        group_of_tie
    ]
    # twice the number of (positive, negative) pairs in the right order, a tie counting one
    pairs = torch.zeros_like(group_start).index_add_(
        0, group_of_tie, tie_positives * (2 * negative_before + tie_negatives)
    )

    positives = positive_before[group_end] - positive_before[group_start]
    negatives = group_end - group_start - positives
    return pairs.double() / (2 * positives * negatives).double(), positives, group_end - group_start


class AUC(Metric):
    """`auc` over all batches and ranks."""

    full_state_update = False
    score: list[Tensor]
    label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", default=[], dist_reduce_fx="cat")
        self.add_state("label", default=[], dist_reduce_fx="cat")

    def update(self, logit_B: Tensor, label_B: Tensor) -> None:
        self.score.append(logit_B.detach().float())
        self.label.append(label_B)

    def compute(self) -> Tensor:
        return auc(dim_zero_cat(self.score), dim_zero_cat(self.label))


class GroupedAUC(Metric):
    """`grouped_auc` over all batches and ranks."""

    full_state_update = False
    score: list[Tensor]
    label: list[Tensor]
    group: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", default=[], dist_reduce_fx="cat")
        self.add_state("label", default=[], dist_reduce_fx="cat")
        self.add_state("group", default=[], dist_reduce_fx="cat")

    def update(self, logit_B: Tensor, label_B: Tensor, group_B: Tensor) -> None:
        self.score.append(logit_B.detach().float())
        self.label.append(label_B)
        self.group.append(group_B)

    def compute(self) -> Tensor:
        return grouped_auc(dim_zero_cat(self.score), dim_zero_cat(self.label), dim_zero_cat(self.group))


class LogLoss(Metric):
    """Mean binary cross entropy from logits (scikit-learn's `log_loss` of their sigmoid), summed in float64."""

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logit_B: Tensor, label_B: Tensor) -> None:
        self.total += F.binary_cross_entropy_with_logits(logit_B.detach().double(), label_B.double(), reduction="sum")
        self.rows += len(label_B)

    def compute(self) -> Tensor:
        return self.total / self.rows
