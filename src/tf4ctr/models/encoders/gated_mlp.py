"""A stream of FinalMLP: a gate weights the embeddings, then an MLP (Mao et al., AAAI 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class GatedMLP(nn.Module):
    """h_0 = 2 sigmoid(gate(context)) * [e_1; ...; e_F], then an MLP.

    The output is the last hidden layer of the MLP [B, H]. The gate is an MLP with one hidden layer.
    Its context is one learned vector for all samples, or the embeddings of some fields, taken from
    this encoder's input. The learned vector starts at zero, and so do the gate's biases. There the
    ReLU has no gradient, so without context fields only the gate's last bias is learned: one
    constant factor for each of the F D inputs.

    Args:
        hidden_units, dropout, batch_norm: of the MLP.
        context: names of the context fields; empty: the learned vector.
        gate_units: width of the gate's hidden layer.

    Raises:
        InputError: the dataset does not have a context field, or the gate has no units.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        context: Sequence[str] = (),
        gate_units: int = 800,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        names = [field.name for field in schema.fields]
        for name in context:
            if name not in names:
                raise InputError(
                    f"context: the dataset {schema.dataset} has no field '{name}', {did_you_mean(name, names)}"
                )
        if gate_units < 1:
            raise InputError(f"gate_units is {gate_units}: the gate needs at least one unit")
        features = schema.num_fields * embedding_dim
        self.context = [names.index(name) for name in context]
        self.constant = None if context else nn.Parameter(torch.zeros(1, embedding_dim))
        inputs = max(1, len(self.context)) * embedding_dim
        self.gate = nn.Sequential(Affine(inputs, gate_units), nn.ReLU(), Affine(gate_units, features))
        self.layers = hidden_layers(features, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        context_BN = emb_BFD[:, self.context].flatten(1) if self.constant is None else self.constant
        return self.layers(2 * torch.sigmoid(self.gate(context_BN)) * emb_BFD.flatten(1))
