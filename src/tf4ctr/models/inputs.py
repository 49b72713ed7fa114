"""What a network reads of a batch."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """The fields of a batch.

    Attributes:
        ids: rows of the one table, int32 [B, W].
        numbers: scaled, NaN where missing, float32 [B, N]; None for a dataset without numbers.
    """

    ids: Tensor
    numbers: Tensor | None = None
