"""From logits to the loss.

Each loss maps (`Logits`, label [B], weight [B] or None) to named terms, which are means over the
rows, each row times its weight. Training minimises the term `loss`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError
from tf4ctr.models.network import Logits


def mean(term_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Mean over the rows of a term times its weight.

    The weights are 1 on average over the training rows.
    """
    return term_B.mean() if weight_B is None else (term_B * weight_B).mean()


class BCELoss(nn.Module):
    """Binary cross entropy of the fused logit. The heads have no loss of their own."""

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss` and `bce`, which are equal, []"""
        bce = F.binary_cross_entropy_with_logits(logits.fused.float(), label_B, weight_B)
        return {"loss": bce, "bce": bce}


class FocalLoss(nn.Module):
    """Focal loss of the fused logit: mean(a_y * (1 - q) ** gamma * BCE) (Lin et al., ICCV 2017).

    q is the predicted probability of the true class.

    Args:
        gamma: strength of the modulation, at least 0; 0 gives BCE.
        alpha: weight a_1 of the clicks; the other rows have the weight 1 - alpha. None: all rows
            have the weight 1.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(self, gamma: float, alpha: float | None = None) -> None:
        super().__init__()
        if gamma < 0:
            raise InputError(f"loss.gamma is {gamma}: it must not be negative")
        if alpha is not None and not 0 <= alpha <= 1:
            raise InputError(f"loss.alpha is {alpha}: it must lie between 0 and 1")
        self.gamma, self.alpha = float(gamma), alpha

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss` and the unmodulated `bce`, []"""
        true_B = (2 * label_B - 1) * logits.fused.float()  # the logit of q
        bce_B = F.softplus(-true_B)
        factor_B = torch.sigmoid(-true_B).clamp_min(torch.finfo(torch.float32).tiny) ** self.gamma
        class_B = 1.0 if self.alpha is None else torch.where(label_B == 1, self.alpha, 1 - self.alpha)
        return {"loss": mean(class_B * factor_B * bce_B, weight_B), "bce": mean(bce_B, weight_B)}


class TFLoss(nn.Module):
    """BCE(fused) + Twin Focus Loss (TF4CTR).

    With q the probability that a head gives to the true class:

        simple  = mean((c + q_s) ** gamma * BCE_s)            emphasises the easy samples
        complex = mean(((2 - c) - q_c) ** gamma * BCE_c)      emphasises the hard samples
        loss    = BCE + alpha * simple + (1 - alpha) * complex

    The gradient flows through the modulating factors too. gamma = 0 gives two plain BCE heads.

    Our extension to more heads: each head has a focus f from 0 (simple) to 1 (complex), which
    mixes the two factors and the two weights. With two heads it equals the formulas above:

        term_k = mean(((1 - f_k) (c + q_k) + f_k ((2 - c) - q_k)) ** gamma * BCE_k)
        w_k    = (1 - f_k) alpha + f_k (1 - alpha), divided by the sum of all w_k
        loss   = BCE + sum_k w_k term_k

    Args:
        alpha: weight of the simple head's term, 0 to 1.
        gamma: strength of the modulation, at least 0.
        c: 0 to 2. Above 1 the second factor is negative for q_c > 2 - c, so gamma must be even.
        focus: one number per head, from the simple to the complex one; None: even steps, 0 to 1.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(self, alpha: float, gamma: float, c: float, focus: Sequence[float] | None = None) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise InputError(
                f"loss.alpha is {alpha}: it divides the loss between the two heads, so it must lie between 0 and 1"
            )
        if gamma < 0:
            raise InputError(f"loss.gamma is {gamma}: it must not be negative")
        if not 0 <= c <= 2:
            raise InputError(
                f"loss.c is {c}: it must lie between 0 and 2, or a modulating factor is negative for every sample"
            )
        if c > 1 and gamma % 2:
            raise InputError(
                f"loss.c is {c} and loss.gamma is {gamma}: with c above 1 the factor (2 - c) - q is negative for"
                " q > 2 - c, and only an even gamma gives a positive weight; use gamma 0, 2, 4 ... or c of at most 1"
            )
        if focus is not None and (len(focus) < 2 or sorted(focus) != list(focus) or (focus[0], focus[-1]) != (0, 1)):
            raise InputError(
                f"loss.focus is {list(focus)}: it must rise from 0 (the simple head) to 1 (the complex one)"
            )
        self.alpha, self.gamma, self.c = float(alpha), float(gamma), float(c)
        self.focus = None if focus is None else [float(number) for number in focus]

    def focus_of(self, heads: int) -> list[float]:
        """The focus of each head, for this number of heads.

        Raises:
            InputError: there is only one head, or `focus` has another length.
        """
        if heads < 2:
            raise InputError(
                "loss=tf needs a simple and a complex encoder, but the backbone has one:"
                " add framework=plain, or loss=bce"
            )
        if self.focus is not None and len(self.focus) != heads:
            raise InputError(
                f"loss.focus has {len(self.focus)} numbers, but the backbone has {heads} encoders:"
                " give one number per encoder, or null"
            )
        return self.focus or [number / (heads - 1) for number in range(heads)]

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss`, the fused logit's `bce`, and the unweighted term `tf_NAME` of each head, []"""
        bce = F.binary_cross_entropy_with_logits(logits.fused.float(), label_B, weight_B)
        sign_B, heads = 2 * label_B - 1, logits.heads()
        focus = self.focus_of(len(heads))
        weights = [(1 - f) * self.alpha + f * (1 - self.alpha) for f in focus]
        terms = {
            f"tf_{name}": self._term(sign_B * logit_B.float(), f, weight_B)
            for (name, logit_B), f in zip(heads.items(), focus, strict=True)
        }
        twin = sum(weight / sum(weights) * term for weight, term in zip(weights, terms.values(), strict=True))
        return {"loss": bce + twin, "bce": bce, **terms}

    def _term(self, true_B: Tensor, focus: float, weight_B: Tensor | None) -> Tensor:
        """The term of one head, from the logit of q."""
        # 2 - c - q = (1 - c) + (1 - q). 1 - q = sigmoid(-logit) keeps its precision if q is near 1.
        factor_B = (1 - focus) * (self.c + torch.sigmoid(true_B)) + focus * ((1 - self.c) + torch.sigmoid(-true_B))
        if self.c <= 1:
            # positive, because the derivative of 0 ** gamma is infinite for gamma < 1
            factor_B = factor_B.clamp_min(torch.finfo(factor_B.dtype).tiny)
        return mean(factor_B**self.gamma * F.softplus(-true_B), weight_B)
