"""One embedding table for all fields, read with one lookup.

Shapes in the names of tensors, here and in every model file: B batch, F fields, W id columns (a
list field has several, so W >= F), D embedding size, H hidden size.
"""

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from tf4ctr.data.schema import Schema
from tf4ctr.models.rows import look_up


class FieldEmbedding(nn.Module):
    """The embeddings of all fields in one table [num_ids, D].

    The rows are drawn from N(0, init_std^2); each field's padding row is zero. The embedding of a
    list field is the sum of its values' embeddings, without padding. A padding row never gets a
    gradient, so it stays zero under weight decay.

    Args:
        schema: the fields.
        dim: embedding size D.
        init_std: standard deviation of the initial values.
        sparse: the gradient contains the rows of the batch only. `RowwiseAdam` requires this.
        sharded: allow `shard`, which distributes the rows over the processes of one training.
    """

    field_W: Tensor
    padding_W: Tensor

    def __init__(
        self, schema: Schema, dim: int, init_std: float = 1e-4, sparse: bool = False, sharded: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.sparse, self.sharded = dim, sparse, sharded
        self.weight = nn.Parameter(torch.empty(schema.num_ids, dim))
        with torch.no_grad():
            self.weight.normal_(std=init_std)
            self.weight[list(schema.offsets)] = 0.0
        self.num_fields = schema.num_fields
        self.has_lists = len(schema.columns) > schema.num_fields
        if self.has_lists:
            field_of_column = [number for number, field in enumerate(schema.fields) for _ in range(field.width)]
            padding_of_column = [schema.offsets[number] for number in field_of_column]
            self.register_buffer("field_W", torch.tensor(field_of_column), persistent=False)
            self.register_buffer("padding_W", torch.tensor(padding_of_column), persistent=False)

    def shard(self, mesh: DeviceMesh) -> None:
        """Keep only this rank's rows: the weight becomes a distributed tensor.

        The ranks get equally many consecutive rows. Every rank must call this method. After that,
        every lookup is collective, and every rank looks up its own batch: the ids are gathered,
        each rank looks up the rows that it owns, and the results are summed on the rank that asked
        for them (as in torch's `RowwiseParallel`). The gradient is the mean over the ranks' losses,
        as with DistributedDataParallel. In evaluation the batches can have different sizes or be
        empty.
        """
        self.weight = nn.Parameter(distribute_tensor(self.weight.detach(), mesh, [Shard(0)], src_data_rank=None))

    def forward(self, ids_BW: Tensor) -> Tensor:
        """ids int32 [B, W], offset into the table -> [B, F, D]."""
        if isinstance(self.weight, DTensor):
            emb_BWD = self._look_up_sharded(ids_BW, self.weight.device_mesh)
        else:
            emb_BWD = look_up(self.weight, ids_BW, self.sparse)
        return self._sum_lists(emb_BWD, ids_BW) if self.has_lists else emb_BWD

    def _sum_lists(self, emb_BWD: Tensor, ids_BW: Tensor) -> Tensor:
        """Sum the columns of each field, without padding: [B, W, D] -> [B, F, D]."""
        emb_BWD = emb_BWD * (ids_BW != self.padding_W).unsqueeze(2)
        # .shape instead of len(): an exported graph accepts batches of any size
        return emb_BWD.new_zeros(ids_BW.shape[0], self.num_fields, self.dim).index_add(1, self.field_W, emb_BWD)

    def _look_up_sharded(self, ids_BW: Tensor, mesh: DeviceMesh) -> Tensor:
        rows = len(ids_BW)
        if not torch.is_grad_enabled():  # in training all ranks have equally many rows
            most_rows = torch.tensor(rows, device=ids_BW.device)
            torch.distributed.all_reduce(most_rows, torch.distributed.ReduceOp.MAX, mesh.get_group())
            ids_BW = F.pad(ids_BW, (0, 0, 0, int(most_rows) - rows))
        ids = DTensor.from_local(ids_BW, mesh, [Shard(0)], run_check=False).redistribute(placements=[Replicate()])
        emb_BWD: Tensor = F.embedding(ids, self.weight).redistribute(placements=[Shard(0)]).to_local()  # type: ignore[attr-defined]
        if emb_BWD.requires_grad:
            emb_BWD.register_hook(lambda gradient: gradient / mesh.size())
        return emb_BWD[:rows]
