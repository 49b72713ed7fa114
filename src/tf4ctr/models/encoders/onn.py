"""Operation-aware neural network (Yang et al., Neural Networks 121, 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.ffm import FieldAwareProducts
from tf4ctr.models.encoders.linear import TableFactory
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class ONN(nn.Module):
    """h_0 = [e_1; ...; e_F; all <v_fg, v_gf> with f < g], then an MLP.

    A value has an embedding for each operation: e for the copy operation, which is the network's
    embedding, and v_fg for the product with field g, see FieldAwareProducts. The output is the last
    hidden layer of the MLP [B, H].

    Args:
        hidden_units, dropout, batch_norm: of the MLP.
        pair_dim: size of an embedding v.
        init_std: standard deviation of the initial values of v.
        table: builds the table of v.
    """

    has_table = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        pair_dim: int,
        init_std: float = 1e-4,
        dropout: float = 0.0,
        batch_norm: bool = True,
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        self.products = FieldAwareProducts(schema, pair_dim, init_std, table)
        inputs = schema.num_fields * embedding_dim + self.products.pairs_2P.shape[1]
        self.layers = hidden_layers(inputs, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        return self.layers(torch.cat([emb_BFD.flatten(1), self.products(x)], 1))
