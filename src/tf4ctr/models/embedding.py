"""One table for all fields, one gather.

Shapes in the names of tensors, here and in every model file: B batch, F fields, W id columns (F, and more where there are list
fields), D embedding size, H hidden size.
"""

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from tf4ctr.data.schema import Schema
from tf4ctr.models.rows import Lookup


class FieldEmbedding(nn.Module):
    """The embeddings of all fields in one table [num_ids, D], drawn from N(0, init_std^2), each field's padding row zero.

    A list field's embedding is the sum of its values' (masked sum pooling). No padding row ever gets a gradient, so it stays zero
    under weight decay.

    Args:
        init_std: of the normal distribution.
        sparse: the gradient holds the rows of the batch alone, which `RowwiseAdam` takes.
        sharded: `shard` may spread the rows over processes that train together.
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
            self.register_buffer("field_W", torch.tensor(field_of_column), persistent=False)
            self.register_buffer(
                "padding_W", torch.tensor([schema.offsets[number] for number in field_of_column]), persistent=False
            )

    def shard(self, mesh: DeviceMesh) -> None:
        """Keep this rank's rows alone, an equal stretch of them: the weight becomes a distributed tensor. Every rank must call it.

        From then on all ranks look up together, each its own batch: ids are gathered, every rank looks up the rows that it has, and
        what it found is summed where it was asked for (as torch's `RowwiseParallel` does it). The gradient is the mean over the ranks'
        losses, as DistributedDataParallel's is. In evaluation batches may be of different sizes, and empty.
        """
        self.weight = nn.Parameter(distribute_tensor(self.weight.detach(), mesh, [Shard(0)], src_data_rank=None))

    def forward(self, ids_BW: Tensor) -> Tensor:
        """ids int32 [B, W], offset into the table -> [B, F, D]."""
        if isinstance(self.weight, DTensor):
            emb_BWD = self._look_up_together(ids_BW, self.weight.device_mesh)
        elif self.weight.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            emb_BWD = F.embedding(ids_BW, self.weight, sparse=self.sparse)
        else:
            emb_BWD = Lookup.apply(self.weight, ids_BW.flatten(), self.sparse).view(*ids_BW.shape, self.dim)
        if not self.has_lists:
            return emb_BWD
        emb_BWD = emb_BWD * (ids_BW != self.padding_W).unsqueeze(2)
        # .shape and not len(): an exported graph takes batches of any size
        return emb_BWD.new_zeros(ids_BW.shape[0], self.num_fields, self.dim).index_add(1, self.field_W, emb_BWD)

    def _look_up_together(self, ids_BW: Tensor, mesh: DeviceMesh) -> Tensor:
        rows = len(ids_BW)
        if not torch.is_grad_enabled():  # in training the stream gives all ranks the same number of rows
            most = torch.tensor(rows, device=ids_BW.device)
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, mesh.get_group())
            ids_BW = F.pad(ids_BW, (0, 0, 0, int(most) - rows))
        ids = DTensor.from_local(ids_BW, mesh, [Shard(0)], run_check=False).redistribute(placements=[Replicate()])
        emb_BWD: Tensor = F.embedding(ids, self.weight).redistribute(placements=[Shard(0)]).to_local()  # type: ignore[attr-defined]
        if emb_BWD.requires_grad:
            emb_BWD.register_hook(lambda gradient: gradient / mesh.size())
        return emb_BWD[:rows]
