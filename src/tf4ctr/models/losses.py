"""From logits to the loss.

Each loss maps (`Logits`, label [B], weight [B] or None) to named terms, which are means over the
rows, each row times its weight. Training minimises the term `loss`. A loss with `passes = n` gets
the `Logits` of n forward passes of one batch instead, which differ in their dropout.
"""

import math
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


def precise(logit_B: Tensor) -> Tensor:
    """A logit in float32 at least: in bfloat16 a loss would be rounded to three digits."""
    return logit_B.to(torch.promote_types(logit_B.dtype, torch.float32))


class BCELoss(nn.Module):
    """Binary cross entropy of the fused logit. The heads have no loss of their own."""

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss` and `bce`, which are equal, []"""
        bce = F.binary_cross_entropy_with_logits(precise(logits.fused), label_B, weight_B)
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
        true_B = (2 * label_B - 1) * precise(logits.fused)  # the logit of q
        bce_B = F.softplus(-true_B)
        factor_B = torch.sigmoid(-true_B).clamp_min(torch.finfo(torch.float32).tiny) ** self.gamma
        class_B = 1.0 if self.alpha is None else torch.where(label_B == 1, self.alpha, 1 - self.alpha)
        return {"loss": mean(class_B * factor_B * bce_B, weight_B), "bce": mean(bce_B, weight_B)}


class HeadsLoss(nn.Module):
    """A loss that trains the heads of several encoders."""

    def check_heads(self, heads: int) -> None:
        """Check that the loss fits so many heads.

        Raises:
            InputError: there is only one head.
        """
        if heads < 2:
            raise InputError(
                f"{type(self).__name__} trains the heads of a simple and a complex encoder,"
                " but the backbone has one encoder: use loss=bce"
            )


class TFLoss(HeadsLoss):
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

    def check_heads(self, heads: int) -> None:
        """Check that the loss fits so many heads, see `focus_of`."""
        self.focus_of(heads)

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
        bce = F.binary_cross_entropy_with_logits(precise(logits.fused), label_B, weight_B)
        sign_B, heads = 2 * label_B - 1, logits.heads()
        focus = self.focus_of(len(heads))
        weights = [(1 - f) * self.alpha + f * (1 - self.alpha) for f in focus]
        terms = {
            f"tf_{name}": self._term(sign_B * precise(logit_B), f, weight_B)
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


class TriBCELoss(HeadsLoss):
    """L + sum_k w_k L_k with w_k = max(0, L_k - L): Tri-BCE (Li et al., arXiv 2407.13349, 2024).

    L is the BCE of the fused logit, L_k the BCE of a head. A head counts by how much it is worse
    than the fused logit. The gradient flows through the weights too, as in the published code. FCN
    has two heads; the formula allows any number.
    """

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss`, the fused logit's `bce`, and `bce_NAME` of each head, []"""
        bce = F.binary_cross_entropy_with_logits(precise(logits.fused), label_B, weight_B)
        terms = {
            f"bce_{name}": F.binary_cross_entropy_with_logits(precise(logit_B), label_B, weight_B)
            for name, logit_B in logits.heads().items()
        }
        excess = torch.stack([torch.relu(term - bce) * term for term in terms.values()])
        return {"loss": bce + excess.sum(), "bce": bce, **terms}


class DistillationLoss(HeadsLoss):
    """BCE(z, y) + sum_k BCE(z_k, p) with p = sigmoid(z) as a constant (Zhu et al., SIGIR 2023).

    The fused prediction teaches the heads. In FinalNet z is the mean of the two heads (dfm=mean).
    This loss does not suit dfm=sum: there each head would learn the whole of z, not its share.
    """

    def forward(self, logits: Logits, label_B: Tensor, weight_B: Tensor | None = None) -> dict[str, Tensor]:
        """-> `loss`, the fused logit's `bce`, and `taught_NAME` of each head, []"""
        fused_B = precise(logits.fused)
        bce = F.binary_cross_entropy_with_logits(fused_B, label_B, weight_B)
        teacher_B = torch.sigmoid(fused_B.detach())
        terms = {
            f"taught_{name}": F.binary_cross_entropy_with_logits(precise(logit_B), teacher_B, weight_B)
            for name, logit_B in logits.heads().items()
        }
        return {"loss": bce + torch.stack(list(terms.values())).sum(), "bce": bce, **terms}


class SelfEnsembleLoss(nn.Module):
    """BCE(p, y) + BCE(p_1, p) + BCE(p_2, p): the self-ensemble of QNN (arXiv 2505.17999, 2025).

    p_1 and p_2 are the fused predictions of two passes with other dropout masks, p is their mean.
    In the last two terms p is a constant. Without dropout these terms have no gradient.
    """

    passes = 2

    def forward(
        self, first: Logits, second: Logits, label_B: Tensor, weight_B: Tensor | None = None
    ) -> dict[str, Tensor]:
        """-> `loss`, the `bce` of p, and `taught` of both passes together, []"""
        logit_2B = torch.stack([precise(first.fused), precise(second.fused)])
        log_click_B, log_other_B = (_log_mean(F.logsigmoid(sign * logit_2B)) for sign in (1, -1))
        bce = mean(-(label_B * log_click_B + (1 - label_B) * log_other_B), weight_B)
        teacher_2B = log_click_B.detach().exp().expand_as(logit_2B)
        bce_2B = F.binary_cross_entropy_with_logits(logit_2B, teacher_2B, reduction="none")
        taught = mean(bce_2B.sum(0), weight_B)
        return {"loss": bce + taught, "bce": bce, "taught": taught}


def _log_mean(log_2B: Tensor) -> Tensor:
    """The logarithm of the mean of two numbers, from their logarithms: [2, B] -> [B]."""
    return torch.logaddexp(*log_2B) - math.log(2)
