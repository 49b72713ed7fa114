"""AUC, gAUC and logloss for torchmetrics: exact, by one sort on the device, over all ranks.

Only the AUC of more than `EXACT_ROWS` rows is counted in bins.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

# rows whose AUC is exact: a head's scores and labels are 160 MB then, and sorting takes some GB
EXACT_ROWS = 20_000_000
# bins of the logit: its sign, its exponent and 13 bits of its mantissa
BINS = 2**22


def auc(score_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Area under the ROC curve, exact, ties counted half (scikit-learn's `roc_auc_score`).

    Args:
        score_B: any monotone score, [B].
        label_B: 0 or 1, [B].
        weight_B: of the rows, at least 0, [B]; None for equal ones.

    Returns:
        float64 scalar; NaN if one class is missing, or a score is NaN.
    """
    area, _, _ = auc_by_group(score_B, label_B, weight_B=weight_B)
    return area.mean()  # of the one group; NaN if there are no rows


def grouped_auc(score_B: Tensor, label_B: Tensor, group_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """gAUC: the mean of the groups' AUCs, weighted by their rows (or their rows' weights).

    Groups of one class do not count.

    Args:
        score_B: any monotone score, [B], taken as float32.
        label_B: 0 or 1, [B].
        group_B: integers from 0 to 2**31 - 1, [B].
        weight_B: of the rows, at least 0, [B]; None for equal ones.

    Returns:
        float64 scalar; NaN if no group has both classes, or a score is NaN.
    """
    area, _, rows = auc_by_group(score_B.float(), label_B, group_B, weight_B)
    both = ~area.isnan()
    return (area[both] * rows[both]).sum() / rows[both].sum()


def auc_by_group(
    score_B: Tensor, label_B: Tensor, group_B: Tensor | None = None, weight_B: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The AUC of each group, exact, ties counted half.

    It is the share of the pairs of a positive and a negative row that are in the right order. With
    weights a pair counts the product of its rows' weights, and rows count their weights.

    Args:
        score_B: any monotone score, [B]; float32 needs one sort, other types need two.
        label_B: 0 or 1, [B].
        group_B: integers from 0 to 2**31 - 1, [B]; None if all rows are one group.
        weight_B: at least 0, [B]; None for equal weights, which are counted in integers.

    Returns:
        AUC (float64, NaN if the group has one class, or any score is NaN), positives and rows
        (int64, with weights float64) of each group that has rows, [G] each, by ascending group.
    """
    has_nan = score_B.isnan().any()
    order = _order(score_B, group_B)
    score_B, label_B = score_B[order], label_B[order]
    group_B = torch.zeros_like(order) if group_B is None else group_B[order]
    new_group = torch.ones_like(group_B, dtype=torch.bool)
    new_group[1:] = group_B[1:] != group_B[:-1]
    new_tie = new_group.clone()
    new_tie[1:] |= score_B[1:] != score_B[:-1]
    count_B = torch.ones_like(order) if weight_B is None else weight_B[order].double()
    positive_B = label_B.to(count_B.dtype) * count_B
    # [B + 1]: positives, and negatives, among the first i rows. Each has its own sum: with weights,
    # rows minus positives would not be exactly 0 in a group without negatives
    positives_before = F.pad(positive_B.cumsum(0), (1, 0))
    negatives_before = F.pad((count_B - positive_B).cumsum(0), (1, 0))
    rows = torch.tensor([len(label_B)], device=label_B.device)

    tie_start = new_tie.nonzero().squeeze(1)
    tie_end = torch.cat([tie_start[1:], rows])
    group_start = new_group.nonzero().squeeze(1)
    group_end = torch.cat([group_start[1:], rows])
    group_of_tie = new_group.long().cumsum(0)[tie_start] - 1

    tie_positives = positives_before[tie_end] - positives_before[tie_start]
    tie_negatives = negatives_before[tie_end] - negatives_before[tie_start]
    negative_before = negatives_before[tie_start] - negatives_before[group_start][group_of_tie]
    # twice the number of (positive, negative) pairs in the right order; a tie counts one
    pairs = torch.zeros_like(group_start, dtype=count_B.dtype).index_add_(
        0, group_of_tie, tie_positives * (2 * negative_before + tie_negatives)
    )

    positives = positives_before[group_end] - positives_before[group_start]
    negatives = negatives_before[group_end] - negatives_before[group_start]
    area = pairs.double() / (2 * positives * negatives).double()
    return area.masked_fill(has_nan, torch.nan), positives, positives + negatives


def _order(score_B: Tensor, group_B: Tensor | None) -> Tensor:
    """The order of the rows by (group, score)."""
    if group_B is None:
        return torch.argsort(score_B)
    if score_B.dtype != torch.float32:
        by_score = torch.argsort(score_B)
        return by_score[torch.argsort(group_B[by_score], stable=True)]
    # one sort: the group is the high half of an int64, the score is the low half
    return torch.argsort(group_B.long() * 2**32 + _ordered_bits(score_B))


def _ordered_bits(score_B: Tensor) -> Tensor:
    """Integers from -2**31 to 2**31 - 1 that order as float32 scores do, int64 [B].

    The bits of negative floats run backwards. Adding 0.0 turns -0.0 into 0.0.
    """
    bits = (score_B + 0.0).view(torch.int32).long()
    return torch.where(bits < 0, -(2**31) - bits - 1, bits)


def add_to_bins(counts_2N: Tensor, score_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> None:
    """Count rows into bins of their score, in place.

    A bin's scores differ by at most 1/8192 of the larger one.

    Args:
        counts_2N: negative and positive rows by ascending bin, N = `BINS`; int64, with weights
            float64.
        score_B: float32 [B].
        label_B: 0 or 1, [B].
        weight_B: of the rows, at least 0, [B]; None for equal ones.
    """
    bin_B = (_ordered_bits(score_B) + 2**31) // (2**32 // BINS)
    count_B = torch.ones_like(bin_B) if weight_B is None else weight_B.double()
    counts_2N.view(-1).index_add_(0, label_B.long() * BINS + bin_B, count_B)


def auc_of_bins(counts_2N: Tensor) -> Tensor:
    """The AUC if the rows of each bin were tied.

    Only pairs within a bin can count wrongly, each by a half. With P_b positive and N_b negative
    rows in bin b, and P and N in all, it differs from the exact AUC by at most

        sum over b of P_b N_b / (2 P N)

    Args:
        counts_2N: as `add_to_bins` counts them.

    Returns:
        float64 scalar; NaN if one class is missing.
    """
    negative_N, positive_N = counts_2N
    negative_before_N = negative_N.cumsum(0) - negative_N
    pairs = (positive_N * (2 * negative_before_N + negative_N)).sum()
    return pairs.double() / (2 * positive_N.sum() * negative_N.sum()).double()


def rows_of_bins(counts_2N: Tensor) -> dict[str, Tensor]:
    """Rows that stand for those of each bin: its middle, with the number of its rows as weight.

    Args:
        counts_2N: as `add_to_bins` counts them.

    Returns:
        `logit_B` (float32), `label_B` and `weight_B` of at most 2 N rows.
    """
    label_B, bin_B = counts_2N.nonzero(as_tuple=True)
    width = 2**32 // BINS
    bits_B = bin_B * width + width // 2 - 2**31
    logit_B = torch.where(bits_B < 0, -(2**31) - bits_B - 1, bits_B).int().view(torch.float32)
    return {"logit_B": logit_B, "label_B": label_B.float(), "weight_B": counts_2N[label_B, bin_B]}


class RowMetric(Metric):
    """A metric that needs all rows at once: they are kept, and joined over batches and ranks.

    Args:
        *columns: what is kept of a row, in the order of `update`.
        **options: of torchmetrics' `Metric`.
    """

    full_state_update = False

    def __init__(self, *columns: str, **options: Any) -> None:
        super().__init__(**options)
        self.columns = columns
        for name in columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, *parts_B: Tensor) -> None:
        """Add the rows of a batch, [B] each."""
        for name, part_B in zip(self.columns, parts_B, strict=True):
            getattr(self, name).append(part_B)

    def rows(self) -> dict[str, Tensor]:
        """All rows by column."""
        return {f"{name}_B": dim_zero_cat(getattr(self, name)) for name in self.columns}


class AUC(RowMetric):
    """`auc` over all batches and ranks; `weighted` rows have a weight.

    It is exact up to `exact_rows` rows. With more rows it is `auc_of_bins`, whose memory does not
    grow with the rows: 64 MB. Real logits lie in tens of thousands of bins, so the error is far
    below 1e-5.

    Args:
        weighted: whether `update` gets a weight.
        exact_rows: the most rows, of all ranks together, whose scores are kept.
    """

    bins: list[Tensor]

    def __init__(self, weighted: bool = False, exact_rows: int = EXACT_ROWS) -> None:
        super().__init__("score", "label", *(["weight"] if weighted else []), dist_sync_fn=_sum_or_gather)
        self.dtype_of_counts = torch.float64 if weighted else torch.int64
        self.exact_rows, self.kept_rows = exact_rows, 0
        self.add_state("bins", default=[], dist_reduce_fx=None)  # empty, or one tensor counts_2N

    def update(self, logit_B: Tensor, label_B: Tensor, *weight_B: Tensor) -> None:  # type: ignore[override]
        super().update(logit_B.detach().float(), label_B, *weight_B)
        self.kept_rows += len(label_B)
        ranks = distributed.get_world_size() if distributed.is_initialized() else 1
        if self.bins or self.kept_rows * ranks > self.exact_rows:
            self._move_to_bins()

    def _move_to_bins(self) -> None:
        """Count the rows that are kept, and forget them."""
        if not self.bins:
            self.bins = [torch.zeros(2, BINS, dtype=self.dtype_of_counts, device=self.device)]
        for parts_B in zip(*(getattr(self, name) for name in self.columns), strict=True):
            add_to_bins(self.bins[0], *parts_B)
        for name in self.columns:
            setattr(self, name, [])

    def sync(self, *args: Any, **options: Any) -> None:
        """Join the ranks: all count in bins if one does, as another may have one row less."""
        if distributed.is_initialized():
            in_bins = torch.tensor(float(bool(self.bins)), device=self.device)
            distributed.all_reduce(in_bins, distributed.ReduceOp.MAX)
            if in_bins:
                self._move_to_bins()
        super().sync(*args, **options)

    def reset(self) -> None:
        super().reset()
        self.kept_rows = 0

    def compute(self) -> Tensor:
        return auc_of_bins(self.bins[0]) if self.bins else auc(**self.rows())


class LogitRows(AUC):
    """The rows of all batches and ranks: what a calibration is fitted on.

    With more than `exact_rows` rows they are those of `rows_of_bins`, so memory does not grow.
    """

    counted: Tensor

    def __init__(self, weighted: bool = False, exact_rows: int = EXACT_ROWS) -> None:
        super().__init__(weighted, exact_rows)
        self.add_state("counted", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logit_B: Tensor, label_B: Tensor, *weight_B: Tensor) -> None:  # type: ignore[override]
        super().update(logit_B, label_B, *weight_B)
        self.counted += (weight_B[0] > 0).sum() if weight_B else len(label_B)

    def compute(self) -> dict[str, Any]:  # type: ignore[override]
        """`logit_B`, `label_B` and, if the rows have one, `weight_B`.

        A row of a bin stands for several. Then there is also `rows`, the number of all rows (with
        weights, of those that have one).
        """
        if self.bins:
            return {**rows_of_bins(self.bins[0]), "rows": int(self.counted)}
        rows = self.rows()
        return {"logit_B": rows.pop("score_B"), **rows}


def _sum_or_gather(part: Tensor, group: Any = None) -> list[Tensor]:
    """Sum counts [2, N] over the ranks; gather all ranks' rows [B]."""
    if part.ndim == 1:
        return gather_all_tensors(part, group)
    total = part.clone()
    distributed.all_reduce(total, group=group)
    return [total]


class GroupedAUC(RowMetric):
    """`grouped_auc` over all batches and ranks; `weighted` rows have a weight.

    It is exact for any number of rows, so its memory grows with them: 16 bytes a row on every rank
    (20 with weights), and several times that while they are sorted. Bins would need a histogram
    for each group. With too many rows for this, use `dataset.group=null`.
    """

    def __init__(self, weighted: bool = False) -> None:
        super().__init__("score", "label", "group", *(["weight"] if weighted else []))

    def update(  # type: ignore[override]
        self, logit_B: Tensor, label_B: Tensor, group_B: Tensor, *weight_B: Tensor
    ) -> None:
        super().update(logit_B.detach().float(), label_B, group_B, *weight_B)

    def compute(self) -> Tensor:
        return grouped_auc(**self.rows())


class LogLoss(Metric):
    """Mean binary cross entropy of logits in float64 (scikit-learn's `log_loss` of sigmoids).

    With weights it is the weighted mean; batches with and without weights can be mixed.
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "rows"):  # rows are counted exactly up to 2**53
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> None:
        weight_B = None if weight_B is None else weight_B.double()
        logit_B, label_B = logit_B.detach().double(), label_B.double()
        self.total += F.binary_cross_entropy_with_logits(logit_B, label_B, weight_B, reduction="sum")
        self.rows += len(label_B) if weight_B is None else weight_B.sum()

    def compute(self) -> Tensor:
        return self.total / self.rows
