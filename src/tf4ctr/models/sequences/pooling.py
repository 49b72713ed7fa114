"""The sum, the mean or the largest numbers of a history.

Covington et al. (Deep Neural Networks for YouTube Recommendations, RecSys 2016) compare the three,
and use the mean.

Shapes: B batch, L positions, E features of a position.
"""

import torch
from torch import Tensor, nn


class SumPooling(nn.Module):
    """sum_l h_l over the known positions; 0 for an empty history.

    Args:
        features: E.
        width: L.
        has_target: whether there is a target. None of the three is used.
    """

    needs_target = False

    def __init__(self, features: int, width: int, has_target: bool) -> None:
        super().__init__()

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L] -> [B, E]"""
        # on a CPU, this product takes half the time of a mask and a sum
        return torch.bmm(known_BL.to(history_BLE.dtype).unsqueeze(1), history_BLE).squeeze(1)


class MeanPooling(SumPooling):
    """(1 / n) sum_l h_l over the n known positions; 0 for an empty history.

    Args:
        features, width, has_target: see `SumPooling`.
    """

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L] -> [B, E]"""
        count_B1 = known_BL.sum(1, keepdim=True).clamp_min(1)
        return super().forward(history_BLE, known_BL, target_BE) / count_B1


class MaxPooling(nn.Module):
    """max_l h_l over the known positions, elementwise; 0 for an empty history.

    Of several positions with the largest number, one has the gradient.

    Args:
        features, width, has_target: see `SumPooling`.
    """

    needs_target = False

    def __init__(self, features: int, width: int, has_target: bool) -> None:
        super().__init__()

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L] -> [B, E]"""
        # a sum with -inf at padding is faster than masked_fill, above all its gradient
        padding_BL = torch.zeros_like(known_BL, dtype=history_BLE.dtype).masked_fill(~known_BL, -torch.inf)
        largest_BE = (history_BLE + padding_BL.unsqueeze(2)).max(1).values
        return largest_BE.masked_fill(~known_BL.any(1, keepdim=True), 0)
