"""A block of FinalNet: layers with factorized interactions (Zhu et al., SIGIR 2023)."""

from collections.abc import Sequence

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class FactorizedInteraction(nn.Module):
    """[u; v] = W x + b;  output u * v + v. Each layer doubles the order of the interactions."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.linear = Affine(inputs, 2 * units)

    def forward(self, hidden_BN: Tensor) -> Tensor:
        """[B, inputs] -> [B, units]"""
        left_BH, right_BH = self.linear(hidden_BN).chunk(2, 1)
        return left_BH * right_BH + right_BH


class FinalBlock(nn.Module):
    """h_l = dropout(relu(batch_norm(u * v + v))) with [u; v] = W_l h_(l-1) + b_l.

    h_0 = [e_1; ...; e_F]. The output is the last layer [B, H].

    Args:
        hidden_units: width of each layer.
        field_gate: whether a gate weights the fields first: e_f (1 + sum_g w_fg e_g + b_f),
            elementwise over D.
        dropout, batch_norm: see `hidden_layers`.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        field_gate: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.field_gate = Affine(schema.num_fields, schema.num_fields) if field_gate else None
        inputs = schema.num_fields * embedding_dim
        self.layers = hidden_layers(inputs, hidden_units, dropout, batch_norm, FactorizedInteraction)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        if self.field_gate is not None:
            emb_BFD = emb_BFD * (1 + self.field_gate(emb_BFD.transpose(1, 2)).transpose(1, 2))
        return self.layers(emb_BFD.flatten(1))
