"""Dynamic fusion module: from the two encoders' outputs to one logit a head and the fused one (TF4CTR, section on DFM).

Every one maps (h_s [B, a], h_c [B, b]) to `Logits`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tf4ctr.errors import InputError


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


class Voting(nn.Module):
    """VF: z = <w, [z_s, z_c]>, w = Gumbel softmax of [v_s(h_s), v_c(h_c)] at a temperature; without the noise in evaluation."""

    def __init__(self, simple_features: int, complex_features: int, temperature: float = 0.8) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"dfm.temperature is {temperature}: it must be positive")
        self.simple, self.complex = head(simple_features), head(complex_features)
        self.simple_vote, self.complex_vote = head(simple_features), head(complex_features)
        self.temperature = temperature

    def forward(self, simple_BH: Tensor, complex_BH: Tensor) -> Logits:
        simple_B, complex_B = self.simple(simple_BH).squeeze(1), self.complex(complex_BH).squeeze(1)
        vote_B2 = torch.cat([self.simple_vote(simple_BH), self.complex_vote(complex_BH)], 1)
        if self.training:
            weight_B2 = nn.functional.gumbel_softmax(vote_B2, tau=self.temperature, dim=1)
        else:
            weight_B2 = torch.softmax(vote_B2 / self.temperature, 1)
        return Logits(weight_B2[:, 0] * simple_B + weight_B2[:, 1] * complex_B, simple_B, complex_B)


class Concatenation(nn.Module):
    """CF: z = linear([h_s; h_c]), beside the two heads."""

    def __init__(self, simple_features: int, complex_features: int) -> None:
        super().__init__()
        self.simple, self.complex = head(simple_features), head(complex_features)
        self.fused = head(simple_features + complex_features)

    def forward(self, simple_BH: Tensor, complex_BH: Tensor) -> Logits:
        fused_B1 = self.fused(torch.cat([simple_BH, complex_BH], 1))
        return Logits(fused_B1.squeeze(1), self.simple(simple_BH).squeeze(1), self.complex(complex_BH).squeeze(1))


class MixtureOfExperts(nn.Module):
    """MOEF: z = sum_k softmax(gate([h_s; h_c]))_k expert([h_s; h_c])_k over two linear experts, beside the two heads."""

    def __init__(self, simple_features: int, complex_features: int) -> None:
        super().__init__()
        self.simple, self.complex = head(simple_features), head(complex_features)
        self.gate = nn.Linear(simple_features + complex_features, 2)
        self.expert = nn.Linear(simple_features + complex_features, 2)

    def forward(self, simple_BH: Tensor, complex_BH: Tensor) -> Logits:
        both_BH = torch.cat([simple_BH, complex_BH], 1)
        fused_B = (torch.softmax(self.gate(both_BH), 1) * self.expert(both_BH)).sum(1)
        return Logits(fused_B, self.simple(simple_BH).squeeze(1), self.complex(complex_BH).squeeze(1))
