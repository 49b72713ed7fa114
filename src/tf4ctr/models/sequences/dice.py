"""Dice, the activation function of DIN (Zhou et al., KDD 2018).

Shapes: N rows, H units.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s, with p = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    From DIN (Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018). Every
    unit has its own alpha, which is learned from 0, and its own E[s] and Var[s]. In training these
    are the mean and the variance of the batch, in evaluation their running averages, as in torch's
    `nn.BatchNorm1d`. A batch of less than two rows is valid, and does not change the averages.

    Args:
        units: H.
        eps: eps, 1e-8 in the paper.
        momentum: weight of a batch in the running averages.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, units: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.alpha = nn.Parameter(torch.zeros(units))
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """[..., H] -> [..., H]

        Args:
            x: s.
            known: bool [...], which rows the statistics are of; all without it.
        """
        x = x.to(self.running_mean.dtype)  # autocast: statistics in bfloat16 would be inexact
        if not self.training:
            return self._activate(x, self.running_mean, self.running_var)
        x_NH = x.flatten(0, -2)
        if known is None and len(x_NH) and _has_kernels(x):
            out_NH, mean_H, var_H = _BatchDice.apply(x_NH, self.alpha, self.eps)
            count = x.new_full((), len(x_NH))
        else:
            mean_H, var_H, count = _statistics(x_NH, None if known is None else known.flatten())
            out_NH = self._activate(x_NH, mean_H, var_H)
        self._track(mean_H.detach(), var_H.detach(), count)
        return out_NH.view(x.shape)

    def extra_repr(self) -> str:
        """The layer's options, as printed in a model."""
        return f"{len(self.alpha)}, eps={self.eps}, momentum={self.momentum}"

    def _activate(self, x: Tensor, mean_H: Tensor, var_H: Tensor) -> Tensor:
        share = torch.sigmoid((x - mean_H) * torch.rsqrt(var_H + self.eps))
        return x * torch.addcmul(self.alpha, share, 1 - self.alpha)

    def _track(self, mean_H: Tensor, var_H: Tensor, count: Tensor) -> None:
        """Update the running averages, with the unbiased variance."""
        momentum = self.momentum * (count > 1).to(mean_H.dtype)
        self.running_mean.lerp_(mean_H, momentum)
        self.running_var.lerp_(var_H * (count / (count - 1).clamp_min(1)), momentum)


def _has_kernels(x: Tensor) -> bool:
    """Whether `_BatchDice` works and is faster than torch's operators with their gradients."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _statistics(x_NH: Tensor, known_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and the variance of the known rows [H], both 0 without one, and their number."""
    known_N = x_NH.new_ones(len(x_NH), dtype=torch.bool) if known_N is None else known_N
    known_N1, count = known_N.unsqueeze(1), known_N.sum().to(x_NH.dtype)
    mean_H = torch.where(known_N1, x_NH, 0).sum(0) / count.clamp_min(1)
    var_H = torch.where(known_N1, x_NH - mean_H, 0).square().sum(0) / count.clamp_min(1)
    return mean_H, var_H, count


class _BatchDice(torch.autograd.Function):
    """s [N, H], alpha [H], eps -> f(s) [N, H], E[s] [H] and Var[s] [H], those of the batch.

    It takes about 40% of the time of torch's operators: it computes the statistics and their
    gradients with the kernels of batch norm, and reads and writes [N, H] less often.
    """

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, alpha_H: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        scaled_NH, mean_H, inverse_H = torch.native_batch_norm(x_NH, None, None, None, None, True, 0.0, eps)
        p_NH = scaled_NH.sigmoid_()
        ctx.save_for_backward(x_NH, p_NH, alpha_H, mean_H, inverse_H)
        ctx.eps = eps
        var_H = (inverse_H.pow(-2) - eps).clamp_min(0)
        ctx.mark_non_differentiable(mean_H, var_H)
        return torch.addcmul(alpha_H, p_NH, 1 - alpha_H).mul_(x_NH), mean_H, var_H

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NH: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NH, p_NH, alpha_H, mean_H, inverse_H = ctx.saved_tensors
        # df/dalpha = (1 - p) s; the gradient of p's argument is (1 - alpha) s p (1 - p)
        part_NH = grad_NH * x_NH
        part_NH.addcmul_(part_NH, p_NH, value=-1)
        grad_alpha_H = part_NH.sum(0)
        (grad_x_NH, _, _) = torch.ops.aten.native_batch_norm_backward(
            grad_out=part_NH.mul_(p_NH),
            input=x_NH,
            weight=1 - alpha_H,
            running_mean=None,
            running_var=None,
            save_mean=mean_H,
            save_invstd=inverse_H,
            train=True,
            eps=ctx.eps,
            output_mask=[True, False, False],
        )
        # and with p fixed, df/ds = alpha + (1 - alpha) p
        return grad_x_NH.addcmul_(grad_NH, torch.addcmul(alpha_H, p_NH, 1 - alpha_H)), grad_alpha_H, None
