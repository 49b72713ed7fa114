"""Dropout with a fast mask on a CPU."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS = 2**16  # values of a 16-bit word: a probability is rounded to a multiple of 1 / WORDS
CHUNK = 2**16  # elements per step: their random words (128 kB) stay in a core's cache
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


class Dropout(nn.Module):
    """y = x * m / (1 - p) in training, m = 0 with probability p, else 1; y = x in evaluation.

    (Srivastava et al., JMLR 2014.) On a CPU torch draws the mask number by number, which takes
    about as long as the layer's products. Here one 64-bit random word gives the mask of four
    elements, 16 bits per element. The words come from a PCG64 (O'Neill, 2014), which is seeded by
    torch's generator. p is rounded to a multiple of 2**-16. The scale uses the rounded p, so the
    mean stays exact (up to the precision of the type). Other devices use torch's own dropout.

    Args:
        probability: p, the probability that an element is set to zero, from 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and any floating-point type."""
        if not self.training or not self.probability:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        return x * _mask(x.detach(), torch.randint(2**63 - 1, ()), min(round(self.probability * WORDS), WORDS - 1))

    def extra_repr(self) -> str:
        """The layer's option, as printed in a model."""
        return f"probability={self.probability}"


# a custom operator, because graphs (torch.compile, torch.export) can contain it
@torch.library.custom_op("tf4ctr::dropout_mask", mutates_args=())
def _mask(x: Tensor, seed: Tensor, dropped: int) -> Tensor:
    """0 with a probability of `dropped` / 2**16, else the scale; in the shape and type of `x`."""
    random = np.random.PCG64(int(seed))
    integer = INTEGERS[x.element_size()]
    mask, scale = torch.empty(x.shape, dtype=x.dtype), torch.tensor(WORDS / (WORDS - dropped), dtype=x.dtype)
    # numpy has no bfloat16. The scale's bits, as an integer, times 0 or 1 are the bits of 0 or of
    # the scale. This works for every type.
    mask_bits, scale_bits = mask.view(integer).flatten().numpy(), scale.view(integer).numpy()
    for start in range(0, mask_bits.size, CHUNK):
        chunk = mask_bits[start : start + CHUNK]
        words = random.random_raw(-(-chunk.size // 4)).view(np.uint16)[: chunk.size]
        np.multiply(words >= dropped, scale_bits, out=chunk)
    return mask


@_mask.register_fake
def _(x: Tensor, seed: Tensor, dropped: int) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype)
