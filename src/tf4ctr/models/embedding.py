"""One table for all fields, one gather.

Shapes in the names of tensors, here and in every model file: B batch, F fields, D embedding size, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.data.schema import Schema


class FieldEmbedding(nn.Module):
    """The embeddings of all fields in one table [num_ids, D], drawn from N(0, init_std^2), each field's padding row zero.

    A padding row is gathered by no single-valued field, so it gets no gradient and stays zero under weight decay.
    """

    def __init__(self, schema: Schema, dim: int, init_std: float = 1e-4) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(schema.num_ids, dim))
        with torch.no_grad():
            self.weight.normal_(std=init_std)
            self.weight[list(schema.offsets)] = 0.0

    def forward(self, ids_BF: Tensor) -> Tensor:
        """ids int32 [B, F], offset into the table -> [B, F, D]."""
        return F.embedding(ids_BF, self.weight)
