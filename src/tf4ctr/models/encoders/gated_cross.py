"""Gated cross network of GDCN (Wang et al., CIKM 2023)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.cross import check_layers
from tf4ctr.models.inputs import Inputs


class GatedCross(nn.Module):
    """c_(l+1) = c_0 * (W_l c_l + b_l) * sigmoid(V_l c_l) + c_l, elementwise.

    c_0 = [e_1; ...; e_F]. The output is c_L [B, F D].

    Args:
        num_layers: L.

    Raises:
        InputError: there is no layer.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        check_layers(num_layers)
        self.out_features = schema.num_fields * embedding_dim
        self.crosses = nn.ModuleList(Affine(self.out_features, self.out_features) for _ in range(num_layers))
        self.gates = nn.ModuleList(Affine(self.out_features, self.out_features, bias=False) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for cross, gate in zip(self.crosses, self.gates, strict=True):
            cross_BN = first_BN * cross(cross_BN) * torch.sigmoid(gate(cross_BN)) + cross_BN
        return cross_BN
