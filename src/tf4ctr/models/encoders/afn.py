"""Adaptive factorization network: interactions of learned order (Cheng et al., AAAI 2020)."""

from collections.abc import Sequence

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs

SMALLEST = 1e-7  # lower bound of |e| before the logarithm: the logarithm of zero is infinite


class AFN(nn.Module):
    """y_j = exp(sum_f w_jf ln |e_f| + b_j), elementwise over D, for each of J logarithmic neurons.

    y_j is proportional to the product of all |e_f| ** w_jf. |e_f| is at least 1e-7. A batch norm
    follows the logarithm (it divides the powers by the deviation of ln |e_f|) and another one the
    exponential, as in the paper. An MLP over [y_1; ...; y_J] follows. The output is its last hidden
    layer [B, H].

    Args:
        neurons: J.
        hidden_units, dropout, batch_norm: of the MLP.

    Raises:
        InputError: there is no neuron.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        neurons: int,
        hidden_units: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if neurons < 1:
            raise InputError(f"neurons is {neurons}: AFN needs at least one logarithmic neuron")
        self.log_norm, self.exp_norm = nn.BatchNorm1d(schema.num_fields), nn.BatchNorm1d(neurons)
        self.order = Affine(schema.num_fields, neurons)
        self.layers = hidden_layers(neurons * embedding_dim, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        log_BFD = self.log_norm(emb_BFD.abs().clamp_min(SMALLEST).log())
        product_BDJ = self.order(log_BFD.transpose(1, 2)).exp()
        return self.layers(self.exp_norm(product_BDJ.transpose(1, 2)).flatten(1))
