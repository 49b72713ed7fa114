"""Compressed interaction network of xDeepFM (Lian et al., KDD 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear, TableFactory
from tf4ctr.models.inputs import Inputs


class CIN(nn.Module):
    """x^k_h = b^k_h + sum_(i, j) W^k_hij (x^(k-1)_i * x^0_j), elementwise over D.

    x^0 are the embeddings. The output is [p^1; ...; p^K] with p^k_h = sum_d x^k_hd, and with
    `linear` one more feature: the logit of the linear part, as in xDeepFM.

    Args:
        layer_units: feature maps H_k of each layer.
        linear: whether the output contains b + sum_f w[x_f].
        table: builds the linear part's table.

    Raises:
        InputError: there is no layer, or one without feature maps.
    """

    has_table = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        layer_units: Sequence[int],
        linear: bool = True,
        table: TableFactory = FieldEmbedding,
    ) -> None:
        super().__init__()
        if not layer_units or min(layer_units) < 1:
            raise InputError(
                f"layer_units is {list(layer_units)}: it needs at least one layer, each with at least one feature map"
            )
        fields = schema.num_fields
        self.layers = nn.ModuleList(
            Affine(maps * fields, units) for maps, units in zip([fields, *layer_units[:-1]], layer_units, strict=True)
        )
        self.linear = Linear(schema, embedding_dim, table) if linear else None
        self.out_features = sum(layer_units) + linear

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, sum of layer_units (+ 1)]"""
        base_BDF = emb_BFD.transpose(1, 2)
        maps_BDH, pooled = base_BDF, []
        for layer in self.layers:
            maps_BDH = layer((maps_BDH.unsqueeze(3) * base_BDF.unsqueeze(2)).flatten(2))
            pooled.append(maps_BDH.sum(1))
        if self.linear is not None:
            pooled.append(self.linear(emb_BFD, x))
        return torch.cat(pooled, 1)
