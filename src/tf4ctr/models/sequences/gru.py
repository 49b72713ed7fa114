"""The last state of a GRU over a history, as in GRU4Rec (Hidasi et al., ICLR 2016).

Shapes: B batch, L positions, E features of a position.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError
from tf4ctr.models.dropout import Dropout

# cuDNN copies weights that do not lie in one block of memory, and warns about that copy. The
# weights of one GRU are small.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk of memory")


class GRU(nn.Module):
    """The states of a gated recurrent unit (Cho et al., EMNLP 2014), in the form of torch's nn.GRU.

    r = sigmoid(W_r x + V_r s + b_r),  z = sigmoid(W_z x + V_z s + b_z),
    n = tanh(W_n x + b_n + r * (V_n s + c_n)),  s' = (1 - z) * n + z * s,  with s = 0 at the start.

    The function behind nn.GRU is called directly: `torch.compile(fullgraph=True)` rejects the
    module. The weights are those of two linear layers, x -> (r, z, n) and s -> (r, z, n). So a
    network initialises them as its other linear layers, with biases of 0: a history of small
    embeddings starts with a small state, as large as the embeddings of the other fields.

    `torch.compile` writes out the L steps, and takes some seconds per position to build the graph.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.input, self.hidden = (nn.Linear(features, 3 * features) for _ in range(2))

    def forward(self, history_BLE: Tensor) -> Tensor:
        """The state after each position: [B, L, E] -> [B, L, E]"""
        if torch.compiler.is_exporting():  # with an empty batch, ONNX Runtime's GRU ends the process: add a row
            return self._states(F.pad(history_BLE, (0, 0, 0, 0, 0, 1)))[:-1]
        return self._states(history_BLE)

    def _states(self, history_BLE: Tensor) -> Tensor:
        start_1BE = history_BLE.new_zeros(1, history_BLE.shape[0], history_BLE.shape[2])
        weights = [self.input.weight, self.hidden.weight, self.input.bias, self.hidden.bias]
        # with biases, one layer, no dropout, in one direction, batch first
        return torch.gru(history_BLE, start_1BE, weights, True, 1, 0.0, self.training, False, True)[0]


class LastState(nn.Module):
    """The state of the last of `num_layers` GRUs, after the last value of the history: [B, E].

    From GRU4Rec (Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR
    2016), where the state scores all items. Here it is the embedding of the history. The state has
    E numbers. The first GRU reads the history, each other one the states of the GRU before. An
    empty history has the state of the start, 0.

    The GRUs also run over the padding. It comes after the values, so it cannot change their states.

    Args:
        features: E.
        width: L.
        has_target: whether there is a target; it is not used.
        num_layers: number of GRUs.
        dropout: probability that a number of a state is set to zero in training, between two GRUs.

    Raises:
        InputError: there is no layer, a dropout outside [0, 1), or dropout with one layer.
    """

    needs_target = False

    def __init__(self, features: int, width: int, has_target: bool, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if num_layers < 1:
            raise InputError(f"sequence.num_layers is {num_layers}: expected at least 1")
        if not 0 <= dropout < 1:
            raise InputError(
                f"sequence.dropout is {dropout}: it is the probability that a number is set to zero, from 0 to below 1"
            )
        if dropout and num_layers == 1:
            raise InputError(
                f"sequence.dropout is {dropout} and sequence.num_layers is 1: dropout is between layers, so it needs"
                " sequence.num_layers=2 or more"
            )
        self.layers = nn.ModuleList(GRU(features) for _ in range(num_layers))
        self.dropout = Dropout(dropout)

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L] -> [B, E]"""
        states_BLE = history_BLE
        for i, layer in enumerate(self.layers):
            states_BLE = layer(self.dropout(states_BLE) if i else states_BLE)
        last_B11 = (known_BL.sum(1) - 1).clamp_min(0).view(-1, 1, 1)
        last_BE = states_BLE.gather(1, last_B11.expand(-1, 1, states_BLE.shape[2])).squeeze(1)
        return last_BE.masked_fill(~known_BL[:, :1], 0)
