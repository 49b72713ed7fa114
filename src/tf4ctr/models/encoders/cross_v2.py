"""Cross network of DCN V2, with full or low-rank matrices (Wang et al., WWW 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.cross import check_layers
from tf4ctr.models.inputs import Inputs


class CrossV2(nn.Module):
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l, elementwise, with x_0 = [e_1; ...; e_F].

    The output is x_L [B, F D].

    Args:
        num_layers: L.

    Raises:
        InputError: there is no layer.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        check_layers(num_layers)
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(Affine(self.out_features, self.out_features) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            cross_BN = first_BN * layer(cross_BN) + cross_BN
        return cross_BN


class CrossMixLayer(nn.Module):
    """x_0 * (sum_k g_k U_k tanh(C_k tanh(V_k x)) + b) + x over K experts, with g = softmax(G x).

    b is outside the sum, because the experts share it and g sums to 1.
    """

    def __init__(self, features: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.down = Affine(features, num_experts * rank, bias=False)  # all V_k
        std = (2 / (rank + rank)) ** 0.5  # Xavier normal, per matrix
        self.middle = nn.Parameter(torch.randn(num_experts, rank, rank) * std)  # C_k
        up_std = (2 / (rank + features)) ** 0.5
        self.up = nn.Parameter(torch.randn(num_experts, rank, features) * up_std)  # U_k, transposed
        self.bias = nn.Parameter(torch.zeros(features))
        self.gate = Affine(features, num_experts, bias=False)

    def forward(self, first_BN: Tensor, cross_BN: Tensor) -> Tensor:
        """x_0 [B, N], x_l [B, N] -> x_(l+1) [B, N], N = F D"""
        low_BKR = torch.tanh(self.down(cross_BN).unflatten(1, (len(self.middle), -1)))
        low_BKR = torch.tanh(torch.einsum("bkr,ksr->bks", low_BKR, self.middle))
        weighted_BKR = low_BKR * torch.softmax(self.gate(cross_BN), 1).unsqueeze(2)
        return first_BN * (weighted_BKR.flatten(1) @ self.up.flatten(0, 1) + self.bias) + cross_BN


class CrossV2Mix(nn.Module):
    """x_(l+1) = sum_k g_k(x_l) (x_0 * (U_lk tanh(C_lk tanh(V_lk x_l)) + b_l)) + x_l.

    x_0 = [e_1; ...; e_F], and g is a softmax over the experts. The output is x_L [B, F D].

    Args:
        num_layers: L.
        rank: of each expert's matrices.
        num_experts: experts per layer.

    Raises:
        InputError: num_layers, rank or num_experts is below 1.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int, rank: int, num_experts: int) -> None:
        super().__init__()
        check_layers(num_layers)
        if rank < 1 or num_experts < 1:
            raise InputError(f"rank is {rank}, num_experts is {num_experts}: both must be at least 1")
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(CrossMixLayer(self.out_features, rank, num_experts) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            cross_BN = layer(first_BN, cross_BN)
        return cross_BN
