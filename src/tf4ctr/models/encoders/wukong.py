"""Stacked factorization machines: Wukong (Zhang et al., ICML 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class Compression(nn.Module):
    """W X: the linear compression block, [B, inputs, D] -> [B, outputs, D]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Affine(inputs, outputs, bias=False)

    def forward(self, x_BID: Tensor) -> Tensor:
        """[B, inputs, D] -> [B, outputs, D]"""
        return self.linear(x_BID.transpose(1, 2)).transpose(1, 2)


class FMBlock(nn.Module):
    """MLP(layer_norm(X X^T Y)) as `outputs` vectors of size D; Y [inputs, rank] is learned."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int, rank: int, units: Sequence[int]) -> None:
        super().__init__()
        self.outputs = outputs
        self.compression = Compression(inputs, rank)
        self.norm = nn.LayerNorm(inputs * rank)
        self.layers = nn.Sequential(
            *hidden_layers(inputs * rank, units, 0.0, batch_norm=False), Affine(units[-1], outputs * embedding_dim)
        )

    def forward(self, x_BID: Tensor) -> Tensor:
        """[B, inputs, D] -> [B, outputs, D]"""
        # X X^T Y as X (Y^T X)^T: no inputs x inputs matrix
        product_BIK = x_BID @ self.compression(x_BID).transpose(1, 2)
        return self.layers(self.norm(product_BIK.flatten(1))).unflatten(1, (self.outputs, -1))


class WukongLayer(nn.Module):
    """layer_norm([FM block(X); compression(X)] + X), normalised over D.

    If X has another number of vectors, W X replaces the last term.
    """

    def __init__(
        self, inputs: int, fm_vectors: int, linear_vectors: int, embedding_dim: int, rank: int, units: Sequence[int]
    ) -> None:
        super().__init__()
        outputs = fm_vectors + linear_vectors
        self.fm = FMBlock(inputs, fm_vectors, embedding_dim, rank, units)
        self.compression = Compression(inputs, linear_vectors)
        self.residual = nn.Identity() if inputs == outputs else Compression(inputs, outputs)
        self.norm = nn.LayerNorm(embedding_dim)

    def forward(self, x_BID: Tensor) -> Tensor:
        """[B, inputs, D] -> [B, fm_vectors + linear_vectors, D]"""
        return self.norm(torch.cat([self.fm(x_BID), self.compression(x_BID)], 1) + self.residual(x_BID))


class Wukong(nn.Module):
    """A stack of WukongLayers over the embeddings, then an MLP over all vectors of the last layer.

    Layer l has interactions of up to 2^l fields. The output is the last hidden layer of the MLP
    [B, H].

    Args:
        num_layers: number of layers in the stack.
        fm_vectors, linear_vectors: vectors that a layer's FM block and compression yield.
        rank: columns of Y.
        fm_units: hidden layers of the MLP in an FM block.
        hidden_units, dropout, batch_norm: of the MLP over the last layer.

    Raises:
        InputError: a number is below 1.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        num_layers: int,
        fm_vectors: int,
        linear_vectors: int,
        rank: int,
        fm_units: Sequence[int],
        hidden_units: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if min(num_layers, fm_vectors, linear_vectors, rank) < 1:
            raise InputError(
                f"num_layers is {num_layers}, fm_vectors is {fm_vectors}, linear_vectors is {linear_vectors},"
                f" rank is {rank}: each must be at least 1"
            )
        vectors = fm_vectors + linear_vectors
        self.stack = nn.Sequential(
            *(
                WukongLayer(
                    vectors if i else schema.num_fields, fm_vectors, linear_vectors, embedding_dim, rank, fm_units
                )
                for i in range(num_layers)
            )
        )
        self.layers = hidden_layers(vectors * embedding_dim, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        return self.layers(self.stack(emb_BFD).flatten(1))
