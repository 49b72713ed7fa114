"""Adam that takes rows: with `embedding=rowwise` a step costs what the batch touches, not what the table holds."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tf4ctr.models.rows import put_rows, take_rows

CHUNK = (
    2**17
)  # numbers of a table updated at a time on a CPU: they stay in the cache from their reading to their writing


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
        gradient, state = _coalesced(parameter.grad), self.state[parameter]
        if "exp_avg" in state:  # of a run that version 0.1.0 began
            state["moments"] = torch.stack([state.pop("exp_avg"), state.pop("exp_avg_sq")], 1).flatten(1)
        elif not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["moments"] = parameter.new_zeros(
                len(parameter), 2 * parameter.shape[1]
            )  # side by side: one read, one write a row
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        (rows,) = gradient.indices()
        chunk = max(1, CHUNK // parameter.shape[1] if parameter.device.type == "cpu" else len(rows))
        correction = (1 - beta2**step) ** 0.5  # of the root of v: taken out of it, so that no row has to be divided
        lr, eps = group["lr"] * correction / (1 - beta1**step), group["eps"] * correction
        for rows_R, grad_RD in zip(rows.split(chunk), gradient.values().split(chunk), strict=True):
            old_RD, moments_R2D = take_rows(parameter, rows_R), take_rows(state["moments"], rows_R)
            grad_RD = torch.add(grad_RD, old_RD, alpha=group["weight_decay"])
            mean_RD, square_RD = moments_R2D.chunk(2, 1)
            mean_RD.lerp_(grad_RD, 1 - beta1)
            square_RD.mul_(beta2).addcmul_(grad_RD, grad_RD, value=1 - beta2)
            put_rows(state["moments"], rows_R, moments_R2D)
            put_rows(parameter, rows_R, old_RD.addcdiv_(mean_RD, square_RD.contiguous().sqrt_().add_(eps), value=-lr))


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """torch's `clip_grad_norm_`, for gradients that are sparse in their rows or spread over ranks too; returns the norm before."""
    here, spread = [], []
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor):
            spread.append(parameter.grad)
        elif parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = _coalesced(parameter.grad)  # a row that came twice counts as the sum
            here.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = torch.nn.utils.get_total_norm(here)
    if spread:
        over_ranks = torch.nn.utils.get_total_norm(spread)
        norm = torch.hypot(norm, over_ranks.full_tensor() if isinstance(over_ranks, DTensor) else over_ranks)
    torch._foreach_mul_(here + [gradient.to_local() for gradient in spread], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _coalesced(gradient: Tensor) -> Tensor:
    """The gradient with each of its rows once. Where they come so, autograd has not kept word of it: to look is cheaper than to sort."""
    rows = gradient._indices()[0]
    if not gradient.is_coalesced() and bool((rows[1:] > rows[:-1]).all()):
        gradient._coalesced_(True)
    return gradient.coalesce()
