"""Bi-interaction pooling, then an MLP: the deep part of NFM (He and Chua, SIGIR 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class BiInteraction(nn.Module):
    """h_0 = sum_(f < g) e_f * e_g = 1/2 ((sum_f e_f)^2 - sum_f e_f^2), elementwise over D.

    An MLP over h_0 follows. The output is its last hidden layer [B, H].

    Args:
        hidden_units, dropout, batch_norm: of the MLP; a batch norm follows the pooling too.

    Raises:
        InputError: the dataset has only one field.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        field_pairs(schema)  # refuses one field, whose pooling is 0
        self.norm = nn.BatchNorm1d(embedding_dim) if batch_norm else nn.Identity()
        self.layers = hidden_layers(embedding_dim, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        pooled_BD = 0.5 * (emb_BFD.sum(1) ** 2 - (emb_BFD**2).sum(1))
        return self.layers(self.norm(pooled_BD))
