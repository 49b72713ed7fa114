"""FiBiNET: feature weights, bilinear interactions, then an MLP (Huang et al., RecSys 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class SENET(nn.Module):
    """z_f = mean_d e_fd;  a = relu(W_2 relu(W_1 z));  output a_f e_f [B, F, D].

    W_1 maps F to F / reduction numbers, W_2 maps them back to F.

    Raises:
        InputError: the reduction is below 1.
    """

    def __init__(self, num_fields: int, reduction: int) -> None:
        super().__init__()
        if reduction < 1:
            raise InputError(
                f"reduction is {reduction}: SENET divides the number of fields by it, so it must be at least 1"
            )
        reduced = max(1, num_fields // reduction)
        self.squeeze, self.excite = Affine(num_fields, reduced, bias=False), Affine(reduced, num_fields, bias=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, D]"""
        importance_BF = torch.relu(self.excite(torch.relu(self.squeeze(emb_BFD.mean(2)))))
        return importance_BF.unsqueeze(2) * emb_BFD


class BilinearInteraction(nn.Module):
    """p_fg = (e_f W) * e_g for each of the P pairs f < g: output [B, P, D].

    Args:
        weights: `all`: one W for all pairs; `field`: one per left field f (that of the last field,
            which is never a left one, is not trained); `pair`: one per pair.

    Raises:
        InputError: unknown `weights`.
    """

    pairs_2P: Tensor

    def __init__(self, schema: Schema, embedding_dim: int, weights: str) -> None:
        super().__init__()
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        counts = {"all": 1, "field": schema.num_fields, "pair": self.pairs_2P.shape[1]}
        if weights not in counts:
            raise InputError(f"weights is '{weights}': {did_you_mean(weights, counts)}")
        self.weights = weights
        std = (2 / (2 * embedding_dim)) ** 0.5  # Xavier normal, per matrix
        self.weight = nn.Parameter(torch.randn(counts[weights], embedding_dim, embedding_dim) * std)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, P, D]"""
        left_P, right_P = self.pairs_2P
        if self.weights == "pair":
            left_BPD = torch.einsum("bpd,pde->bpe", emb_BFD[:, left_P], self.weight)
        else:
            left_BPD = torch.einsum("bfd,fde->bfe", emb_BFD, self.weight.expand(emb_BFD.shape[1], -1, -1))[:, left_P]
        return left_BPD * emb_BFD[:, right_P]


class Bilinear(nn.Module):
    """h_0 = [bilinear(E); bilinear'(SENET(E))], then an MLP.

    The output is the last hidden layer of the MLP [B, H].

    Args:
        weights: matrices of the bilinear interactions, `all`, `field` or `pair`; see
            BilinearInteraction.
        reduction: SENET's inner layer has F / reduction units.
        hidden_units, dropout, batch_norm: of the MLP.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        weights: str = "pair",
        reduction: int = 3,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.senet = SENET(schema.num_fields, reduction)
        self.plain, self.weighted = (BilinearInteraction(schema, embedding_dim, weights) for _ in range(2))
        inputs = 2 * self.plain.pairs_2P.shape[1] * embedding_dim
        self.layers = hidden_layers(inputs, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        pairs_BPD = torch.cat([self.plain(emb_BFD), self.weighted(self.senet(emb_BFD))], 1)
        return self.layers(pairs_BPD.flatten(1))
