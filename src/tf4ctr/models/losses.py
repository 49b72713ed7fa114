"""From logits to the loss. Each loss maps (Logits, label [B]) to its named terms; the term `loss` is what is minimised."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError
from tf4ctr.models.dfm import Logits


class BCELoss(nn.Module):
    """Binary cross entropy of the fused logit alone; the heads are not trained by themselves."""

    def forward(self, logits: Logits, label_B: Tensor) -> dict[str, Tensor]:
        bce = F.binary_cross_entropy_with_logits(logits.fused.float(), label_B)
        return {"loss": bce, "bce": bce}


class FocalLoss(nn.Module):
    """Focal loss of the fused logit (Lin et al., ICCV 2017): mean(a_y * (1 - q) ** gamma * BCE), q the probability of the true class.

    Args:
        gamma: strength of the modulation, from 0 on; 0 gives BCE.
        alpha: weight a_1 of the clicks, 1 - alpha of the others; None weighs both with 1.

    Raises:
        InputError: arguments outside of these.
    """

    def __init__(self, gamma: float, alpha: float | None = None) -> None:
        super().__init__()
        if gamma < 0:
            raise InputError(f"loss.gamma is {gamma}: it must not be negative")
        if alpha is not None and not 0 <= alpha <= 1:
            raise InputError(f"loss.alpha is {alpha}: it must lie between 0 and 1")
        self.gamma, self.alpha = float(gamma), alpha

    def forward(self, logits: Logits, label_B: Tensor) -> dict[str, Tensor]:
        true_B = (2 * label_B - 1) * logits.fused.float()  # logit of q
        bce_B = F.softplus(-true_B)
        factor_B = torch.sigmoid(-true_B).clamp_min(torch.finfo(torch.float32).tiny) ** self.gamma
        weight_B = 1.0 if self.alpha is None else torch.where(label_B == 1, self.alpha, 1 - self.alpha)
        return {"loss": (weight_B * factor_B * bce_B).mean(), "bce": bce_B.mean()}


class TFLoss(nn.Module):
    """BCE(fused) + Twin Focus Loss (TF4CTR): with q the probability that a head gives to the true class,

        simple  = mean((c + q_s) ** gamma * BCE_s)            leans on the easy samples
        complex = mean(((2 - c) - q_c) ** gamma * BCE_c)      leans on the hard samples
        loss    = BCE + alpha * simple + (1 - alpha) * complex

    The gradient flows through the modulating factors too. gamma = 0 gives two plain BCE heads.

    Args:
        alpha: weight of the simple head's term, 0 to 1.
        gamma: strength of the modulation, from 0 on.
        c: 0 to 2; above 1 the second factor is negative for q_c > 2 - c, so only an even gamma is meaningful.

    Raises:
        InputError: arguments outside of these.
    """

    def __init__(self, alpha: float, gamma: float, c: float) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise InputError(f"loss.alpha is {alpha}: it shares the loss between the two heads, so it must lie between 0 and 1")
        if gamma < 0:
            raise InputError(f"loss.gamma is {gamma}: it must not be negative")
        if not 0 <= c <= 2:
            raise InputError(f"loss.c is {c}: it must lie between 0 and 2, or a modulating factor is negative for every sample")
        if c > 1 and gamma % 2:
            raise InputError(
                f"loss.c is {c} and loss.gamma {gamma}: with c above 1 the factor (2 - c) - q is negative for well predicted samples,"
                " and only an even gamma makes a weight of it; use gamma 0, 2, 4 ... or c up to 1"
            )
        self.alpha, self.gamma, self.c = float(alpha), float(gamma), float(c)

    def forward(self, logits: Logits, label_B: Tensor) -> dict[str, Tensor]:
        bce = F.binary_cross_entropy_with_logits(logits.fused.float(), label_B)
        sign_B = 2 * label_B - 1
        simple_B, complex_B = sign_B * logits.simple.float(), sign_B * logits.complex.float()  # logits of q_s and q_c
        simple = ((self.c + torch.sigmoid(simple_B)) ** self.gamma * F.softplus(-simple_B)).mean()
        # 2 - c - q = (1 - c) + (1 - q), and 1 - q = sigmoid(-logit) keeps its digits where q is near 1
        factor_B = (1 - self.c) + torch.sigmoid(-complex_B)
        if self.c <= 1:
            factor_B = factor_B.clamp_min(torch.finfo(factor_B.dtype).tiny)  # the slope of 0 ** gamma is infinite for gamma < 1
        complex_ = (factor_B**self.gamma * F.softplus(-complex_B)).mean()
        return {
            "loss": bce + self.alpha * simple + (1 - self.alpha) * complex_,
            "bce": bce,
            "tf_simple": simple,
            "tf_complex": complex_,
        }
