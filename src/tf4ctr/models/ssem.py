"""Sample selection embedding module: what each of the encoders sees of a sample (TF4CTR, section on SSEM).

Every one maps ids [B, W] to e_k [B, F, D_k] for each of the K encoders, from the simple to the complex one, and tells the D_k as `dims`.
The paper has K = 2. `looks` says of each encoder whether it looks at embeddings at all; one that does not (linear) gets None or what is
there anyway, and no parameters are made for it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.mlp import hidden_layers

EmbeddingFactory = Callable[[Schema, int], FieldEmbedding]


class Shared(nn.Module):
    """One table, the same e for all: no selection, the baseline."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, looks: Sequence[bool]) -> None:
        super().__init__()
        self.dims = [dim] * len(looks)
        self.table = embedding(schema, dim) if any(looks) else None

    def forward(self, ids_BW: Tensor) -> list[Tensor | None]:
        return [None if self.table is None else self.table(ids_BW)] * len(self.dims)


class SeparateRepresentation(nn.Module):
    """SER: a table for each encoder, D/2 for the simple one and D for the others."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, looks: Sequence[bool]) -> None:
        super().__init__()
        if dim % 2:
            raise InputError(
                f"embedding.dim is {dim}: ssem=ser gives half of it to the simple encoder, so it must be even"
            )
        self.dims = [dim // 2] + [dim] * (len(looks) - 1)
        self.looks = tuple(looks)
        self.tables = nn.ModuleList(
            embedding(schema, each) for each, look in zip(self.dims, looks, strict=True) if look
        )

    def forward(self, ids_BW: Tensor) -> list[Tensor | None]:
        tables = iter(self.tables)
        return [next(tables)(ids_BW) if look else None for look in self.looks]


class GatingMechanism(nn.Module):
    """GM: one table; a sample's shares g = softmax([MLP(e), 0]), e_k = g_k e. The MLP's one hidden layer is F D / 4 wide.

    With two encoders g_1 = sigmoid(MLP(e)), one number a sample, e_s = g_1 e, e_c = (1 - g_1) e, as the paper has it.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        looks: Sequence[bool],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.dims = [dim] * len(looks)
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        quarter = max(1, features // 4)
        self.gate = nn.Sequential(
            *hidden_layers(features, [quarter], dropout, batch_norm), Affine(quarter, len(looks) - 1)
        )

    def forward(self, ids_BW: Tensor) -> list[Tensor]:
        emb_BFD = self.table(ids_BW)
        return [share_B[:, None, None] * emb_BFD for share_B in self.shares(emb_BFD).unbind(1)]

    def shares(self, emb_BFD: Tensor) -> Tensor:
        """g: what each encoder gets of each sample, [B, K], rows summing to 1."""
        return torch.softmax(nn.functional.pad(self.gate(emb_BFD.flatten(1)), (0, 1)), 1)


class MixtureOfExperts(nn.Module):
    """MOE: one table, then a multi-gate mixture of experts (Ma et al., KDD 2018) with as many experts and gates as encoders.

    With x = [e_1; ...; e_F]: e_k = sum_j softmax(gate_k(x))_j expert_j(x). An expert has two layers, F D / 2 and F D wide; a gate one
    hidden layer, F D / 4 wide.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        looks: Sequence[bool],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.dims = [dim] * len(looks)
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        half, quarter = max(1, features // 2), max(1, features // 4)
        self.looks = tuple(looks)
        self.experts = nn.ModuleList(hidden_layers(features, [half, features], dropout, batch_norm) for _ in looks)
        self.gates = nn.ModuleList(
            nn.Sequential(*hidden_layers(features, [quarter], dropout, batch_norm), Affine(quarter, len(looks)))
            for look in looks
            if look
        )

    def forward(self, ids_BW: Tensor) -> list[Tensor | None]:
        emb_BFD, gates = self.table(ids_BW), iter(self.gates)
        flat_BN = emb_BFD.flatten(1)
        expert_BNK = torch.stack([expert(flat_BN) for expert in self.experts], 2)

        def mix(gate: nn.Module) -> Tensor:
            return (expert_BNK @ torch.softmax(gate(flat_BN), 1).unsqueeze(2)).view_as(emb_BFD)

        return [mix(next(gates)) if look else None for look in self.looks]
