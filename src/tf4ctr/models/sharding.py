"""Tables over the ranks of one training: sharded ones, and equal copies of one on each rank.

Shapes: R rows of this rank, D row size, N ids, U distinct ids, M rows that all ranks ask this one
for. The ranks are those of torch's default process group.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tf4ctr.models.rows import coalesced, group_rows, sparse_rows, sum_groups, take_rows

# rows drawn at a time: their numbers are thrown away if another rank owns the rows
BLOCK = 2**18


class Shards(NamedTuple):
    """Consecutive rows of a table for each rank: equally many, and fewer for the last ranks.

    This is how torch's `Shard(0)` divides rows, so that its distributed checkpoints know them.

    Attributes:
        rows: of the whole table.
        rank, ranks: this process, and the number of processes.
    """

    rows: int
    rank: int
    ranks: int

    @property
    def rows_per_rank(self) -> int:
        """The number of rows of the first rank."""
        return -(-self.rows // self.ranks)

    @property
    def own(self) -> range:
        """The rows of this rank."""
        first = min(self.rank * self.rows_per_rank, self.rows)
        return range(first, min(first + self.rows_per_rank, self.rows))


class ShardedLookup(torch.autograd.Function):
    """own rows [R, D], ids of the whole table [N] -> their rows [N, D]. Every rank must call it.

    A rank asks each owner once for each of its distinct ids: the ranks exchange how many rows each
    wants of each, then the ids, then the rows. The backward exchanges one gradient per distinct id
    and gives the mean over the ranks' losses, as DistributedDataParallel does: the sparse gradient
    of the own rows that any rank asked for. Ranks may have different numbers of ids, or none.
    """

    @staticmethod
    def forward(ctx: Any, own_RD: Tensor, ids_N: Tensor, shards: Shards, skipped_N: Tensor | None) -> Tensor:
        rows_U, counts_U, order_N = group_rows(ids_N, skipped_N)
        bounds = torch.arange(1, shards.ranks + 1, device=rows_U.device) * shards.rows_per_rank
        asked = torch.searchsorted(rows_U, bounds).diff(prepend=bounds.new_zeros(1))
        answered = torch.empty_like(asked)
        distributed.all_to_all_single(answered, asked)
        sent, received = torch.stack([asked, answered]).tolist()
        rows_M = _exchange(rows_U, sent, received) - shards.own.start
        # the last row is that of skipped ids, which are padding: zero
        emb_UD = own_RD.new_zeros(len(rows_U) + 1, own_RD.shape[1])
        _exchange(take_rows(own_RD, rows_M), received, sent, emb_UD[:-1])
        place_N = torch.full(ids_N.shape, len(rows_U), device=ids_N.device)
        place_N[order_N] = torch.repeat_interleave(counts_U)
        ctx.save_for_backward(rows_M, counts_U, order_N)
        ctx.shape, ctx.ranks, ctx.sizes = own_RD.shape, shards.ranks, (sent, received)
        return take_rows(emb_UD, place_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        rows_M, counts_U, order_N = ctx.saved_tensors
        grad_MD = _exchange(sum_groups(grad_ND, counts_U, order_N), *ctx.sizes)
        rows_V, counts_V, order_M = group_rows(rows_M)  # several ranks may have asked for a row
        return sparse_rows(rows_V, sum_groups(grad_MD, counts_V, order_M) / ctx.ranks, ctx.shape), None, None, None


def _exchange(values: Tensor, sent: list[int], received: list[int], out: Tensor | None = None) -> Tensor:
    """Send `sent[r]` consecutive rows to each rank r; return the `received[r]` rows of each."""
    if out is None:
        out = values.new_empty(sum(received), *values.shape[1:])
    distributed.all_to_all_single(out, values.contiguous(), received, sent)
    return out


def mean_over_ranks(gradient_RD: Tensor) -> Tensor:
    """The mean of the ranks' sparse gradients, equal on all ranks bit for bit.

    The ranks exchange the rows that they touched, and each adds them in the same order. Every rank
    must call it.
    """
    gradient_RD = coalesced(gradient_RD)
    rows_U, values_UD = gradient_RD.indices()[0], gradient_RD.values()
    ranks = distributed.get_world_size()
    sizes = rows_U.new_empty(ranks)
    distributed.all_gather_into_tensor(sizes, rows_U.new_tensor([len(rows_U)]))
    most = int(sizes.max())  # all ranks must send equally many
    padding = most - len(rows_U)
    rows_K, values_KD = rows_U.new_empty(ranks * most), values_UD.new_empty(ranks * most, values_UD.shape[1])
    distributed.all_gather_into_tensor(rows_K, F.pad(rows_U, (0, padding)))
    distributed.all_gather_into_tensor(values_KD, F.pad(values_UD, (0, 0, 0, padding)))
    sent_K = (torch.arange(most, device=sizes.device) < sizes.unsqueeze(1)).flatten()
    rows_V, counts_V, order_N = group_rows(rows_K, ~sent_K)
    return sparse_rows(rows_V, sum_groups(values_KD, counts_V, order_N) / ranks, gradient_RD.shape)


class BlockwiseNormal:
    """The numbers of `torch.empty(rows, dim).normal_(std=std)`, of which only some rows are drawn.

    The constructor moves torch's generator on, as that draw does. `fill` draws rows later. So a
    table that is distributed over ranks starts as the same table on one, and no rank holds it.
    """

    def __init__(self, rows: int, dim: int, std: float) -> None:
        self.rows, self.dim, self.std = rows, dim, std
        self.dtype = torch.get_default_dtype()  # float64 is drawn in another way
        self.states = []
        for block in self._blocks():
            self.states.append(torch.get_rng_state())
            torch.empty(len(block), dim).normal_()

    def _blocks(self) -> Iterator[range]:
        # torch draws 16 numbers at a time: a block has a multiple of 16, the last one 16 or more
        starts = range(0, max(self.rows - 15, 1), BLOCK)
        for start in starts:
            yield range(start, self.rows if start == starts[-1] else start + BLOCK)

    def fill(self, out_RD: Tensor, own: range) -> None:
        """Draw the rows `own` of the whole into `out`."""
        generator = torch.Generator()
        for block, state in zip(self._blocks(), self.states, strict=True):
            first, last = max(block.start, own.start), min(block.stop, own.stop)
            if first < last:
                drawn = torch.empty(len(block), self.dim, dtype=self.dtype)
                drawn.normal_(std=self.std, generator=generator.set_state(state))
                out_RD[first - own.start : last - own.start] = drawn[first - block.start : last - block.start]
