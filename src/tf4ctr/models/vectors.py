"""Given vectors (of a text, of a picture) as embeddings of their field."""

import torch
from torch import Tensor, nn

from tf4ctr.models.affine import Affine


class GivenVectors(nn.Module):
    """e = W v + b for the vector v [V] of each row; a learned e for a missing one.

    Args:
        width: V.
        dim: embedding size D.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.projection = Affine(width, dim)
        self.missing = nn.Parameter(torch.zeros(dim))

    def forward(self, vector_BV: Tensor) -> Tensor:
        """[B, V], NaN where missing -> [B, D]"""
        missing_B1 = vector_BV.isnan().any(1, keepdim=True)
        known_BV = torch.where(missing_B1, 0.0, vector_BV)
        return torch.where(missing_B1, self.missing, self.projection(known_BV))


class VectorsOfValues(nn.Module):
    """e = W V[x] + b for the value x of another field, with a table V of given vectors.

    Values without a vector, and unknown ones, have a learned e.

    Args:
        values: n, known values of the field.
        width: V.
        dim: embedding size D.
        frozen: whether the table stays as it is given; else it is trained.
    """

    table_NV: Tensor
    given_N: Tensor

    def __init__(self, values: int, width: int, dim: int, frozen: bool = True) -> None:
        super().__init__()
        self.given = GivenVectors(width, dim)
        table_NV = torch.zeros(values + 2, width)  # the rows of the field: padding, values, out of vocabulary
        if frozen:
            self.register_buffer("table_NV", table_NV)
        else:
            self.table_NV = nn.Parameter(table_NV)
        self.register_buffer("given_N", torch.zeros(values + 2, dtype=torch.bool))

    @torch.no_grad()
    def load(self, vector_NV: Tensor) -> None:
        """Take the vectors of the known values, [n, V], NaN where there is none."""
        self.given_N[1:-1] = ~vector_NV.isnan().any(1)
        self.table_NV[1:-1] = vector_NV.nan_to_num()

    def forward(self, row_B: Tensor) -> Tensor:
        """Rows of the field, 0 for padding, [B] -> [B, D]"""
        row_B = row_B.long()
        vector_BV = torch.where(self.given_N[row_B].unsqueeze(1), self.table_NV[row_B], torch.nan)
        return self.given(vector_BV)
