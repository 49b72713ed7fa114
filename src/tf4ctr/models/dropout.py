"""Dropout whose mask costs next to nothing on a CPU."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS = 2**16  # values of a 16-bit word: shares are rounded to one part in so many
CHUNK = 2**16  # elements made at a time: their random words stay in a core's cache
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Dropout(nn.Module):
    """y = x * m / (1 - share) in training, m = 0 with probability `share`, else 1; y = x in evaluation (Srivastava et al., JMLR 2014).

    On a CPU torch draws its mask number by number, which takes about as long as the layer's products. Here one 64-bit random word of a
    PCG64 (O'Neill, 2014) that torch's generator seeds gives the mask of four elements, 16 bits each; `share` is rounded to a multiple
    of 2**-16, and the scale is that of the rounded share, so that the mean stays exact (in half precision: to that precision).
    Elsewhere torch's own is used.

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
        return x * _mask(x.detach(), torch.randint(2**63 - 1, ()), round(self.share * WORDS))

    def extra_repr(self) -> str:
        return f"share={self.share}"


@torch.library.custom_op("tf4ctr::dropout_mask", mutates_args=())  # an operator, so that graphs can hold it
def _mask(x: Tensor, seed: Tensor, dropped: int) -> Tensor:
    """For each element of `x` 0, with a probability of `dropped` in 2**16, or else the scale; of the type of `x`."""
    random = np.random.PCG64(int(seed))
    mask, integer = torch.empty(x.shape, dtype=x.dtype), INTEGERS[x.element_size()]
    # numpy knows no bfloat16: the scale's bits times 0 or 1 are the bits of 0 or the scale, in any type
    bits, scale = (
        mask.view(integer).flatten().numpy(),
        torch.tensor(WORDS / (WORDS - dropped), dtype=x.dtype).view(integer).numpy(),
    )
    for start in range(0, bits.size, CHUNK):
        chunk = bits[start : start + CHUNK]
        drawn = random.random_raw(-(-chunk.size // 4)).view(np.uint16)[: chunk.size]
        np.multiply(drawn >= dropped, scale, out=chunk)
    return mask


@_mask.register_fake
def _(x: Tensor, seed: Tensor, dropped: int) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype)
