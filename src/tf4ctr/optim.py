"""Adam that takes rows: with `embedding=rowwise` a step costs what the batch touches, not what the table holds."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CHUNK = 2**14  # rows updated at a time on a CPU: they stay in the cache from their reading to their writing


class RowwiseAdam(torch.optim.Adam):
    """torch's Adam; a parameter whose gradient is sparse in its rows is updated in those rows alone.

    For a row that the batch touches, with g its gradient, t the number of this step, and lambda the group's `weight_decay`:

        g <- g + lambda w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    A row that it doesn't touch keeps w, m and v as they are: neither L2 nor momentum moves it meanwhile (lazy L2 and lazy moments). Where
    every row is touched at every step this is Adam itself; without weight decay it is torch's SparseAdam.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                    parameter.grad = None
        super().step()
        return loss

    def _step_rows(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient, state = parameter.grad.coalesce(), self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        (rows,) = gradient.indices()
        chunk = CHUNK if parameter.device.type == "cpu" else max(1, len(rows))
        for rows_R, grad_RD in zip(rows.split(chunk), gradient.values().split(chunk), strict=True):
            old_RD = parameter.index_select(0, rows_R)
            grad_RD = torch.add(grad_RD, old_RD, alpha=group["weight_decay"])
            mean_RD = state["exp_avg"].index_select(0, rows_R).lerp_(grad_RD, 1 - beta1)
            square_RD = state["exp_avg_sq"].index_select(0, rows_R).mul_(beta2).addcmul_(grad_RD, grad_RD, value=1 - beta2)
            state["exp_avg"].index_copy_(0, rows_R, mean_RD)
            state["exp_avg_sq"].index_copy_(0, rows_R, square_RD)
            size_RD = square_RD.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
            parameter.index_copy_(0, rows_R, old_RD.addcdiv_(mean_RD, size_RD, value=-group["lr"] / (1 - beta1**step)))


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """torch's `clip_grad_norm_`, for gradients that are sparse in their rows or spread over ranks too; returns the norm before."""
    here, spread = [], []
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor):
            spread.append(parameter.grad)
        elif parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()  # a row that came twice counts as the sum
            here.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = torch.nn.utils.get_total_norm(here)
    if spread:
        over_ranks = torch.nn.utils.get_total_norm(spread)
        norm = torch.hypot(norm, over_ranks.full_tensor() if isinstance(over_ranks, DTensor) else over_ranks)
    torch._foreach_mul_(here + [gradient.to_local() for gradient in spread], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
