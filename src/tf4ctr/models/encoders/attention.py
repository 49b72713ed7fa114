"""Self-attention over fields, the interacting layer of AutoInt (Song et al., CIKM 2019)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.inputs import Inputs


def split_heads(vectors_BFD: Tensor, num_heads: int) -> Tensor:
    """[B, F, units] -> [B, heads, F, units / heads]"""
    return vectors_BFD.unflatten(2, (num_heads, -1)).transpose(1, 2)


class AttentionStack(nn.Module):
    """Layers of self-attention over the fields' embeddings, one after the other.

    The output is the concatenation of all fields' vectors [B, F units].

    Args:
        layer: `layer(inputs)` builds one, [B, F, inputs] -> [B, F, units].
        num_layers, units, num_heads, dropout: of the layers, see `Attention`.

    Raises:
        InputError: there is no layer, num_heads does not divide units, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        layer: Callable[[int], nn.Module],
        num_layers: int,
        units: int,
        num_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_layers < 1 or units < 1 or num_heads < 1 or units % num_heads or not 0 <= dropout < 1:
            raise InputError(
                f"num_layers is {num_layers}, units is {units}, num_heads is {num_heads}, dropout is {dropout}:"
                " at least one layer is needed, with units a multiple of num_heads, and a dropout from 0 to below 1"
            )
        self.layers = nn.Sequential(*(layer(units if i else embedding_dim) for i in range(num_layers)))
        self.out_features = schema.num_fields * units

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F units]"""
        return self.layers(emb_BFD).flatten(1)


class InteractingLayer(nn.Module):
    """For each head: a_fg = softmax_g <W_q e_f, W_k e_g>,  o_f = sum_g a_fg W_v e_g.

    The output is relu(norm([o_f of all heads] + W_res e_f)); see `Attention` for the norm, and for
    `scale` and `dropout` of a.
    """

    def __init__(self, inputs: int, units: int, num_heads: int, scale: bool, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.divisor = (units // num_heads) ** 0.5 if scale else 1.0
        self.query, self.key, self.value, self.residual = (Affine(inputs, units, bias=False) for _ in range(4))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(units) if layer_norm else nn.Identity()

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, inputs] -> [B, F, units]"""
        projections = self.query, self.key, self.value
        query, key, value = (split_heads(projection(emb_BFD), self.num_heads) for projection in projections)
        weight_BHFF = self.dropout(torch.softmax(query @ key.transpose(2, 3) / self.divisor, 3))
        out_BFD = (weight_BHFF @ value).transpose(1, 2).flatten(2) + self.residual(emb_BFD)
        return torch.relu(self.norm(out_BFD))


class Attention(AttentionStack):
    """A stack of interacting layers over the fields' embeddings.

    The output is the concatenation of all fields' vectors [B, F units].

    Args:
        num_layers: number of layers in the stack.
        units: size of a field's vector after a layer, over all heads.
        num_heads: number of heads; each has units / num_heads of the units.
        scale: whether the products of query and key are divided by sqrt(units / num_heads).
        dropout: probability that an attention weight is set to zero in training.
        layer_norm: whether a layer norm over the units precedes each ReLU.

    The paper has none of the last three. FuxiCTR has them, and BARS uses them.

    Raises:
        InputError: there is no layer, num_heads does not divide units, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        num_layers: int,
        units: int,
        num_heads: int,
        scale: bool = False,
        dropout: float = 0.0,
        layer_norm: bool = False,
    ) -> None:
        def layer(inputs: int) -> nn.Module:
            return InteractingLayer(inputs, units, num_heads, scale, dropout, layer_norm)

        super().__init__(schema, embedding_dim, layer, num_layers, units, num_heads, dropout)
