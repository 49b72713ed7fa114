"""Self-attention over fields, the interacting layer of AutoInt (Song et al., CIKM 2019)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.inputs import Inputs


class InteractingLayer(nn.Module):
    """For each head: a_fg = softmax_g <W_q e_f, W_k e_g>,  o_f = sum_g a_fg W_v e_g.

    The output is relu([o_f of all heads] + W_res e_f).
    """

    def __init__(self, inputs: int, units: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.residual = (Affine(inputs, units, bias=False) for _ in range(4))

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, inputs] -> [B, F, units]"""
        query, key, value = (
            projection(emb_BFD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        out_BHFD = torch.softmax(query @ key.transpose(2, 3), 3) @ value
        return torch.relu(out_BHFD.transpose(1, 2).flatten(2) + self.residual(emb_BFD))


class Attention(nn.Module):
    """A stack of interacting layers over the fields' embeddings.

    The output is the concatenation of all fields' vectors [B, F units].

    Args:
        num_layers: number of layers in the stack.
        units: size of a field's vector after a layer, over all heads.
        num_heads: number of heads; each has units / num_heads of the units.

    Raises:
        InputError: there is no layer, or num_heads does not divide units.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int, units: int, num_heads: int) -> None:
        super().__init__()
        if num_layers < 1 or units % num_heads:
            raise InputError(
                f"num_layers is {num_layers}, units is {units}, num_heads is {num_heads}:"
                " at least one layer is needed, with units a multiple of num_heads"
            )
        self.layers = nn.Sequential(
            *(InteractingLayer(units if i else embedding_dim, units, num_heads) for i in range(num_layers))
        )
        self.out_features = schema.num_fields * units

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F units]"""
        return self.layers(emb_BFD).flatten(1)
