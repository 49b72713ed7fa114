"""Adam that updates single rows: with `embedding=rowwise` a step costs what the batch touches."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tf4ctr.models.rows import coalesced, put_rows, take_rows

NOT_ROWWISE = ("amsgrad", "maximize", "decoupled_weight_decay")  # options of Adam that rows do not have
# numbers of a table updated at a time on a CPU: they stay in the cache between reading and writing
CHUNK = 2**17


class RowwiseAdam(torch.optim.Adam):
    """torch's Adam; if a gradient is sparse in its rows, only those rows are updated.

    For a row that is in the batch, with g its gradient, t the number of this step, and lambda the
    group's `weight_decay`:

        g <- g + lambda w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    All other rows keep w, m and v as they are: neither L2 nor momentum changes them (lazy L2 and
    lazy moments). If every row is in every batch this is Adam itself; without weight decay it is
    torch's SparseAdam.
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
        gradient, state = coalesced(parameter.grad), self.state[parameter]
        if "exp_avg" in state:  # of a run that version 0.1.0 started
            state["moments"] = torch.stack([state.pop("exp_avg"), state.pop("exp_avg_sq")], 1).flatten(1)
        elif not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            # m and v side by side: one read and one write per row
            state["moments"] = parameter.new_zeros(len(parameter), 2 * parameter.shape[1])
        state["step"] = state["step"].cpu() + 1  # on the host; with fused=true loading moves it to the device
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        (rows,) = gradient.indices()
        chunk = max(1, CHUNK // parameter.shape[1] if parameter.device.type == "cpu" else len(rows))
        correction = (
            1 - beta2**step
        ) ** 0.5  # of the root of v: moved into lr and eps, so that no row is divided by it
        lr, eps = group["lr"] * correction / (1 - beta1**step), group["eps"] * correction
        for rows_R, grad_RD in zip(rows.split(chunk), gradient.values().split(chunk), strict=True):
            old_RD, moments_R2D = take_rows(parameter, rows_R), take_rows(state["moments"], rows_R)
            grad_RD = torch.add(grad_RD, old_RD, alpha=group["weight_decay"])
            mean_RD, square_RD = moments_R2D.chunk(2, 1)
            mean_RD.lerp_(grad_RD, 1 - beta1)
            square_RD.mul_(beta2).addcmul_(grad_RD, grad_RD, value=1 - beta2)
            put_rows(state["moments"], rows_R, moments_R2D)
            put_rows(parameter, rows_R, old_RD.addcdiv_(mean_RD, square_RD.contiguous().sqrt_().add_(eps), value=-lr))


def clip_grad_norm(
    parameters: Iterable[nn.Parameter], max_norm: float, sharded: Collection[nn.Parameter] = ()
) -> Tensor:
    """torch's `clip_grad_norm_`, also for gradients sparse in their rows or sharded over ranks.

    Args:
        parameters: those without a gradient are skipped.
        max_norm: the L2 norm over all gradients is at most this afterwards.
        sharded: those of `parameters` of which each rank has its own rows. If there are some, every
            rank must call it.

    Returns:
        the norm before clipping.
    """
    own = {id(parameter) for parameter in sharded}
    whole: list[Tensor] = []
    shards: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)  # a row that occurs twice counts as the sum
            values = parameter.grad.values() if parameter.grad.is_sparse else parameter.grad
            (shards if id(parameter) in own else whole).append(values)
    norm = torch.nn.utils.get_total_norm(whole)
    if shards:
        square = torch.nn.utils.get_total_norm(shards) ** 2
        distributed.all_reduce(square)
        norm = torch.hypot(norm, square.sqrt())
    # 1e-6 as in torch's clip_grad_norm_
    torch._foreach_mul_(whole + shards, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
