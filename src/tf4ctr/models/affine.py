"""The affine layer. On a CPU, oneDNN computes its float32 products."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Rows that are transposed at a time. 500 rows of 400 float32 numbers (0.8 MB) fit into a core's
# cache.
BLOCK_ROWS = 500


class Affine(nn.Linear):
    """torch's `nn.Linear`, y = x W^T + b. On a CPU, oneDNN computes its float32 products.

    torch calls MKL for these products. oneDNN is part of torch too, and takes half the time on an
    AMD EPYC (docs/benchmarks.md), in full float32. Other types and devices, autocast and graphs
    use `nn.Linear` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]"""
        if (
            torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(x)
        if x.device.type != "cpu" or not x.dtype == self.weight.dtype == torch.float32 or x.ndim < 2 or not x.numel():
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
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(grad_NO, weight_OI.T) if needs_x else None,
            _weight_gradient(grad_NO, x_NI) if needs_weight else None,
            grad_NO.sum(0) if needs_bias else None,
        )


def product(left_NI: Tensor, right_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """left right^T + bias [N, O] by oneDNN, for float32 tensors on a CPU.

    torch's compiler calls the same operator.
    """
    return torch.ops.mkldnn._linear_pointwise(left_NI, right_OI, bias_O, "none", [], "")


def _weight_gradient(grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """grad^T x [O, I].

    oneDNN needs a contiguous left factor. So the narrower of the two is transposed: it costs less.
    """
    if grad_NO.shape[1] <= x_NI.shape[1]:
        return product(_transposed(grad_NO), x_NI.T)
    return product(_transposed(x_NI), grad_NO.T).T


def _transposed(x_NI: Tensor) -> Tensor:
    """x^T [I, N], contiguous, copied in blocks that fit into the cache."""
    x_IN = x_NI.new_empty(x_NI.shape[::-1])
    blocks = zip(x_IN.unsqueeze(0).split(BLOCK_ROWS, 2), x_NI.split(BLOCK_ROWS), strict=True)
    for target_1IN, block_NI in blocks:
        # three dimensions: torch transposes a matrix (two dimensions) in one thread only
        target_1IN.copy_(block_NI.T.unsqueeze(0))
    return x_IN
