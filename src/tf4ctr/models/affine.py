"""The affine layer, with the quicker of the two libraries that torch multiplies float32 matrices with on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRETCH = 500  # rows turned at a time


class Affine(nn.Linear):
    """torch's `nn.Linear`, y = x W^T + b; on a CPU its float32 products are oneDNN's.

    torch gives these to MKL. oneDNN, which torch brings along for half precision, makes the same products in half the time on an AMD
    EPYC (docs/benchmarks.md), in full float32. Everything else, other types, devices, autocast and graphs, is `nn.Linear` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]"""
        if (
            torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(x)
        if x.device.type != "cpu" or not x.dtype == self.weight.dtype == torch.float32 or not x.numel():
            return super().forward(x)
        out_NO = _Products.apply(x.flatten(0, -2), self.weight, self.bias)
        return out_NO.view(*x.shape[:-1], self.out_features)


class _Products(torch.autograd.Function):
    """x [N, I], W [O, I], b [O] or None -> x W^T + b [N, O]."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return product(x_NI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(grad_NO, weight_OI.T) if for_x else None,
            _weight_gradient(grad_NO, x_NI) if for_weight else None,
            grad_NO.sum(0) if for_bias else None,
        )


def product(left_NI: Tensor, right_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """left right^T + bias [N, O] by oneDNN, float32 on a CPU; the operator is the one that torch's compiler calls."""
    return torch.ops.mkldnn._linear_pointwise(left_NI, right_OI, bias_O, "none", [], "")


def _weight_gradient(grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """grad^T x [O, I]. oneDNN wants its left side's rows in one piece; to turn the narrower of the two costs least."""
    if grad_NO.shape[1] <= x_NI.shape[1]:
        return product(_turned(grad_NO), x_NI.T)
    return product(_turned(x_NI), grad_NO.T).T


def _turned(x_NI: Tensor) -> Tensor:
    """x^T [I, N] in one piece, by stretches that stay in the cache; as a matrix torch would turn it in one thread."""
    x_IN = x_NI.new_empty(x_NI.shape[::-1])
    for turned, rows in zip(x_IN.unsqueeze(0).split(STRETCH, 2), x_NI.split(STRETCH), strict=True):
        turned.copy_(rows.T.unsqueeze(0))
    return x_IN
