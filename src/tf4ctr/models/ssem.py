"""Sample selection embedding module: what each of the two encoders sees of a sample (TF4CTR, section on SSEM).

Every one maps ids [B, W] to (e_s [B, F, D_s], e_c [B, F, D_c]) and tells D_s and D_c as `simple_dim` and `complex_dim`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.mlp import hidden_layers

EmbeddingFactory = Callable[[Schema, int], FieldEmbedding]


class Shared(nn.Module):
    """One table, e_s = e_c: no selection, the baseline."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int) -> None:
        super().__init__()
        self.simple_dim = self.complex_dim = dim
        self.table = embedding(schema, dim)

    def forward(self, ids_BW: Tensor) -> tuple[Tensor, Tensor]:
        emb_BFD = self.table(ids_BW)
        return emb_BFD, emb_BFD


class SeparateRepresentation(nn.Module):
    """SER: two tables, D/2 for the simple encoder and D for the complex one."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise InputError(f"embedding.dim is {dim}: ssem=ser gives half of it to the simple encoder, so it must be even")
        self.simple_dim, self.complex_dim = dim // 2, dim
        self.simple_table = embedding(schema, self.simple_dim)
        self.complex_table = embedding(schema, self.complex_dim)

    def forward(self, ids_BW: Tensor) -> tuple[Tensor, Tensor]:
        return self.simple_table(ids_BW), self.complex_table(ids_BW)


class GatingMechanism(nn.Module):
    """GM: one table; g = sigmoid(MLP(e)), one number a sample; e_s = g e, e_c = (1 - g) e. The MLP's one hidden layer is F D / 4 wide."""

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, dropout: float = 0.0, batch_norm: bool = True) -> None:
        super().__init__()
        self.simple_dim = self.complex_dim = dim
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        self.gate = nn.Sequential(
            *hidden_layers(features, [max(1, features // 4)], dropout, batch_norm), nn.Linear(max(1, features // 4), 1)
        )

    def forward(self, ids_BW: Tensor) -> tuple[Tensor, Tensor]:
        emb_BFD = self.table(ids_BW)
        share_B11 = torch.sigmoid(self.gate(emb_BFD.flatten(1))).unsqueeze(2)
        return share_B11 * emb_BFD, (1 - share_B11) * emb_BFD


class MixtureOfExperts(nn.Module):
    """MOE: one table, then a multi-gate mixture of experts (Ma et al., KDD 2018) with two experts and a gate for each encoder.

    With x = [e_1; ...; e_F]: e_s = sum_k softmax(gate_s(x))_k expert_k(x), e_c the same with gate_c. An expert has two layers, F D / 2
    and F D wide; a gate one hidden layer, F D / 4 wide.
    """

    def __init__(self, schema: Schema, embedding: EmbeddingFactory, dim: int, dropout: float = 0.0, batch_norm: bool = True) -> None:
        super().__init__()
        self.simple_dim = self.complex_dim = dim
        self.table = embedding(schema, dim)
        features = schema.num_fields * dim
        half, quarter = max(1, features // 2), max(1, features // 4)
        self.experts = nn.ModuleList(hidden_layers(features, [half, features], dropout, batch_norm) for _ in range(2))
        self.gates = nn.ModuleList(
            nn.Sequential(*hidden_layers(features, [quarter], dropout, batch_norm), nn.Linear(quarter, len(self.experts))) for _ in range(2)
        )

    def forward(self, ids_BW: Tensor) -> tuple[Tensor, Tensor]:
        emb_BFD = self.table(ids_BW)
        flat_BN = emb_BFD.flatten(1)
        expert_BNK = torch.stack([expert(flat_BN) for expert in self.experts], 2)
        simple_BFD, complex_BFD = ((expert_BNK @ torch.softmax(gate(flat_BN), 1).unsqueeze(2)).view_as(emb_BFD) for gate in self.gates)
        return simple_BFD, complex_BFD
