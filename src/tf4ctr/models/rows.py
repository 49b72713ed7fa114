"""Fast reads and writes of rows of large tables on a CPU.

Shapes: R table rows, D row size, N ids. docs/benchmarks.md has the measured times.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def take_rows(table_RD: Tensor, rows_N: Tensor) -> Tensor:
    """table[rows] [N, D], without a gradient.

    On a CPU each row is a bag of `embedding_bag`, because its kernel prefetches. If the table does
    not fit into the caches, this takes half the time of `index_select`.
    """
    if table_RD.device.type != "cpu":
        return table_RD.index_select(0, rows_N)
    return F.embedding_bag(rows_N, table_RD.detach(), torch.arange(len(rows_N), dtype=rows_N.dtype), mode="sum")


def put_rows(table_RD: Tensor, rows_N: Tensor, values_ND: Tensor) -> None:
    """Set table[rows] = values, in place. `rows` must not repeat a row.

    torch copies a row one number at a time. Two float32 numbers are copied as one float64 number.
    """
    if table_RD.dtype == torch.float32 and table_RD.shape[1] % 2 == 0:
        table_RD, values_ND = table_RD.view(torch.float64), values_ND.view(torch.float64)
    table_RD.index_copy_(0, rows_N, values_ND)


def look_up(table_RD: Tensor, ids: Tensor, sparse: bool, padding: Tensor | None = None) -> Tensor:
    """table[ids] [..., D] for ids of any shape, with a gradient: sparse or dense.

    Training on a CPU uses `Lookup`. Other devices, evaluation and graphs use torch's `embedding`.

    Args:
        table_RD: the table.
        ids: its rows.
        sparse: whether the gradient has the rows of `ids` only.
        padding: bool in the shape of `ids`: positions without a gradient, which saves time. None
            for none.
    """
    if table_RD.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.embedding(ids, table_RD, sparse=sparse)
    skipped_N = None if padding is None else padding.flatten()
    return Lookup.apply(table_RD, ids.flatten(), sparse, skipped_N).view(*ids.shape, table_RD.shape[1])


class Lookup(torch.autograd.Function):
    """table [R, D], ids [N] -> table[ids] [N, D], on a CPU.

    The gradient is bitwise equal to torch's. It takes one sort of the ids and one sum per distinct
    row. This takes a fifth of the time of torch's sparse gradient with coalescing, and half of the
    time of its dense gradient.
    """

    @staticmethod
    def forward(ctx: Any, table_RD: Tensor, ids_N: Tensor, sparse: bool, skipped_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(ids_N, skipped_N)
        ctx.shape, ctx.sparse = table_RD.shape, sparse
        return take_rows(table_RD, ids_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        ids_N, skipped_N = ctx.saved_tensors
        rows_U, counts_U, order_N = group_rows(ids_N, skipped_N)
        sums_UD = sum_groups(grad_ND, counts_U, order_N)
        if ctx.sparse:
            return sparse_rows(rows_U, sums_UD, ctx.shape), None, None, None
        gradient_RD = grad_ND.new_zeros(ctx.shape)
        put_rows(gradient_RD, rows_U.long(), sums_UD)
        return gradient_RD, None, None, None


def group_rows(ids_N: Tensor, skipped_N: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The U distinct ids in ascending order, how often each occurs, and the positions of each.

    Positions are in one tensor, grouped by id, in their own order within a group. Those that
    `skipped_N` marks are left out.
    """
    if skipped_N is None:
        sorted_N, order_N = ids_N.sort(stable=True)
    else:
        kept_N = (~skipped_N).nonzero().squeeze(1)
        sorted_N, order_N = ids_N[kept_N].sort(stable=True)
        order_N = kept_N[order_N]
    rows_U, counts_U = torch.unique_consecutive(sorted_N, return_counts=True)
    return rows_U, counts_U, order_N


def sum_groups(values_ND: Tensor, counts_U: Tensor, order_N: Tensor) -> Tensor:
    """Add the rows of each group of `group_rows`: [N, D] -> [U, D]."""
    starts_U = counts_U.cumsum(0) - counts_U
    return F.embedding_bag(order_N, values_ND.contiguous(), starts_U, mode="sum")


def sparse_rows(rows_U: Tensor, values_UD: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of this shape, sparse in its rows, from distinct rows in ascending order."""
    return torch.sparse_coo_tensor(
        rows_U.long().unsqueeze(0), values_UD, shape, check_invariants=False, is_coalesced=True
    )


def coalesced(gradient_RD: Tensor) -> Tensor:
    """A sparse gradient with each of its rows once.

    On a CPU `Lookup` has sorted the rows. Autograd may lose the coalesced flag, and checking is
    cheaper than sorting. On an accelerator they are not sorted, and a check would wait for it.
    (`coalesce` waits there once a step, too: how many different rows there are is a value.)
    """
    if gradient_RD.device.type == "cpu" and not gradient_RD.is_coalesced():
        rows = gradient_RD._indices()[0]
        if bool((rows[1:] > rows[:-1]).all()):
            gradient_RD._coalesced_(True)
    return gradient_RD.coalesce()
