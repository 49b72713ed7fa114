"""Disentangled self-attention over fields: DESTINE (Xu et al., CIKM 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.encoders.attention import AttentionStack, split_heads


class DisentangledLayer(nn.Module):
    """For each head, with q_f, k_f, v_f = W_q e_f, W_k e_f, W_v e_f and means over the fields:

        a_fg = softmax_g <q_f - mean q, k_g - mean k> + softmax_g u^T e_g
        o_f = sum_g a_fg v_g

    The first term is what a pair of fields has of its own. The second is the importance of a field,
    the same for all others. The output is [o_f of all heads] + W_res e_f. All maps have a
    bias; those of q, k and u cancel.
    """

    def __init__(self, inputs: int, units: int, num_heads: int, scale: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.divisor = (units // num_heads) ** 0.5 if scale else 1.0
        self.query, self.key, self.value, self.residual = (Affine(inputs, units) for _ in range(4))
        self.unary = Affine(inputs, num_heads)
        self.dropout = Dropout(dropout)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, inputs] -> [B, F, units]"""
        projections = self.query, self.key, self.value
        query, key, value = (split_heads(projection(emb_BFD), self.num_heads) for projection in projections)
        query, key = query - query.mean(2, keepdim=True), key - key.mean(2, keepdim=True)
        pair_BHFF = torch.softmax(query @ key.transpose(2, 3) / self.divisor, 3)
        unary_BH1F = torch.softmax(self.unary(emb_BFD), 1).transpose(1, 2).unsqueeze(2)
        out_BHFD = self.dropout(pair_BHFF + unary_BH1F) @ value
        return out_BHFD.transpose(1, 2).flatten(2) + self.residual(emb_BFD)


class DESTINE(AttentionStack):
    """A stack of disentangled self-attention layers over the fields' embeddings.

    The output is the concatenation of all fields' vectors [B, F units].

    Args:
        num_layers: number of layers in the stack.
        units: size of a field's vector after a layer, over all heads.
        num_heads: number of heads; each has units / num_heads of the units.
        scale: whether the products of query and key are divided by sqrt(units / num_heads).
        dropout: probability that an attention weight is set to zero in training.

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
        scale: bool = True,
        dropout: float = 0.0,
    ) -> None:
        def layer(inputs: int) -> nn.Module:
            return DisentangledLayer(inputs, units, num_heads, scale, dropout)

        super().__init__(schema, embedding_dim, layer, num_layers, units, num_heads, dropout)
