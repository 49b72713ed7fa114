"""Cross network of DCN V2, with a full matrix or a mixture of low-rank ones (Wang et al., WWW 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine


class CrossV2(nn.Module):
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l, elementwise, with x_0 = [e_1; ...; e_F]; yields x_L [B, F D].

    Args:
        num_layers: L.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(Affine(self.out_features, self.out_features) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, ids_BW: Tensor) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            cross_BN = first_BN * layer(cross_BN) + cross_BN
        return cross_BN


class CrossMixLayer(nn.Module):
    """x_0 * (sum_k g_k U_k tanh(C_k tanh(V_k x)) + b) + x over K experts, g = softmax(G x): the experts share b, and g sums to 1."""

    def __init__(self, features: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.down = Affine(features, num_experts * rank, bias=False)  # every V_k
        std = (2 / (rank + rank)) ** 0.5  # Xavier's, for each of the matrices
        self.middle = nn.Parameter(torch.randn(num_experts, rank, rank) * std)  # C_k
        self.up = nn.Parameter(
            torch.randn(num_experts, rank, features) * (2 / (rank + features)) ** 0.5
        )  # U_k, transposed
        self.bias = nn.Parameter(torch.zeros(features))
        self.gate = Affine(features, num_experts, bias=False)

    def forward(self, first_BN: Tensor, cross_BN: Tensor) -> Tensor:
        low_BKR = torch.tanh(self.down(cross_BN).unflatten(1, (len(self.middle), -1)))
        low_BKR = torch.tanh(torch.einsum("bkr,ksr->bks", low_BKR, self.middle))
        weighted_BKR = low_BKR * torch.softmax(self.gate(cross_BN), 1).unsqueeze(2)
        return first_BN * (weighted_BKR.flatten(1) @ self.up.flatten(0, 1) + self.bias) + cross_BN


class CrossV2Mix(nn.Module):
    """x_(l+1) = sum_k g_k(x_l) (x_0 * (U_lk tanh(C_lk tanh(V_lk x_l)) + b_l)) + x_l with x_0 = [e_1; ...; e_F]; yields x_L [B, F D].

    Args:
        num_layers: L.
        rank: of each expert's matrices.
        num_experts: experts a layer; g is a softmax over them.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int, rank: int, num_experts: int) -> None:
        super().__init__()
        if rank < 1 or num_experts < 1:
            raise InputError(f"rank {rank}, num_experts {num_experts}: both must be at least 1")
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(CrossMixLayer(self.out_features, rank, num_experts) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, ids_BW: Tensor) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            cross_BN = layer(first_BN, cross_BN)
        return cross_BN
