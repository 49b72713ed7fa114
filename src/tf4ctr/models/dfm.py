"""Dynamic fusion module: from the encoders' outputs to one logit a head and the fused one (TF4CTR, section on DFM).

Every one maps the list of h_k [B, H_k] to (z [B], [z_1 [B], ..., z_K [B]]). The paper has K = 2. Those that weigh the heads tell how, as
`weights(hidden)` [B, K], outside training.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine

Fused = tuple[Tensor, list[Tensor]]


def heads_of(features: Sequence[int]) -> nn.ModuleList:
    """A linear head [B, H_k] -> [B, 1] for each encoder."""
    return nn.ModuleList(Affine(each, 1) for each in features)


def read(heads: nn.ModuleList, hidden: Sequence[Tensor]) -> list[Tensor]:
    """Each head's logit [B]."""
    return [head(hidden_BH).squeeze(1) for head, hidden_BH in zip(heads, hidden, strict=True)]


class Sum(nn.Module):
    """z = sum_k z_k. With a shared table and a plain loss this is the bare backbone.

    An encoder that yields one number already yields a logit (FM, linear) and is added as it is: DeepFM is y_linear + y_FM + y_deep.

    Args:
        interaction: `interaction(features)` makes what a backbone adds of all h_k together, a logit [B], as FinalMLP does.
    """

    def __init__(self, features: Sequence[int], interaction: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Identity() if each == 1 else Affine(each, 1) for each in features)
        self.interaction = interaction(features) if interaction else None

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        heads = read(self.heads, hidden)
        fused_B = sum(heads[1:], heads[0])
        return fused_B if self.interaction is None else fused_B + self.interaction(hidden), heads


class WeightedSum(nn.Module):
    """WSF: z = sum_k w_k z_k, w learned, from 1 / K on. Every head is linear, as in the published runs."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads_of(features)
        self.weight = nn.Parameter(torch.full((len(features),), 1 / len(features)))

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        heads = read(self.heads, hidden)
        weighted = [weight * head_B for weight, head_B in zip(self.weight, heads, strict=True)]
        return sum(weighted[1:], weighted[0]), heads

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """w, the same for every sample: [B, K]."""
        return self.weight.expand(len(hidden[0]), -1)


class Voting(nn.Module):
    """VF: z = <w, [z_1, ..., z_K]>, w = Gumbel softmax of [v_1(h_1), ..., v_K(h_K)] at a temperature; without the noise in evaluation."""

    def __init__(self, features: Sequence[int], temperature: float = 0.8) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"dfm.temperature is {temperature}: it must be positive")
        self.heads, self.votes = heads_of(features), heads_of(features)
        self.temperature = temperature

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        heads = read(self.heads, hidden)
        if self.training:
            weight_BK = nn.functional.gumbel_softmax(
                torch.stack(read(self.votes, hidden), 1), tau=self.temperature, dim=1
            )
        else:
            weight_BK = self.weights(hidden)
        return (weight_BK * torch.stack(heads, 1)).sum(1), heads

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """w without the noise, [B, K]."""
        return torch.softmax(torch.stack(read(self.votes, hidden), 1) / self.temperature, 1)


class Concatenation(nn.Module):
    """CF: z = linear([h_1; ...; h_K]), beside the heads."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads_of(features)
        self.fused = Affine(sum(features), 1)

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        return self.fused(torch.cat(list(hidden), 1)).squeeze(1), read(self.heads, hidden)


class MixtureOfExperts(nn.Module):
    """MOEF: z = sum_k softmax(gate(h))_k expert(h)_k with h = [h_1; ...; h_K] over K linear experts, beside the heads."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads_of(features)
        self.gate = Affine(sum(features), len(features))
        self.expert = Affine(sum(features), len(features))

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        fused_B = (self.weights(hidden) * self.expert(torch.cat(list(hidden), 1))).sum(1)
        return fused_B, read(self.heads, hidden)

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """The gate: what each expert counts for each sample, [B, K]."""
        return torch.softmax(self.gate(torch.cat(list(hidden), 1)), 1)


class BilinearFusion(nn.Module):
    """sum_m h_1[m]^T W_m h_2[m], both outputs cut into M equal chunks: FinalMLP's interaction of its two streams (Mao et al., AAAI 2023).

    Args:
        num_heads: M.
    """

    def __init__(self, features: Sequence[int], num_heads: int) -> None:
        super().__init__()
        if len(features) != 2 or num_heads < 1 or any(each % num_heads for each in features):
            raise InputError(
                f"bilinear fusion: {num_heads} heads, encoders of {list(features)} outputs; it needs two, in multiples of it"
            )
        self.num_heads = num_heads
        left, right = (each // num_heads for each in features)
        self.weight = nn.Parameter(
            nn.init.xavier_normal_(torch.empty(num_heads * left, right)).view(num_heads, left, right)
        )

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """-> [B]"""
        left_BMH, right_BMH = (part.unflatten(1, (self.num_heads, -1)) for part in hidden)
        return (torch.einsum("bmi,mij->bmj", left_BMH, self.weight) * right_BMH).sum((1, 2))
