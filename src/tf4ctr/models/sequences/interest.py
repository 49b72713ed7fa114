"""The evolution of the interest in the target: DIEN (Zhou et al., AAAI 2019).

Shapes: B batch, L positions, E features of a position.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.sequences.gru import GRU

CELLS = ("augru", "agru")


class AttentionalGRU(nn.Module):
    """A GRU whose steps are as large as the attention weights a_l of their inputs i_l.

    u = sigmoid(W_u i + V_u s + c_u),  r = sigmoid(W_r i + V_r s + c_r),
    n = tanh(W_n i + c_n + r * V_n s),  s' = (1 - k) * s + k * n,  with s = 0 at the start.

    With an update gate (AUGRU), k = a u. Without (AGRU), k = a, and there is no u. A weight of 0
    leaves the state as it is.

    Python runs the steps one after another: the time is proportional to L, also on a GPU. All
    graphs (torch.compile, torch.export, ONNX) contain the L steps written out. `torch.compile`
    takes some seconds per position to build its graph.

    Args:
        update: with an update gate.
    """

    def __init__(self, features: int, update: bool) -> None:
        super().__init__()
        self.features, self.update = features, update
        outputs = (3 if update else 2) * features  # r, perhaps u, n
        self.input = Affine(features, outputs)
        # not Affine: its gradient takes longer if a product is as small as that of one step
        self.hidden = nn.Linear(features, outputs, bias=False)

    def forward(self, inputs_BLE: Tensor, weights_BL: Tensor) -> Tensor:
        """[B, L, E], [B, L] -> the last state [B, E]"""
        # the products of all inputs at once; L comes first, so that the rows of a step are together
        gates_LBG, new_LBE = self._split(self.input(inputs_BLE.transpose(0, 1)))
        state_BE = torch.zeros_like(inputs_BLE[:, 0])
        for gates_BG, new_BE, weight_B in zip(gates_LBG.unbind(), new_LBE.unbind(), weights_BL.unbind(1), strict=True):
            hidden_gates_BG, hidden_new_BE = self._split(self.hidden(state_BE))
            gates = torch.sigmoid(gates_BG + hidden_gates_BG).split(self.features, 1)
            new_BE = torch.tanh(new_BE + gates[0] * hidden_new_BE)
            step_B1 = weight_B.unsqueeze(1)
            step = step_B1 * gates[1] if self.update else step_B1
            state_BE = state_BE + step * (new_BE - state_BE)
        return state_BE

    def _split(self, products: Tensor) -> tuple[Tensor, ...]:
        """The parts of the gates and of n."""
        return products.split([products.shape[-1] - self.features, self.features], -1)


class InterestEvolution(nn.Module):
    """The last state [B, E] of a GRU that follows the interests related to the target.

    From DIEN (Zhou et al., Deep Interest Evolution Network for Click-Through Rate Prediction, AAAI
    2019):

    1. A GRU reads the history h. Its states b_1, ..., b_L are the interests.
    2. a_l = softmax_l (b_l . W t) over the known positions, with the target t.
    3. Another GRU reads b with the attention weights a, see AttentionalGRU. The output is its last
       state. An empty history has the state of the start, 0.

    In training, the interests learn to tell the next value from another one:

    L_aux = -mean_l [ log sigmoid(b_l . h_(l+1)) + log(1 - sigmoid(b_l . n_(l+1))) ]

    In the paper, the negatives n are items without a click, drawn at random. Here they are the
    values of the row before in the batch, at the same position. (The first row takes those of the
    last row.) They need no further lookup, and frequent values are frequent negatives. By chance
    a negative can equal the positive. The mean is over all pairs of a row and a position l for
    which both h_(l+1) and n_(l+1) are known. Without such a pair, as in a batch of one row,
    L_aux = 0. The paper sums over l and divides by the number of rows.

    `self.auxiliary` is L_aux times its weight after a forward pass in training, otherwise None.

    Args:
        features: E.
        width: L.
        has_target: whether there is a target; it must be true.
        cell: the second GRU: `augru` has an update gate, `agru` has none.
        auxiliary: the weight of L_aux; 0 leaves it out.

    Raises:
        InputError: no target, an unknown cell, or a negative weight.
    """

    needs_target = True

    def __init__(
        self, features: int, width: int, has_target: bool, cell: str = "augru", auxiliary: float = 1.0
    ) -> None:
        super().__init__()
        if not has_target:
            raise InputError(
                "sequence=interest needs a target: the values of the history belong to no field (`of`)."
                " Choose another sequence encoder or set the field's target"
            )
        if cell not in CELLS:
            raise InputError(f"sequence.cell is {cell}: {did_you_mean(cell, CELLS)}")
        if not 0 <= auxiliary < math.inf:
            raise InputError(f"sequence.auxiliary is {auxiliary}: expected a weight of 0 or more")
        self.extractor, self.evolution = GRU(features), AttentionalGRU(features, update=cell == "augru")
        self.query = Affine(features, features, bias=False)
        self.auxiliary_weight = auxiliary
        self.auxiliary: Tensor | None = None

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L], [B, E] -> [B, E]"""
        interests_BLE = self.extractor(history_BLE)
        self.auxiliary = None
        if self.training and self.auxiliary_weight:
            self.auxiliary = self.auxiliary_weight * auxiliary_loss(interests_BLE, history_BLE, known_BL)
        return self.evolution(interests_BLE, self._attention(interests_BLE, known_BL, target_BE))

    def weights(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """The attention weights a [B, L]. They sum to 1, and are 0 at unknown positions."""
        return self._attention(self.extractor(history_BLE), known_BL, target_BE)

    def _attention(self, interests_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        assert target_BE is not None  # checked at construction
        logit_BL = (interests_BLE @ self.query(target_BE).unsqueeze(2)).squeeze(2)
        # a finite number instead of -inf: an empty history must not give NaN
        logit_BL = logit_BL.masked_fill(~known_BL, torch.finfo(logit_BL.dtype).min)
        return torch.softmax(logit_BL, 1) * known_BL


def auxiliary_loss(interests_BLE: Tensor, history_BLE: Tensor, known_BL: Tensor) -> Tensor:
    """L_aux of InterestEvolution, a scalar: [B, L, E], [B, L, E], [B, L] -> []"""
    if len(history_BLE) < 2:
        return interests_BLE.new_zeros(())
    before_BLE, next_BLE = interests_BLE[:, :-1], history_BLE[:, 1:]
    counts_BL = (known_BL & known_BL.roll(1, 0))[:, 1:]
    positive_BL, negative_BL = ((before_BLE * value_BLE).sum(2) for value_BLE in (next_BLE, next_BLE.roll(1, 0)))
    loss_BL = F.softplus(-positive_BL) + F.softplus(negative_BL)  # -log sigmoid(x) = softplus(-x)
    return (loss_BL * counts_BL).sum() / counts_BL.sum().clamp_min(1)
