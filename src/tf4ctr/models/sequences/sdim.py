"""SDIM (Cao et al., CIKM 2022): the past values with the same hash as the target."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.errors import InputError

# A sum of embeddings shorter than this is not scaled to length 1: its direction is noise, and the
# gradient would be huge. Initial embeddings are about 100 times longer.
SHORTEST = 1e-6


class HashedAttention(nn.Module):
    """(1 / G) sum_g normalize(sum_l p_lg h_l), with p_lg = 1 if h_l and t agree in signature g.

    From SDIM (Cao et al., Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR
    Prediction, CIKM 2022). A hash of a vector x is the sign of r^T x (SimHash). r is drawn from
    N(0, I) once and then fixed. `bits` hashes make a signature, so there are G = `hashes` / `bits`
    signatures. p_lg is 1 with probability (1 - angle(h_l, t) / pi)^bits, else 0: past values that
    are similar to the target count more, as in attention, but without a softmax over them.

    normalize scales a vector to length 1. A signature in which no past value agrees with the target
    adds 0 to the sum, and an empty history becomes 0. The signs have no gradient: h learns from the
    sum, and t does not learn here.

    Args:
        features: E, the size of h_l and t.
        width: L, the positions of the history.
        has_target: whether there is a target.
        hashes: the number of hashes, m in the paper.
        bits: the hashes of a signature, tau in the paper. With more bits, only more similar values
            count.

    Raises:
        InputError: no target, no bit, or a number of hashes that is not a multiple of the bits.
    """

    needs_target = True
    projection_EM: Tensor

    def __init__(self, features: int, width: int, has_target: bool, hashes: int = 48, bits: int = 3) -> None:
        super().__init__()
        if not has_target:
            raise InputError(
                "sequence=sdim needs a target: the values of the history belong to no field (`of`)."
                " Choose another sequence encoder or set the field's target"
            )
        if bits < 1:
            raise InputError(f"sequence.bits is {bits}: expected at least 1")
        if hashes < 1 or hashes % bits:
            raise InputError(
                f"sequence.hashes is {hashes}: expected a multiple of sequence.bits, {bits}, for signatures"
                " with that many hashes each"
            )
        self.bits = bits
        # the embeddings learn with these hashes, so a checkpoint contains them
        self.register_buffer("projection_EM", torch.randn(features, hashes))

    def forward(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """[B, L, E], [B, L], [B, E] -> [B, E]"""
        match_BLG = self._matches(history_BLE, known_BL, target_BE)
        sum_BGE = match_BLG.to(history_BLE.dtype).transpose(1, 2) @ history_BLE
        return F.normalize(sum_BGE, dim=2, eps=SHORTEST).mean(1)

    def weights(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """The share of signatures in which a position agrees with the target, [B, L]."""
        return self._matches(history_BLE, known_BL, target_BE).to(history_BLE.dtype).mean(2)

    def _matches(self, history_BLE: Tensor, known_BL: Tensor, target_BE: Tensor | None) -> Tensor:
        """Whether a known position has the same signature as the target, bool [B, L, G]."""
        assert target_BE is not None
        same_BLM = self._signs(history_BLE) == self._signs(target_BE).unsqueeze(1)
        match_BLG = known_BL.unsqueeze(2)
        for same_BLG in same_BLM.chunk(self.bits, 2):  # faster than `all` over the bits
            match_BLG = match_BLG & same_BLG
        return match_BLG

    def _signs(self, x: Tensor) -> Tensor:
        """[..., E] -> bool [..., M]

        Evaluation uses float64. In float32 a sign near zero depends on the order of the sum, so an
        exported model would have other matches in a few of 10,000 rows. Training needs no such
        agreement, and float32 is twice as fast. MPS has no float64.
        """
        dtype = x.dtype if self.training or x.device.type == "mps" else torch.float64
        return x.detach().to(dtype) @ self.projection_EM.to(dtype) >= 0
