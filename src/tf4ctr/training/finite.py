"""Find the first NaN or infinite value of a training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def first_not_finite(network: nn.Module, terms: Mapping[str, Tensor]) -> str | None:
    """The first tensor with a NaN or infinite value; None if there is none.

    It reads from the device. Of a sharded parameter it looks at this rank's rows.

    Args:
        network: its parameters come first.
        terms: of the loss, or their sums, [] each: a sum stays NaN or infinite once it is.
    """
    tensors = {f"parameter {name}": parameter.detach() for name, parameter in network.named_parameters()}
    tensors |= {f"loss term {name}": term for name, term in terms.items() if name != "loss"}
    tensors |= {name: term for name, term in terms.items() if name == "loss"}
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite.

    Both extremes are NaN if one number is. `isfinite(tensor).all()` would need a quarter of a
    table's memory once more.
    """
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
