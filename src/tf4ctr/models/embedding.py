"""One table for all fields, one gather.

Shapes in the names of tensors, here and in every model file: B batch, F fields, W id columns (F, and more where there are list
fields), D embedding size, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.data.schema import Schema


class FieldEmbedding(nn.Module):
    """The embeddings of all fields in one table [num_ids, D], drawn from N(0, init_std^2), each field's padding row zero.

    A list field's embedding is the sum of its values' (masked sum pooling). No padding row ever gets a gradient, so it stays zero
    under weight decay.

    Args:
        init_std: of the normal distribution.
        sparse: the gradient holds the rows of the batch alone, which `RowwiseAdam` takes.
    """

    field_W: Tensor
    padding_W: Tensor

    def __init__(self, schema: Schema, dim: int, init_std: float = 1e-4, sparse: bool = False) -> None:
        super().__init__()
        self.dim, self.sparse = dim, sparse
        self.weight = nn.Parameter(torch.empty(schema.num_ids, dim))
        with torch.no_grad():
            self.weight.normal_(std=init_std)
            self.weight[list(schema.offsets)] = 0.0
        self.num_fields = schema.num_fields
        self.has_lists = len(schema.columns) > schema.num_fields
        if self.has_lists:
            field_of_column = [number for number, field in enumerate(schema.fields) for _ in range(field.width)]
            self.register_buffer("field_W", torch.tensor(field_of_column), persistent=False)
            self.register_buffer("padding_W", torch.tensor([schema.offsets[number] for number in field_of_column]), persistent=False)

    def forward(self, ids_BW: Tensor) -> Tensor:
        """ids int32 [B, W], offset into the table -> [B, F, D]."""
        emb_BWD = F.embedding(ids_BW, self.weight, sparse=self.sparse)
        if not self.has_lists:
            return emb_BWD
        emb_BWD = emb_BWD * (ids_BW != self.padding_W).unsqueeze(2)
        # .shape and not len(): an exported graph takes batches of any size
        return emb_BWD.new_zeros(ids_BW.shape[0], self.num_fields, self.dim).index_add(1, self.field_W, emb_BWD)
