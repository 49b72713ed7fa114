"""Dynamic fusion module: from the encoders' outputs to the logits (TF4CTR, section on DFM).

Every module maps a list of h_k [B, H_k] to (z [B], [z_1 [B], ..., z_K [B]]): the fused logit and
one logit per encoder, its head. The paper has K = 2. A module that weights the heads also has
`weights(hidden)` [B, K]: the weights in evaluation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine

Fused = tuple[Tensor, list[Tensor]]


def linear_heads(features: Sequence[int]) -> nn.ModuleList:
    """One linear layer [B, H_k] -> [B, 1] per encoder."""
    return nn.ModuleList(Affine(width, 1) for width in features)


def logits_of(heads: nn.ModuleList, hidden: Sequence[Tensor]) -> list[Tensor]:
    """The logit of each head, K tensors [B]."""
    return [head(hidden_BH).squeeze(1) for head, hidden_BH in zip(heads, hidden, strict=True)]


class Sum(nn.Module):
    """z = sum_k z_k. With ssem=shared and loss=bce this is the plain backbone.

    The output of an encoder with one feature (FM, linear) is a logit, and is added without a
    linear layer: DeepFM is y_linear + y_FM + y_deep.

    Args:
        features: H_k of each encoder.
        interaction: `interaction(features)` builds a module that maps all h_k to one more logit
            [B], as in FinalMLP.
    """

    def __init__(self, features: Sequence[int], interaction: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Identity() if width == 1 else Affine(width, 1) for width in features)
        self.interaction = interaction(features) if interaction else None

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        heads = logits_of(self.heads, hidden)
        fused_B = sum(heads[1:], heads[0])
        return fused_B if self.interaction is None else fused_B + self.interaction(hidden), heads


class Mean(Sum):
    """z = mean_k z_k, as in FCN and FinalNet. The heads are those of `Sum`."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__(features)

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        fused_B, heads = super().forward(hidden)
        return fused_B / len(heads), heads


class WeightedSum(nn.Module):
    """WSF: z = sum_k w_k z_k with learned w, initially 1 / K.

    Every head is linear, as in the published runs.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = linear_heads(features)
        self.weight = nn.Parameter(torch.full((len(features),), 1 / len(features)))

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        heads = logits_of(self.heads, hidden)
        weighted = [weight * head_B for weight, head_B in zip(self.weight, heads, strict=True)]
        return sum(weighted[1:], weighted[0]), heads

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """w, the same for every sample: [B, K]."""
        return self.weight.expand(len(hidden[0]), -1)


class Voting(nn.Module):
    """VF: z = <w, [z_1, ..., z_K]> with w = Gumbel softmax of [v_1(h_1), ..., v_K(h_K)].

    In evaluation w is the softmax of v / temperature, without Gumbel noise.

    Args:
        features: H_k of each encoder.
        temperature: of the softmax, positive.

    Raises:
        InputError: the temperature is not positive.
    """

    def __init__(self, features: Sequence[int], temperature: float = 0.8) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"dfm.temperature is {temperature}: it must be positive")
        self.heads, self.votes = linear_heads(features), linear_heads(features)
        self.temperature = temperature

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        heads = logits_of(self.heads, hidden)
        if self.training:
            vote_BK = torch.stack(logits_of(self.votes, hidden), 1)
            weight_BK = nn.functional.gumbel_softmax(vote_BK.float(), tau=self.temperature, dim=1)
        else:
            weight_BK = self.weights(hidden)
        return (weight_BK * torch.stack(heads, 1)).sum(1), heads

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """w without Gumbel noise, [B, K]."""
        return torch.softmax(torch.stack(logits_of(self.votes, hidden), 1) / self.temperature, 1)


class Concatenation(nn.Module):
    """CF: z = linear([h_1; ...; h_K]). The heads are computed in addition, for the TF Loss."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = linear_heads(features)
        self.fused = Affine(sum(features), 1)

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        return self.fused(torch.cat(list(hidden), 1)).squeeze(1), logits_of(self.heads, hidden)


class MixtureOfExperts(nn.Module):
    """MOEF: z = sum_k softmax(gate(h))_k expert_k(h) with h = [h_1; ...; h_K] and K linear experts.

    The heads are computed in addition, for the TF Loss.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        self.heads = linear_heads(features)
        self.gate = Affine(sum(features), len(features))
        self.expert = Affine(sum(features), len(features))

    def forward(self, hidden: Sequence[Tensor]) -> Fused:
        """h_k [B, H_k] -> z [B], all z_k [B]"""
        fused_B = (self.weights(hidden) * self.expert(torch.cat(list(hidden), 1))).sum(1)
        return fused_B, logits_of(self.heads, hidden)

    def weights(self, hidden: Sequence[Tensor]) -> Tensor:
        """The weight of each expert for each sample, [B, K]."""
        return torch.softmax(self.gate(torch.cat(list(hidden), 1)), 1)


class BilinearFusion(nn.Module):
    """sum_m h_1[m]^T W_m h_2[m], both outputs cut into M equal chunks.

    FinalMLP's interaction of its two streams (Mao et al., AAAI 2023).

    Args:
        features: H_1 and H_2.
        num_heads: M.

    Raises:
        InputError: there are not two encoders, or M does not divide their outputs.
    """

    def __init__(self, features: Sequence[int], num_heads: int) -> None:
        super().__init__()
        if len(features) != 2 or num_heads < 1 or any(width % num_heads for width in features):
            raise InputError(
                f"backbone.interaction: num_heads is {num_heads} and the encoders have {list(features)} outputs;"
                " it needs two encoders, each with a multiple of num_heads outputs"
            )
        self.num_heads = num_heads
        left, right = (width // num_heads for width in features)
        weight = nn.init.xavier_normal_(torch.empty(num_heads * left, right))
        self.weight = nn.Parameter(weight.view(num_heads, left, right))

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """h_1 [B, H_1], h_2 [B, H_2] -> [B]"""
        left_BMH, right_BMH = (chunks.unflatten(1, (self.num_heads, -1)) for chunks in hidden)
        return (torch.einsum("bmi,mij->bmj", left_BMH, self.weight) * right_BMH).sum((1, 2))
