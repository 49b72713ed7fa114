"""Dropout whose mask costs next to nothing on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS = 2**16  # values of a 16-bit word: shares are rounded to one part in so many


class Dropout(nn.Module):
    """y = x * m / (1 - share) in training, m = 0 with probability `share`, else 1; y = x in evaluation (Srivastava et al., JMLR 2014).

    On a CPU torch draws its mask number by number in one thread, a third of a training step. Here one 64-bit random word gives the
    mask of four elements, 16 bits each, from the same seeded generator; `share` is rounded to a multiple of 2**-16, and the scale
    is that of the rounded share, so that the mean stays exact (in half precision: to that precision). Elsewhere torch's own is used.

    Args:
        share: probability that an element is set to zero, from 0 to below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, any floating type."""
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        dropped = round(self.share * WORDS)
        keep = _words((x.numel() + 3) // 4)[: x.numel()].view(x.shape) >= dropped - WORDS // 2
        return x * keep.to(x.dtype).mul_(WORDS / (WORDS - dropped))

    def extra_repr(self) -> str:
        return f"share={self.share}"


def _words(count: int) -> Tensor:
    """`count` random words of 64 bits, as four int16 each."""
    if torch.compiler.is_compiling():  # it knows no `random_` in place; these are the same words, but for one in 2**64
        words = torch.randint(-(2**63), 2**63 - 1, (count,)) ^ -(2**63)
    else:
        words = torch.empty(count, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)
