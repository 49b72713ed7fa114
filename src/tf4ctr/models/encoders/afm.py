"""Attentional factorization machine (Xiao et al., IJCAI 2017)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class AFM(nn.Module):
    """y = b + sum_f w[x_f] + p^T sum_(f < g) a_fg (e_f * e_g).

    The attention a is the softmax over all pairs of h^T relu(W (e_f * e_g) + c).

    Args:
        attention_units: rows of W.
        dropout: probability that a number of the weighted sum is set to zero in training.

    Raises:
        InputError: no attention unit, a dropout outside [0, 1), or a dataset with one field.
    """

    out_features = 1
    has_table = True
    pairs_2P: Tensor

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        attention_units: int,
        dropout: float = 0.0,
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        if attention_units < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"attention_units is {attention_units}, dropout is {dropout}:"
                " at least one unit is needed, and a dropout from 0 to below 1"
            )
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        self.linear = Linear(schema, embedding_dim, table)
        self.attention = nn.Sequential(
            Affine(embedding_dim, attention_units), nn.ReLU(), Affine(attention_units, 1, bias=False)
        )
        self.dropout = Dropout(dropout)
        self.output = Affine(embedding_dim, 1, bias=False)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        left_P, right_P = self.pairs_2P
        product_BPD = emb_BFD[:, left_P] * emb_BFD[:, right_P]
        weight_BP1 = torch.softmax(self.attention(product_BPD), 1)
        return self.linear(emb_BFD, x) + self.output(self.dropout((weight_BP1 * product_BPD).sum(1)))
