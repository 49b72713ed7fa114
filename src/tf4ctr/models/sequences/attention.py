"""DIN's attention over a history (Zhou et al., KDD 2018): past values weighted by the target.

Shapes: B batch, L positions, N known positions of a batch, E features, H units of the first layer.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.rows import put_rows
from tf4ctr.models.sequences.dice import Dice

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "dice": Dice,
    "prelu": nn.PReLU,
    "relu": lambda units: nn.ReLU(inplace=True),
}


class TargetAttention(nn.Module):
    """sum_l a_l h_l, with a_l = MLP([h_l; t; h_l - t; h_l * t]).

    The local activation unit of DIN (Zhou et al., Deep Interest Network for Click-Through Rate
    Prediction, KDD 2018). As there, the a_l do not sum to 1: a history with many values that are
    similar to the target has a longer vector. An empty history becomes 0.

    The first layer computes W [h; t; h - t; h * t], with W = [W_h W_t W_d W_p], as
    (W_h + W_d) h + W_p (h * t) + (W_t - W_d) t. This halves its products: the last term is computed
    once per row. In training on a CPU the MLP reads the known positions only.

    Args:
        features: E, the size of h_l and t.
        width: L, the positions of the history; it is not used.
        has_target: whether there is a target.
        hidden_units: width of each hidden layer of the MLP.
        activation: of the hidden layers; `dice`, `prelu` (He et al., ICCV 2015; a slope per unit)
            or `relu`.
        dropout: probability that an output of a hidden layer is set to zero in training.
        softmax: scale the weights by a softmax over the known positions.

    Raises:
        InputError: no target, no hidden layer or one without units, an unknown activation, or a
            dropout outside [0, 1).
    """

    needs_target = True

    def __init__(
        self,
        features: int,
        width: int,
        has_target: bool,
        hidden_units: Sequence[int] = (80, 40),
        activation: str = "dice",
        dropout: float = 0.0,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        _check(has_target, hidden_units, activation, dropout)
        self.first = Affine(4 * features, hidden_units[0])
        layers: list[nn.Module] = []
        for before, after in pairwise([*hidden_units, 1]):
            layers.append(ACTIVATIONS[activation](before))
            if dropout:
                layers.append(Dropout(dropout))
            # with one output, nn.Linear takes half the time of Affine
            layers.append(Affine(before, after) if after > 1 else nn.Linear(before, after))
        self.layers = nn.ModuleList(layers)
        self.softmax = softmax

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L], [B, E] -> [B, E]"""
        weight_BL = self.weights(history_BLE, known_BL, target_BE)
        return torch.bmm(weight_BL.unsqueeze(1), history_BLE).squeeze(1)

    def weights(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """a [B, L], 0 at padding."""
        assert target_BE is not None
        score_BL = self._scores(history_BLE, known_BL, target_BE)
        if self.softmax:
            # not -inf: the softmax of an empty history would be NaN
            score_BL = score_BL.masked_fill(~known_BL, torch.finfo(score_BL.dtype).min).softmax(1)
        return score_BL.masked_fill(~known_BL, 0)

    def _scores(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor) -> Tensor:
        """The outputs of the MLP, [B, L]; any numbers at padding."""
        history_HE, target_HE, difference_HE, product_HE = self.first.weight.chunk(4, 1)
        weight_H2E = torch.cat([history_HE + difference_HE, product_HE], 1)
        shift_BH = F.linear(target_BE, target_HE - difference_HE, self.first.bias)
        if history_BLE.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            positions_N = known_BL.flatten().nonzero().squeeze(1)
            hidden_NH = _PackedLayer.apply(history_BLE, target_BE, weight_H2E, shift_BH, known_BL, positions_N)
            score_N = self._rest(hidden_NH, None)
            return score_N.new_zeros(known_BL.numel()).index_copy(0, positions_N, score_N).view(known_BL.shape)
        input_BL2E = torch.cat([history_BLE, history_BLE * target_BE.unsqueeze(1)], 2)
        hidden_BLH = F.linear(input_BL2E, weight_H2E) + shift_BH.unsqueeze(1)
        return self._rest(hidden_BLH.flatten(0, 1), known_BL.flatten()).view(known_BL.shape)

    def _rest(self, hidden_NH: Tensor, known_N: Tensor | None) -> Tensor:
        """The MLP after its first products: [N, H] -> [N]"""
        for layer in self.layers:
            hidden_NH = layer(hidden_NH, known_N) if isinstance(layer, Dice) else layer(hidden_NH)
        return hidden_NH.squeeze(1)


def _check(has_target: bool, hidden_units: Sequence[int], activation: str, dropout: float) -> None:
    if not has_target:
        raise InputError(
            "sequence=attention needs a target: the values of the history belong to no field (`of`)."
            " Choose another sequence encoder or set the field's target"
        )
    if not hidden_units or min(hidden_units) < 1:
        raise InputError(
            f"sequence.hidden_units is {list(hidden_units)}: it needs at least one layer, each with at least one unit"
        )
    if activation not in ACTIVATIONS:
        raise InputError(f"sequence.activation is {activation!r}: {did_you_mean(activation, ACTIVATIONS)}")
    if not 0 <= dropout < 1:
        raise InputError(
            f"sequence.dropout is {dropout}: it is the probability that an output is set to zero, from 0 to below 1"
        )


class _PackedLayer(torch.autograd.Function):
    """W [h; h * t] + s of the known positions, [N, H], on a CPU.

    The inputs are h [B, L, E], t [B, E], W [H, 2E], s [B, H], and the known positions: as bool
    [B, L] and as the N increasing indices of the true ones. Under autocast it stays in float32.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        history_BLE: Tensor,
        target_BE: Tensor,
        weight_H2E: Tensor,
        shift_BH: Tensor,
        known_BL: Tensor,
        positions_N: Tensor,
    ) -> Tensor:
        row_N = positions_N // known_BL.shape[1]
        target_NE = target_BE.index_select(0, row_N)
        history_NE = history_BLE.flatten(0, 1).index_select(0, positions_N)
        input_N2E = torch.cat([history_NE, history_NE * target_NE], 1)
        ctx.save_for_backward(input_N2E, target_NE, weight_H2E, known_BL, positions_N)
        return shift_BH.index_select(0, row_N).addmm_(input_N2E, weight_H2E.T)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, grad_NH: Tensor) -> tuple[Tensor | None, ...]:
        input_N2E, target_NE, weight_H2E, known_BL, positions_N = ctx.saved_tensors
        features, lengths_B = target_NE.shape[1], known_BL.sum(1)
        grad_history_NE, grad_product_NE = (grad_NH @ weight_H2E).chunk(2, 1)
        grad_history_BLE = grad_NH.new_zeros(*known_BL.shape, features)
        put_rows(
            grad_history_BLE.flatten(0, 1),
            positions_N,
            torch.addcmul(grad_history_NE, grad_product_NE, target_NE),
        )
        grad_target_BE = _row_sums(grad_product_NE * input_N2E[:, :features], lengths_B)
        return grad_history_BLE, grad_target_BE, grad_NH.T @ input_N2E, _row_sums(grad_NH, lengths_B), None, None


def _row_sums(x_NE: Tensor, lengths_B: Tensor) -> Tensor:
    """The sum of the first lengths[0] rows, of the next lengths[1] rows, ...: [B, E]"""
    return F.embedding_bag(torch.arange(len(x_NE)), x_NE, lengths_B.cumsum(0) - lengths_B, mode="sum")
