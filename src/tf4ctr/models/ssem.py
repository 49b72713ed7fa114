"""Sample selection embedding module: the embeddings of each encoder (TF4CTR, section on SSEM).

Every module maps `Inputs` to e_k [B, F, D_k] for each of the K encoders, from the simple to the
complex one; `dims` lists the D_k. The paper has K = 2. `uses_embeddings` says for each encoder
whether it reads embeddings. An encoder that does not (linear) gets None or unused embeddings, and
has no parameters here. `own_tables()` lists for each encoder the table that it reads alone, if any.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs

EmbeddingFactory = Callable[[Schema, int], FieldEmbedding]


class Shared(nn.Module):
    """One table, the same e for all encoders: the baseline without a selection."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, uses_embeddings: Sequence[bool]) -> None:
        super().__init__()
        self.dims = [dim] * len(uses_embeddings)
        self.uses_embeddings = tuple(uses_embeddings)
        self.table = embedding(schema, dim) if any(uses_embeddings) else None

    def forward(self, x: Inputs) -> list[Tensor | None]:
        """-> K times the same [B, F, D]"""
        return [None if self.table is None else self.table(*x)] * len(self.dims)

    def own_tables(self) -> list[FieldEmbedding | None]:
        is_own = sum(self.uses_embeddings) == 1
        return [self.table if is_own and reads else None for reads in self.uses_embeddings]


class SeparateRepresentation(nn.Module):
    """SER: one table per encoder. The simple encoder has D/2, the others have D.

    Raises:
        InputError: D is odd.
    """

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, uses_embeddings: Sequence[bool]) -> None:
        super().__init__()
        if dim % 2:
            raise InputError(
                f"embedding.dim is {dim}: ssem=ser gives half of it to the simple encoder, so it must be even"
            )
        self.dims = [dim // 2] + [dim] * (len(uses_embeddings) - 1)
        self.uses_embeddings = tuple(uses_embeddings)
        self.tables = nn.ModuleList(
            embedding(schema, encoder_dim)
            for encoder_dim, has_table in zip(self.dims, uses_embeddings, strict=True)
            if has_table
        )

    def forward(self, x: Inputs) -> list[Tensor | None]:
        """-> e_k [B, F, D_k]"""
        tables = iter(self.tables)
        return [next(tables)(*x) if has_table else None for has_table in self.uses_embeddings]

    def own_tables(self) -> list[FieldEmbedding | None]:
        tables = iter(self.tables)
        return [next(tables) if has_table else None for has_table in self.uses_embeddings]  # type: ignore[misc]


class GatingMechanism(nn.Module):
    """GM: one table; e_k = g_k e with g = softmax([MLP(e), 0]), K numbers per sample.

    The MLP has one hidden layer with F D / 4 units. With two encoders g_1 = sigmoid(MLP(e)),
    e_s = g_1 e, e_c = (1 - g_1) e, as in the paper.

    Args:
        dropout, batch_norm: of the MLP.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        uses_embeddings: Sequence[bool],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        encoders = len(uses_embeddings)
        self.dims = [dim] * encoders
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        quarter = max(1, features // 4)
        self.gate = nn.Sequential(
            *hidden_layers(features, [quarter], dropout, batch_norm), Affine(quarter, encoders - 1)
        )

    def forward(self, x: Inputs) -> list[Tensor]:
        """-> e_k [B, F, D]"""
        emb_BFD = self.table(*x)
        return [share_B[:, None, None] * emb_BFD for share_B in self.shares(emb_BFD).unbind(1)]

    def own_tables(self) -> list[FieldEmbedding | None]:
        return [None] * len(self.dims)

    def shares(self, emb_BFD: Tensor) -> Tensor:
        """g [B, K]: the share of each sample that each encoder gets. Rows sum to 1."""
        return torch.softmax(nn.functional.pad(self.gate(emb_BFD.flatten(1)), (0, 1)), 1)


class MixtureOfExperts(nn.Module):
    """MOE: one table, then a multi-gate mixture of experts (Ma et al., KDD 2018).

    With x = [e_1; ...; e_F]: e_k = sum_j softmax(gate_k(x))_j expert_j(x). There are K experts and
    K gates. An expert has two layers with F D / 2 and F D units, each with a ReLU: no e_k is
    negative. A gate has one hidden layer with F D / 4 units.

    Args:
        dropout, batch_norm: of experts and gates.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        uses_embeddings: Sequence[bool],
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        encoders = len(uses_embeddings)
        self.dims = [dim] * encoders
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        half, quarter = max(1, features // 2), max(1, features // 4)
        self.uses_embeddings = tuple(uses_embeddings)
        self.experts = nn.ModuleList(
            hidden_layers(features, [half, features], dropout, batch_norm) for _ in range(encoders)
        )
        self.gates = nn.ModuleList(
            nn.Sequential(*hidden_layers(features, [quarter], dropout, batch_norm), Affine(quarter, encoders))
            for has_gate in uses_embeddings
            if has_gate
        )

    def forward(self, x: Inputs) -> list[Tensor | None]:
        """-> e_k [B, F, D]"""
        emb_BFD, gates = self.table(*x), iter(self.gates)
        flat_BN = emb_BFD.flatten(1)
        expert_BNK = torch.stack([expert(flat_BN) for expert in self.experts], 2)

        def mix(gate: nn.Module) -> Tensor:
            return (expert_BNK @ torch.softmax(gate(flat_BN), 1).unsqueeze(2)).view_as(emb_BFD)

        return [mix(next(gates)) if has_gate else None for has_gate in self.uses_embeddings]

    def own_tables(self) -> list[FieldEmbedding | None]:
        return [None] * len(self.dims)
