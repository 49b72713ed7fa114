"""BST (Chen et al., DLP-KDD 2019): self-attention over the past values and the target."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.rows import look_up


class TransformerLayer(nn.Module):
    """s = LN(x + dropout(MH(x)));  y = LN(s + dropout(W_2 leaky_relu(W_1 s + b_1) + b_2)).

    MH(x) = W_o [o of all heads], with o_q = sum_k a_qk W_v x_k and, over the known positions k,
    a_qk = softmax_k <W_q x_q, W_k x_k> / sqrt(E / heads). LN is layer norm.
    """

    def __init__(self, features: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Affine(features, features, bias=False) for _ in range(4))
        self.feed_forward = nn.Sequential(
            Affine(features, feed_forward), nn.LeakyReLU(), Affine(feed_forward, features)
        )
        self.dropout = Dropout(dropout)
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, query_BQE: Tensor, x_BKE: Tensor, known_BK: Tensor) -> Tensor:
        """The outputs y at the positions of `query` among all positions x, [B, Q, E]."""
        query, key, value = (
            self._split(self.query(query_BQE)),
            self._split(self.key(x_BKE)),
            self._split(self.value(x_BKE)),
        )
        out_BHQD = F.scaled_dot_product_attention(query, key, value, known_BK[:, None, None])
        out_BQE = query_BQE + self.dropout(self.out(out_BHQD.transpose(1, 2).flatten(2)))
        out_BQE = self.norm_attention(out_BQE)
        return self.norm_feed_forward(out_BQE + self.dropout(self.feed_forward(out_BQE)))

    def shares(self, query_BQE: Tensor, x_BKE: Tensor, known_BK: Tensor) -> Tensor:
        """a, the mean over the heads, [B, Q, K]."""
        query, key = self._split(self.query(query_BQE)), self._split(self.key(x_BKE))
        score_BHQK = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        return score_BHQK.masked_fill(~known_BK[:, None, None], -torch.inf).softmax(3).mean(1)

    def _split(self, x_BKE: Tensor) -> Tensor:
        """-> [B, H, K, E / H]"""
        return x_BKE.unflatten(2, (self.heads, -1)).transpose(1, 2)


class BehaviorTransformer(nn.Module):
    """Transformer layers over x = [t, h_1, ..., h_n] + positions; the output at t.

    From BST (Chen et al., Behavior Sequence Transformer for E-commerce Recommendation in Alibaba,
    DLP-KDD 2019). There, the outputs at all positions go into the next layer. Here a history has
    one vector: the output at the target's position. Without a target, x = [h_1, ..., h_n], and the
    vector is the mean of the outputs.

    Positions are learned vectors, one per distance from the end: the latest value has distance 1,
    the target 0. They start at zero. In the paper the position is the time from a value to now, and
    its embedding is a part of h. For this, add a sequence of time gaps to the history and set
    `positions=false`.

    Args:
        features: E, the size of h_l and t.
        width: L, the positions of the history.
        has_target: whether there is a target.
        heads: attention heads; they divide E.
        num_layers: transformer layers.
        feed_forward: hidden units of a layer's feed-forward part; None is 4 E.
        dropout: probability that an output of attention or feed-forward is set to zero in training.
        positions: whether positions are added.

    Raises:
        InputError: heads that do not divide E, no layer, no hidden unit, or a dropout outside
            [0, 1).
    """

    needs_target = False

    def __init__(
        self,
        features: int,
        width: int,
        has_target: bool,
        heads: int = 2,
        num_layers: int = 1,
        feed_forward: int | None = None,
        dropout: float = 0.0,
        positions: bool = True,
    ) -> None:
        super().__init__()
        units = 4 * features if feed_forward is None else feed_forward
        _check(features, heads, num_layers, units, dropout)
        self.has_target = has_target
        # without a target no position has distance 0
        self.position = nn.Parameter(torch.zeros(width + has_target, features)) if positions else None
        self.layers = nn.ModuleList(TransformerLayer(features, heads, units, dropout) for _ in range(num_layers))

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L], [B, E] or None -> [B, E]"""
        query_BQE, x_BKE, known_BK = self._last_inputs(history_BLE, known_BL, target_BE)
        out_BQE = self.layers[-1](query_BQE, x_BKE, known_BK)
        return out_BQE.squeeze(1) if self.has_target else _mean(out_BQE, known_BL)

    def weights(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """The attention of the last layer to each position, [B, L], the mean over the heads.

        It is the target's attention. The target also attends to itself, so the sum is below 1.
        Without a target, it is the mean over the positions that attend.
        """
        query_BQE, x_BKE, known_BK = self._last_inputs(history_BLE, known_BL, target_BE)
        share_BQK = self.layers[-1].shares(query_BQE, x_BKE, known_BK)  # type: ignore[operator]
        return share_BQK[:, 0, 1:] if self.has_target else _mean(share_BQK, known_BL)

    def _last_inputs(
        self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last layer: the positions that attend, all positions, and which are known."""
        x_BKE = history_BLE
        if self.has_target:
            assert target_BE is not None
            x_BKE = torch.cat([target_BE.unsqueeze(1), history_BLE], 1)
        # The first position is the target or the oldest value. An empty history without a target
        # attends to its padding: a softmax over nothing would be NaN.
        known_BK = F.pad(known_BL[:, 0 if self.has_target else 1 :], (1, 0), value=True)
        if self.position is not None:
            x_BKE = x_BKE + look_up(self.position, self._rows(known_BL), sparse=False)
        for layer in self.layers[:-1]:
            x_BKE = layer(x_BKE, x_BKE, known_BK)
        return x_BKE[:, :1] if self.has_target else x_BKE, x_BKE, known_BK

    def _rows(self, known_BL: Tensor) -> Tensor:
        """The row of `position` of each position [B, K]; any row for padding."""
        length_B1 = known_BL.sum(1, keepdim=True)
        distance_BL = (length_B1 - torch.arange(known_BL.shape[1], device=known_BL.device)).clamp(min=1)
        return F.pad(distance_BL, (1, 0)) if self.has_target else distance_BL - 1


def _check(features: int, heads: int, num_layers: int, feed_forward: int, dropout: float) -> None:
    if heads < 1 or features % heads:
        raise InputError(
            f"sequence.heads is {heads}: it must divide {features}, the number of aligned sequences of the history"
            " times the embedding dim"
        )
    if num_layers < 1:
        raise InputError(f"sequence.num_layers is {num_layers}: expected at least 1")
    if feed_forward < 1:
        raise InputError(
            f"sequence.feed_forward is {feed_forward}: expected at least 1, or null for 4 E = {4 * features}"
        )
    if not 0 <= dropout < 1:
        raise InputError(
            f"sequence.dropout is {dropout}: it is the probability that an output is set to zero, from 0 to below 1"
        )


def _mean(x_BLE: Tensor, known_BL: Tensor) -> Tensor:
    """The mean over the known positions [B, E]; 0 without one."""
    known_BL1 = known_BL.unsqueeze(2).to(x_BLE.dtype)
    return (x_BLE * known_BL1).sum(1) / known_BL1.sum(1).clamp(min=1)
