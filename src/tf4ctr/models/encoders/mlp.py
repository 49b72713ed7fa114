"""Multi-layer perceptron over the embeddings of all fields."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.inputs import Inputs


def hidden_layers(
    inputs: int,
    hidden_units: Sequence[int],
    dropout: float,
    batch_norm: bool,
    layer: Callable[[int, int], nn.Module] = Affine,
) -> nn.Sequential:
    """h_l = dropout(relu(batch_norm(W_l h_(l-1) + b_l))): [B, inputs] -> [B, hidden_units[-1]].

    With batch norm b_l stays 0. The batch norm subtracts it again, so its gradient is rounding
    noise, which Adam scales up to steps of the learning rate. In training they have no effect, but
    in evaluation the running mean lags behind them: validation logloss of dlrm and fibinet was
    above 10 after some epochs of the published recipe, whose code trains b_l.

    Args:
        inputs: width of h_0.
        hidden_units: width of each layer.
        dropout: probability that an output of a layer is set to zero in training.
        batch_norm: whether a batch norm precedes each ReLU.
        layer: `layer(inputs, outputs)` replaces W h + b.

    Raises:
        InputError: there is no layer, one without units, or a dropout outside [0, 1).
    """
    if not hidden_units or min(hidden_units) < 1:
        raise InputError(
            f"hidden_units is {list(hidden_units)}: it needs at least one layer, each with at least one unit"
        )
    if not 0 <= dropout < 1:
        raise InputError(
            f"dropout is {dropout}: it is the probability that an output is set to zero, from 0 to below 1"
        )
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden_units]):
        layers.append(layer(before, after))
        if batch_norm:
            if isinstance(layers[-1], nn.Linear):
                # not removed: checkpoints and published counts have it
                nn.init.zeros_(layers[-1].bias).requires_grad_(False)
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.ReLU(inplace=True))
        if dropout:
            layers.append(Dropout(dropout))
    return nn.Sequential(*layers)


class MLP(nn.Module):
    """h_0 = [e_1; ...; e_F];  h_l = dropout(relu(batch_norm(W_l h_(l-1) + b_l))).

    The output is the last hidden layer [B, H].

    Args:
        hidden_units, dropout, batch_norm: see `hidden_layers`.
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.layers = hidden_layers(schema.num_fields * embedding_dim, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        return self.layers(emb_BFD.flatten(1))
