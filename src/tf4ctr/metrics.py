"""AUC, gAUC and logloss for torchmetrics: exact, by one sort on the device, over all ranks."""

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
        float64 scalar; NaN if one class is missing.
    """
    area, _, _ = auc_by_group(score_B, label_B)
    return area.mean()  # of the one group; NaN if there are no rows


def grouped_auc(score_B: Tensor, label_B: Tensor, group_B: Tensor) -> Tensor:
    """gAUC: the mean of the groups' AUCs, weighted by their rows; groups of one class do not count.

    Args:
        score_B: any monotone score, [B], taken as float32.
        label_B: 0 or 1, [B].
        group_B: integers from 0 to 2**31 - 1, [B].

    Returns:
        float64 scalar; NaN if no group has both classes.
    """
    area, positives, rows = auc_by_group(score_B.float(), label_B, group_B)
    both = (positives > 0) & (positives < rows)
    return (area[both] * rows[both]).sum() / rows[both].sum()


def auc_by_group(score_B: Tensor, label_B: Tensor, group_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The AUC of each group, exact, ties counted half.

    Args:
        score_B: any monotone score, [B]; float32 needs one sort, other types need two.
        label_B: 0 or 1, [B].
        group_B: integers from 0 to 2**31 - 1, [B]; None if all rows are one group.

    Returns:
        AUC (float64, NaN if the group has one class), positives and rows (int64) of each group that
        has rows, [G] each, by ascending group.
    """
    order = _order(score_B, group_B)
    score_B, label_B = score_B[order], label_B[order]
    group_B = torch.zeros_like(order) if group_B is None else group_B[order]
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
    # twice the number of (positive, negative) pairs in the right order; a tie counts one
    pairs = torch.zeros_like(group_start).index_add_(
        0, group_of_tie, tie_positives * (2 * negative_before + tie_negatives)
    )

    positives = positive_before[group_end] - positive_before[group_start]
    negatives = group_end - group_start - positives
    return pairs.double() / (2 * positives * negatives).double(), positives, group_end - group_start


def _order(score_B: Tensor, group_B: Tensor | None) -> Tensor:
    """The order of the rows by (group, score)."""
    if group_B is None:
        return torch.argsort(score_B)
    if score_B.dtype != torch.float32:
        by_score = torch.argsort(score_B)
        return by_score[torch.argsort(group_B[by_score], stable=True)]
    # One sort: the group is the high half of an int64. The low half is the score's bits, changed so
    # that they order as the floats do: the bits of negative floats run backwards. Adding 0.0 turns
    # -0.0 into 0.0.
    bits = (score_B + 0.0).view(torch.int32).long()
    bits = torch.where(bits < 0, -(2**31) - bits - 1, bits)
    return torch.argsort(group_B.long() * 2**32 + bits)


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
    """Mean binary cross entropy of logits in float64 (scikit-learn's `log_loss` of sigmoids)."""

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
