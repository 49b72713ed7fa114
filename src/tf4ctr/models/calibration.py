"""Calibration of the fused logit: better probabilities, the same order of the rows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Calibration(nn.Module):
    """z' = a z + b in evaluation, and z in training (Platt 1999).

    a and b are fitted on rows that training does not see. a is positive, so the order of the rows
    stays, and with it AUC and gAUC. The heads stay as they are.

    Attributes:
        scale, shift: a and b, scalars; 1 and 0 until they are fitted.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, logit_B: Tensor) -> Tensor:
        """z [B] -> z' [B]"""
        return logit_B if self.training else self.scale * self._precise(logit_B) + self.shift

    def undo(self, logit_B: Tensor) -> Tensor:
        """z' [B] -> z [B]"""
        return (self._precise(logit_B) - self.shift) / self.scale

    def _precise(self, logit_B: Tensor) -> Tensor:
        """The logits in float32 at least: rounded to bfloat16 again, more of them would be tied."""
        return logit_B.to(torch.promote_types(logit_B.dtype, self.scale.dtype))

    def reset(self) -> None:
        """Go back to a = 1, b = 0."""
        self.scale.fill_(1)
        self.shift.fill_(0)

    def fit(self, logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None, rows: int | None = None) -> bool:
        """Set a and b by `platt`.

        Returns:
            whether there are such. If not, a = 1 and b = 0: the rows have one class only, or a is
            not positive, and would turn the order round.
        """
        self.reset()
        counted_B = label_B if weight_B is None else label_B[weight_B > 0]
        if len(counted_B.unique()) < 2:
            return False
        scale, shift = (value.to(self.scale.dtype) for value in platt(logit_B, label_B, weight_B, rows))
        if not scale > 0:  # also if it is NaN
            return False
        self.scale.copy_(scale)
        self.shift.copy_(shift)
        return True


def platt(
    logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """The a and b with the smallest logloss of a z + b.

    As Platt (1999) does, the targets are (P + 1) / (P + 2) for P positive rows and 1 / (N + 2) for
    N negative ones instead of 1 and 0. So a and b are finite, too, where z separates the classes.

    Args:
        logit_B: z, [B].
        label_B: 0 or 1, [B].
        weight_B: of the rows, at least 0, [B]; None for equal ones. P and N are sums of them, in a
            unit in which the sum of all is `rows`.
        rows: how many rows these are, if one of them can stand for several; None for the number of
            rows with a weight.

    Returns:
        a and b, float64 scalars.
    """
    logit_B, label_B = logit_B.detach().double(), label_B.double()
    weight_B = torch.ones_like(logit_B) if weight_B is None else weight_B.double()
    weight_B = weight_B * ((int((weight_B > 0).sum()) if rows is None else rows) / weight_B.sum())
    positive, negative = (weight_B * label_B).sum(), (weight_B * (1 - label_B)).sum()
    target_B = torch.where(label_B > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    # standardised: L-BFGS misses the minimum for logits such as -20 with a deviation of 1e-3
    mean = (weight_B * logit_B).sum() / weight_B.sum()
    spread = ((weight_B * (logit_B - mean) ** 2).sum() / weight_B.sum()).sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    standard_B = (logit_B - mean) / spread
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logit_B.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        scaled_B = parameters[0] * standard_B + parameters[1]
        loss = F.binary_cross_entropy_with_logits(scaled_B, target_B, weight_B, reduction="sum")
        loss = loss / (positive + negative)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(step)
    scale, shift = parameters.detach()
    return scale / spread, shift - scale * mean / spread
