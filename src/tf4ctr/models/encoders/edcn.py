"""EDCN: a cross and a deep network, connected at every layer (Chen et al., DLP-KDD 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs

BRIDGES = ("product", "sum", "concat", "attention")


class Bridge(nn.Module):
    """Combines the outputs x and h of the two networks after a layer, [B, N] each, into one [B, N].

    product: x * h;  sum: x + h;  concat: relu(W [x; h] + b);  attention: a_x x + a_h h, where a is
    the softmax over {x, h} of p^T relu(W . + b), with the same p, W and b for both.
    """

    def __init__(self, features: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "concat":
            self.linear = Affine(2 * features, features)
        elif kind == "attention":
            self.score = nn.Sequential(Affine(features, features), nn.ReLU(), Affine(features, 1, bias=False))

    def forward(self, cross_BN: Tensor, deep_BN: Tensor) -> Tensor:
        """x [B, N], h [B, N] -> [B, N]"""
        if self.kind == "product":
            return cross_BN * deep_BN
        if self.kind == "sum":
            return cross_BN + deep_BN
        if self.kind == "concat":
            return torch.relu(self.linear(torch.cat([cross_BN, deep_BN], 1)))
        weight_B2 = torch.softmax(torch.cat([self.score(cross_BN), self.score(deep_BN)], 1), 1)
        return weight_B2[:, :1] * cross_BN + weight_B2[:, 1:] * deep_BN


class Regulation(nn.Module):
    """Weights the fields of b for each of the two networks: softmax_f(w / tau) b_f."""

    def __init__(self, num_fields: int, temperature: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, num_fields))
        self.temperature = temperature

    def forward(self, shared_BN: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F D] -> two of [B, F D]"""
        weight_2F1 = torch.softmax(self.weight / self.temperature, 1).unsqueeze(2)
        fields_BFD = shared_BN.unflatten(1, (weight_2F1.shape[1], -1))
        return (fields_BFD * weight_2F1[0]).flatten(1), (fields_BFD * weight_2F1[1]).flatten(1)


class EDCN(nn.Module):
    """With x_0 = [e_1; ...; e_F], in each of L layers:

        x, h = regulation(b)         b is x_0 in the first layer
        x = x_0' (w . x) + v + x     the cross network; x_0' is the regulated x of the first layer
        h = relu(W h + u)            the deep network, as wide as x
        b = bridge(x, h)

    The output is [x; h; b] of the last layer [B, 3 F D].

    Args:
        num_layers: L.
        bridge: product, sum, concat or attention.
        temperature: tau of the regulation.
        dropout, batch_norm: of the deep network.

    Raises:
        InputError: an unknown bridge, no layer, or a temperature that is not positive.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        num_layers: int,
        bridge: str = "product",
        temperature: float = 1.0,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if bridge not in BRIDGES:
            raise InputError(f"bridge is '{bridge}': {did_you_mean(bridge, BRIDGES)}")
        if num_layers < 1 or temperature <= 0:
            raise InputError(
                f"num_layers is {num_layers}, temperature is {temperature}:"
                " at least one layer and a positive temperature are needed"
            )
        features = schema.num_fields * embedding_dim
        self.regulations = nn.ModuleList(Regulation(schema.num_fields, temperature) for _ in range(num_layers))
        self.crosses = nn.ModuleList(Affine(features, 1, bias=False) for _ in range(num_layers))
        self.cross_biases = nn.ParameterList(torch.zeros(features) for _ in range(num_layers))
        self.deeps = nn.ModuleList(hidden_layers(features, [features], dropout, batch_norm) for _ in range(num_layers))
        self.bridges = nn.ModuleList(Bridge(features, bridge) for _ in range(num_layers))
        self.out_features = 3 * features

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 3 F D]"""
        bridge_BN, first_BN = emb_BFD.flatten(1), None
        layers = zip(self.regulations, self.crosses, self.cross_biases, self.deeps, self.bridges, strict=True)
        for regulation, cross, bias, deep, bridge in layers:
            cross_BN, deep_BN = regulation(bridge_BN)
            first_BN = cross_BN if first_BN is None else first_BN
            cross_BN = first_BN * cross(cross_BN) + bias + cross_BN
            deep_BN = deep(deep_BN)
            bridge_BN = bridge(cross_BN, deep_BN)
        return torch.cat([cross_BN, deep_BN, bridge_BN], 1)
