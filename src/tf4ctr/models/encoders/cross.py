"""Cross network of DCN (Wang et al., ADKDD 2017)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.inputs import Inputs


def check_layers(num_layers: int) -> None:
    """Check the number of layers of a cross network.

    Raises:
        InputError: there is none.
    """
    if num_layers < 1:
        raise InputError(f"num_layers is {num_layers}: at least one layer is needed")


class Cross(nn.Module):
    """x_(l+1) = x_0 (w_l . x_l) + b_l + x_l with x_0 = [e_1; ...; e_F]. The output is x_L [B, F D].

    Args:
        num_layers: L.

    Raises:
        InputError: there is no layer.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        check_layers(num_layers)
        self.out_features = schema.num_fields * embedding_dim
        self.weights = nn.ModuleList(Affine(self.out_features, 1, bias=False) for _ in range(num_layers))
        self.biases = nn.ParameterList(torch.zeros(self.out_features) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            cross_BN = first_BN * weight(cross_BN) + bias + cross_BN
        return cross_BN
