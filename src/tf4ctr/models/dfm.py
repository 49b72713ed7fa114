"""Dynamic fusion module: from the two encoders' outputs to one logit a head and the fused one (TF4CTR, section on DFM).

Every one maps (h_s [B, a], h_c [B, b]) to `Logits`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Logits(NamedTuple):
    """Logits [B] each: `fused` is the prediction, `simple` and `complex` are the heads that the TF Loss trains."""

    fused: Tensor
    simple: Tensor
    complex: Tensor


def head(features: int) -> nn.Module:
    """A linear head [B, features] -> [B, 1]."""
    return nn.Linear(features, 1)


class Sum(nn.Module):
    """z = z_s + z_c. With a shared table and a plain loss this is the bare backbone.

    An encoder that yields one number already yields a logit (FM, linear) and is added as it is: DeepFM is y_linear + y_FM + y_deep.
    """

    def __init__(self, simple_features: int, complex_features: int) -> None:
        super().__init__()
        self.simple = nn.Identity() if simple_features == 1 else head(simple_features)
        self.complex = nn.Identity() if complex_features == 1 else head(complex_features)

    def forward(self, simple_BH: Tensor, complex_BH: Tensor) -> Logits:
        simple_B, complex_B = self.simple(simple_BH).squeeze(1), self.complex(complex_BH).squeeze(1)
        return Logits(simple_B + complex_B, simple_B, complex_B)


class WeightedSum(nn.Module):
    """WSF: z = w_1 z_s + w_2 z_c, w learned, from (0.5, 0.5) on. Every head is linear, as in the published runs."""

    def __init__(self, simple_features: int, complex_features: int) -> None:
        super().__init__()
        self.simple, self.complex = head(simple_features), head(complex_features)
        self.weight = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, simple_BH: Tensor, complex_BH: Tensor) -> Logits:
        simple_B, complex_B = self.simple(simple_BH).squeeze(1), self.complex(complex_BH).squeeze(1)
        return Logits(self.weight[0] * simple_B + self.weight[1] * complex_B, simple_B, complex_B)
