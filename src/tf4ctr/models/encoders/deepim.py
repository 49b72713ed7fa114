"""Interaction machine of DeepIM: all interactions up to an order (Yu et al., CIKM 2020)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.inputs import Inputs


def interactions(emb_BFD: Tensor, order: int) -> list[Tensor]:
    """a_k = the sum over all sets of k fields of the product of their embeddings, elementwise.

    a_k is an elementary symmetric polynomial, and by Newton's identities
    a_k = 1/k sum_(i = 1..k) (-1)^(i - 1) a_(k - i) p_i with p_i = sum_f e_f^i and a_0 = 1. These
    terms cancel: in float32 the usual order 3 is exact to 1e-7, order 10 of ten fields to 0.002.

    Returns:
        a_1, ..., a_order, [B, D] each.
    """
    powers = [(emb_BFD**i).sum(1) for i in range(1, order + 1)]
    sums = [torch.ones_like(powers[0])]
    for k in range(1, order + 1):
        terms = [(-1) ** (i - 1) * sums[k - i] * powers[i - 1] for i in range(1, k + 1)]
        sums.append(sum(terms[1:], terms[0]) / k)
    return sums[1:]


class InteractionMachine(nn.Module):
    """[a_1; ...; a_K], see `interactions`. The output has K D numbers.

    Args:
        order: K.
        batch_norm: whether a batch norm follows.

    Raises:
        InputError: the order is below 1 or above the number of fields.
    """

    def __init__(self, schema: Schema, embedding_dim: int, order: int, batch_norm: bool = False) -> None:
        super().__init__()
        check_order(order, 1, schema)
        self.order, self.out_features = order, order * embedding_dim
        self.norm = nn.BatchNorm1d(self.out_features) if batch_norm else nn.Identity()

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, K D]"""
        return self.norm(torch.cat(interactions(emb_BFD, self.order), 1))


def check_order(order: int, least: int, schema: Schema) -> None:
    """Check the order of interactions.

    Raises:
        InputError: it is below `least` or above the number of fields.
    """
    if not least <= order <= schema.num_fields:
        raise InputError(
            f"order is {order}: it is the number of fields that interact, from {least} to"
            f" {schema.num_fields}, the fields of the dataset {schema.dataset}"
        )
