"""Factorization machine (Rendle, ICDM 2010)."""

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class FM(nn.Module):
    """y = b + sum_f w[x_f] + sum_(f < g) <e_f, e_g>.

    The sum over pairs is computed as 1/2 sum_d ((sum_f e_fd)^2 - sum_f e_fd^2).
    """

    out_features = 1
    has_table = True

    def __init__(self, schema: Schema, embedding_dim: int, table: TableFactory = FieldEmbedding) -> None:
        super().__init__()
        self.linear = Linear(schema, embedding_dim, table)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        pairs_BD = emb_BFD.sum(1) ** 2 - (emb_BFD**2).sum(1)
        return self.linear(emb_BFD, x) + 0.5 * pairs_BD.sum(1, keepdim=True)
