"""Field-weighted factorization machine (Pan et al., WWW 2018)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.affine import Affine
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class FwFM(nn.Module):
    """y = b + sum_f w[x_f] + sum_(f < g) r_fg <e_f, e_g>, with a weight r per pair of fields."""

    out_features = 1
    has_table = True
    pairs_2P: Tensor

    def __init__(self, schema: Schema, embedding_dim: int, table: TableFactory = FieldEmbedding) -> None:
        super().__init__()
        self.linear = Linear(schema, embedding_dim, table)
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        self.pair_weight = Affine(self.pairs_2P.shape[1], 1, bias=False)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        product_BFF = torch.matmul(emb_BFD, emb_BFD.transpose(1, 2))
        return self.linear(emb_BFD, x) + self.pair_weight(product_BFF[:, self.pairs_2P[0], self.pairs_2P[1]])
