"""Self-attentive models SAM1, SAM2 and SAM3 (Cheng and Xue, SIGIR 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.inputs import Inputs

KINDS = ("sam1", "sam2a", "sam2e", "sam3a", "sam3e")


class PairLayer(nn.Module):
    """o_fg = <e_f, e_g> u_fg for all F^2 pairs: output [B, F^2, D].

    u_fg is a learned vector, initially 1 (SAM2A, `learned`), or e_f * e_g (SAM2E).
    """

    def __init__(self, num_fields: int, embedding_dim: int, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_fields, num_fields, embedding_dim)) if learned else None

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, F^2, D]"""
        score_BFF = emb_BFD @ emb_BFD.transpose(1, 2)
        vector_BFFD = emb_BFD.unsqueeze(2) * emb_BFD.unsqueeze(1) if self.weight is None else self.weight
        return (score_BFF.unsqueeze(3) * vector_BFFD).flatten(1, 2)


class SumLayer(nn.Module):
    """o_f = sum_g <e_f, K e_g> u_fg + Q e_f: output [B, F, D].

    u_fg is a learned vector, initially 1 (SAM3A, `learned`), or e_f * e_g (SAM3E).
    """

    def __init__(self, num_fields: int, embedding_dim: int, learned: bool) -> None:
        super().__init__()
        self.key, self.residual = (Affine(embedding_dim, embedding_dim, bias=False) for _ in range(2))
        self.weight = nn.Parameter(torch.ones(num_fields, num_fields, embedding_dim)) if learned else None

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, D]"""
        score_BFF = emb_BFD @ self.key(emb_BFD).transpose(1, 2)
        if self.weight is None:
            out_BFD = emb_BFD * (score_BFF @ emb_BFD)
        else:
            out_BFD = torch.einsum("bfg,fgd->bfd", score_BFF, self.weight)
        return out_BFD + self.residual(emb_BFD)


class SAM(nn.Module):
    """SAM1: e;  SAM2: one PairLayer;  SAM3: a stack of SumLayers. The output is flat.

    Dropout follows each layer.

    Args:
        kind: sam1, sam2a, sam2e, sam3a or sam3e: A with learned vectors u, E with embeddings.
        num_layers: of sam3a and sam3e; the other kinds have no stack.
        dropout: probability that a number of a layer's output is set to zero in training.

    Raises:
        InputError: unknown kind, no layer, or a dropout outside [0, 1).
    """

    def __init__(
        self, schema: Schema, embedding_dim: int, kind: str, num_layers: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"kind is '{kind}': {did_you_mean(kind, KINDS)}")
        if num_layers < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"num_layers is {num_layers}, dropout is {dropout}:"
                " at least one layer is needed, and a dropout from 0 to below 1"
            )
        layer = PairLayer if kind.startswith("sam2") else SumLayer
        depth = {"sam1": 0, "sam2a": 1, "sam2e": 1}.get(kind, num_layers)
        self.layers = nn.Sequential()
        for _ in range(depth):
            self.layers.append(layer(schema.num_fields, embedding_dim, kind.endswith("a")))
            self.layers.append(Dropout(dropout))
        vectors = schema.num_fields ** (2 if layer is PairLayer else 1)
        self.out_features = vectors * embedding_dim

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, F D], or [B, F^2 D] for SAM2"""
        return self.layers(emb_BFD).flatten(1)
