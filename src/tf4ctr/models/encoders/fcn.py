"""The cross networks of FCN, exponential and linear (Li et al., arXiv 2407.13349, 2024)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.inputs import Inputs


class FusionCrossLayer(nn.Module):
    """c = W x with half as many numbers as x;  m = c * relu(layer_norm(c)), the self-mask.

    The output is dropout(a * ([c; m] + b) + x), elementwise, for another vector a. If x has an odd
    size, m lacks its last number.
    """

    def __init__(self, features: int, layer_norm: bool, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        half = (features + 1) // 2
        self.linear = Affine(features, half, bias=False)
        self.batch_norm = nn.BatchNorm1d(half) if batch_norm else nn.Identity()
        self.layer_norm = nn.LayerNorm(half) if layer_norm else nn.Identity()
        self.bias = nn.Parameter(torch.rand(features))
        self.dropout = Dropout(dropout)

    def forward(self, left_BN: Tensor, cross_BN: Tensor) -> Tensor:
        """a [B, N], x [B, N] -> [B, N]"""
        half_BM = self.batch_norm(self.linear(cross_BN))
        mask_BM = half_BM * torch.relu(self.layer_norm(half_BM))
        both_BN = torch.cat([half_BM, mask_BM], 1)[:, : cross_BN.shape[1]]
        return self.dropout(left_BN * (both_BN + self.bias) + cross_BN)


class FusionCross(nn.Module):
    """x_(l+1) = dropout(a_l * ([c_l; m_l] + b_l) + x_l), see FusionCrossLayer. The output is x_L.

    a_l = x_l gives the exponential cross network: each layer doubles the order of the interactions.
    a_l = x_1 gives the linear one: each layer adds 1 to the order. x_1 has the numbers of all
    embeddings, the first of every field before the second of every field. So c belongs to the
    first half of each embedding, and m to the second half. b is drawn from U(0, 1), as in the
    published code.

    Args:
        num_layers: L - 1.
        exponential: whether a_l is x_l.
        layer_norm: whether the self-mask normalises c.
        batch_norm: whether a batch norm follows W x.
        dropout: probability that a number of a layer's output is set to zero in training.

    Raises:
        InputError: there is no layer, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        num_layers: int,
        exponential: bool,
        layer_norm: bool = True,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"num_layers is {num_layers}, dropout is {dropout}:"
                " at least one layer is needed, and a dropout from 0 to below 1"
            )
        self.exponential = exponential
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(
            FusionCrossLayer(self.out_features, layer_norm, batch_norm, dropout) for _ in range(num_layers)
        )

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.transpose(1, 2).flatten(1)
        for layer in self.layers:
            cross_BN = layer(cross_BN if self.exponential else first_BN, cross_BN)
        return cross_BN
