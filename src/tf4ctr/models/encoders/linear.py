"""The linear part, as in logistic regression."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.inputs import Inputs

TableFactory = Callable[..., FieldEmbedding]  # schema, dim -> a table


class Linear(nn.Module):
    """y = b + sum_f w[x_f] + sum_n (w_n x_n + b_n): one weight per id, and per number.

    A missing number adds a learned value instead. The embeddings are not used.
    """

    out_features = 1
    uses_embeddings = False
    has_table = True

    def __init__(self, schema: Schema, embedding_dim: int, table: TableFactory = FieldEmbedding) -> None:
        super().__init__()
        self.weight = table(schema, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        return self.weight(*x).sum(1) + self.bias
