"""Quadratic neural network, QNN (Li et al., arXiv 2505.17999, 2025)."""

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class QNN(nn.Module):
    """h = relu(batch_norm(W_l x_l + b_l)) with N R numbers, cut into R pieces h_r of N numbers.

    x_(l+1) = dropout(x_l * sum_r h_r + x_l), elementwise, with x_1 = [e_1; ...; e_F] of N = F D
    numbers. The output is x of the last layer.

    Args:
        num_layers: number of layers.
        rank: R.
        dropout: probability that a number of a layer's output is set to zero in training.
        batch_norm: whether a batch norm precedes the ReLU.

    Raises:
        InputError: there is no layer, a rank below 1, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        num_layers: int,
        rank: int,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1 or rank < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"num_layers is {num_layers}, rank is {rank}, dropout is {dropout}:"
                " at least one layer and a rank of at least 1 are needed, and a dropout from 0 to below 1"
            )
        self.out_features = schema.num_fields * embedding_dim
        self.rank = rank
        self.layers = nn.ModuleList(
            hidden_layers(self.out_features, [self.out_features * rank], 0.0, batch_norm) for _ in range(num_layers)
        )
        self.dropout = Dropout(dropout)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            factor_BN = layer(cross_BN).unflatten(1, (self.rank, -1)).sum(1)
            cross_BN = self.dropout(cross_BN * factor_BN + cross_BN)
        return cross_BN
