"""EulerNet: interactions of learned order in complex space (Tian et al., SIGIR 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.inputs import Inputs

SMALLEST = 1e-8  # added to the squared modulus: the logarithm of zero is infinite


class EulerLayer(nn.Module):
    """c_1, ..., c_I are complex vectors of size D, c_i = lambda_i exp(i theta_i), elementwise.

    The output are J complex vectors, each an explicit and an implicit part, added:

        explicit_j = exp(sum_i a_ij ln lambda_i + b_j) exp(i (sum_i a_ij theta_i + b'_j))
        implicit = relu(W re + v) + i relu(W im + v), with all vectors side by side

    The explicit part is the product of c_i ** a_ij. a is the identity if J = I; otherwise each
    column has one weight near 1 for a random input, as in the published code.
    """

    def __init__(self, inputs: int, outputs: int, embedding_dim: int, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        eye = torch.eye(inputs) if inputs == outputs else torch.softmax(100 * torch.randn(inputs, outputs), 0)
        self.order = nn.Parameter(eye)
        self.modulus_bias, self.phase_bias = (nn.Parameter(torch.randn(outputs, embedding_dim) / 100) for _ in range(2))
        self.implicit = Affine(inputs * embedding_dim, outputs * embedding_dim)
        self.dropout = Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(embedding_dim) for _ in range(2)) if layer_norm else None

    def forward(self, real_BID: Tensor, imaginary_BID: Tensor) -> tuple[Tensor, Tensor]:
        """[B, I, D] twice -> [B, J, D] twice"""
        log_modulus_BID = 0.5 * (real_BID**2 + imaginary_BID**2 + SMALLEST).log()
        phase_BID = torch.atan2(imaginary_BID, real_BID)
        modulus_BJD = (self._mix(log_modulus_BID) + self.modulus_bias).exp()
        phase_BJD = self._mix(phase_BID) + self.phase_bias
        parts = zip((real_BID, imaginary_BID), (phase_BJD.cos(), phase_BJD.sin()), strict=True)
        out = [modulus_BJD * direction_BJD + self._implicit(part_BID) for part_BID, direction_BJD in parts]
        if self.norms is not None:
            out = [norm(part) for norm, part in zip(self.norms, out, strict=True)]
        return out[0], out[1]

    def _mix(self, x_BID: Tensor) -> Tensor:
        return torch.einsum("bid,ij->bjd", self.dropout(x_BID), self.order)

    def _implicit(self, part_BID: Tensor) -> Tensor:
        out_BN = torch.relu(self.implicit(self.dropout(part_BID.flatten(1))))
        return out_BN.unflatten(1, (-1, part_BID.shape[2]))


class EulerNet(nn.Module):
    """Euler layers over c_f = m_f exp(i e_f), with a learned m_f per field, initially 1.

    The logit of the paper is w^T re + w^T im of the last layer. So the output is re + im [B, J D].

    Args:
        vectors: J of each layer.
        dropout: probability that a number of a layer's inputs is set to zero in training.
        layer_norm: whether each layer normalises its output over D.

    Raises:
        InputError: there is no layer, one without vectors, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        vectors: Sequence[int],
        dropout: float = 0.0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if not vectors or min(vectors) < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"vectors is {list(vectors)}, dropout is {dropout}:"
                " at least one layer is needed, each with at least one vector, and a dropout from 0 to below 1"
            )
        self.scale_F1 = nn.Parameter(torch.ones(schema.num_fields, 1))
        sizes = zip([schema.num_fields, *vectors[:-1]], vectors, strict=True)
        self.layers = nn.ModuleList(EulerLayer(*size, embedding_dim, dropout, layer_norm) for size in sizes)
        self.out_features = vectors[-1] * embedding_dim

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, J D]"""
        real, imaginary = self.scale_F1 * emb_BFD.cos(), self.scale_F1 * emb_BFD.sin()
        for layer in self.layers:
            real, imaginary = layer(real, imaginary)
        return (real + imaginary).flatten(1)
