"""Sample selection embedding module: what each of the two encoders sees of a sample (TF4CTR, section on SSEM).

Every one maps ids [B, F] to (e_s [B, F, D_s], e_c [B, F, D_c]) and tells D_s and D_c as `simple_dim` and `complex_dim`.
"""

from collections.abc import Callable

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding

EmbeddingFactory = Callable[[Schema, int], FieldEmbedding]


class Shared(nn.Module):
    """One table, e_s = e_c: no selection, the baseline."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int) -> None:
        super().__init__()
        self.simple_dim = self.complex_dim = dim
        self.table = embedding(schema, dim)

    def forward(self, ids_BF: Tensor) -> tuple[Tensor, Tensor]:
        emb_BFD = self.table(ids_BF)
        return emb_BFD, emb_BFD


class SeparateRepresentation(nn.Module):
    """SER: two tables, D/2 for the simple encoder and D for the complex one."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise InputError(f"embedding.dim is {dim}: ssem=ser gives half of it to the simple encoder, so it must be even")
        self.simple_dim, self.complex_dim = dim // 2, dim
        self.simple_table = embedding(schema, self.simple_dim)
        self.complex_table = embedding(schema, self.complex_dim)

    def forward(self, ids_BF: Tensor) -> tuple[Tensor, Tensor]:
        return self.simple_table(ids_BF), self.complex_table(ids_BF)
