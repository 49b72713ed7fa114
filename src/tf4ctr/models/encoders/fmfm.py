"""Field-matrixed factorization machine (Sun et al., WWW 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.bilinear import BilinearInteraction
from tf4ctr.models.encoders.inner_product import field_pairs
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs

WEIGHTS = ("matrix", "vector")


class PairVectors(nn.Module):
    """p_fg = e_f * w_fg * e_g for each of the P pairs f < g: output [B, P, D]. Initially w is 1."""

    pairs_2P: Tensor

    def __init__(self, schema: Schema, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        self.weight = nn.Parameter(torch.ones(self.pairs_2P.shape[1], embedding_dim))

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, P, D]"""
        left_P, right_P = self.pairs_2P
        return emb_BFD[:, left_P] * self.weight * emb_BFD[:, right_P]


class FmFM(nn.Module):
    """y = b + sum_f w[x_f] + sum_(f < g) e_f^T W_fg e_g, with a matrix W per pair of fields.

    Args:
        weights: `matrix`: W is any matrix; `vector`: W is diagonal (FvFM in the paper).

    Raises:
        InputError: unknown `weights`.
    """

    out_features = 1
    has_table = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        weights: str = "matrix",
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        if weights not in WEIGHTS:
            raise InputError(f"weights is '{weights}': {did_you_mean(weights, WEIGHTS)}")
        self.linear = Linear(schema, embedding_dim, table)
        vectors = weights == "vector"
        self.pairs = (
            PairVectors(schema, embedding_dim) if vectors else BilinearInteraction(schema, embedding_dim, "pair")
        )

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        return self.linear(emb_BFD, x) + self.pairs(emb_BFD).sum((1, 2)).unsqueeze(1)
