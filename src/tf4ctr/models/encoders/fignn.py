"""Feature interaction graph neural network: Fi-GNN (Li et al., CIKM 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.inputs import Inputs


class GraphStep(nn.Module):
    """a_f = V_f sum_g A_fg U_g h_g + b, with matrices U and V per field."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        std = (2 / (2 * embedding_dim)) ** 0.5  # Xavier normal, per matrix
        shape = num_fields, embedding_dim, embedding_dim
        self.outgoing, self.incoming = (nn.Parameter(torch.randn(shape) * std) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(embedding_dim))

    def forward(self, edge_BFG: Tensor, state_BFD: Tensor) -> Tensor:
        """A [B, F, F], h [B, F, D] -> [B, F, D]"""
        sent_BGD = torch.einsum("gde,bge->bgd", self.outgoing, state_BFD)
        return torch.einsum("fde,bfe->bfd", self.incoming, edge_BFG @ sent_BGD) + self.bias


class GRUCell(nn.Module):
    """r, z = sigmoid(W a + V h);  n = tanh(W_n a + r * V_n h);  h' = (1 - z) * n + z * h.

    All maps have a bias. The weights are those of two linear layers, so the network initialises
    them as its other linear layers.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.input, self.hidden = (Affine(features, 3 * features) for _ in range(2))

    def forward(self, a_BFD: Tensor, state_BFD: Tensor) -> Tensor:
        """a, h [B, F, D] -> [B, F, D]"""
        reset_a, update_a, new_a = self.input(a_BFD).chunk(3, 2)
        reset_h, update_h, new_h = self.hidden(state_BFD).chunk(3, 2)
        update = torch.sigmoid(update_a + update_h)
        return (1 - update) * torch.tanh(new_a + torch.sigmoid(reset_a + reset_h) * new_h) + update * state_BFD


class FiGNN(nn.Module):
    """The fields are the nodes of a graph with edges A, its messages are the a of GraphStep.

    A_fg = softmax_g leaky_relu(w^T [e_f; e_g]) over the other fields g. h_1 = e. In each step,
    h = GRU(a, h) + e, or h = a + h + e without a GRU. The output is the logit
    sum_f sigmoid(W [h_1; ...; h_F])_f v^T h_f.

    Args:
        num_layers: number of steps.
        shared: whether all steps have the same matrices.
        gru: whether the steps have a GRU, the same for all.

    Raises:
        InputError: there is no step, or the dataset has one field.
    """

    out_features = 1

    def __init__(
        self, schema: Schema, embedding_dim: int, num_layers: int, shared: bool = True, gru: bool = True
    ) -> None:
        super().__init__()
        fields = schema.num_fields
        if num_layers < 1 or fields < 2:
            raise InputError(
                f"num_layers is {num_layers}, and the dataset {schema.dataset} has {fields} fields:"
                " Fi-GNN needs at least one layer and two fields"
            )
        self.num_layers = num_layers
        self.steps = nn.ModuleList(GraphStep(fields, embedding_dim) for _ in range(1 if shared else num_layers))
        self.gru = GRUCell(embedding_dim) if gru else None
        self.edge = Affine(embedding_dim, 2, bias=False)  # both halves of w
        self.score = Affine(embedding_dim, 1, bias=False)
        self.attention = Affine(fields * embedding_dim, fields, bias=False)

    def edges(self, emb_BFD: Tensor) -> Tensor:
        """A [B, F, F]: rows sum to 1, the diagonal is 0."""
        from_BF1, to_BF1 = self.edge(emb_BFD).split(1, 2)
        score_BFF = F.leaky_relu(from_BF1 + to_BF1.transpose(1, 2))
        itself_FF = torch.eye(emb_BFD.shape[1], dtype=torch.bool, device=emb_BFD.device)
        return torch.softmax(score_BFF.masked_fill(itself_FF, -torch.inf), 2)

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, 1]"""
        edge_BFF, state_BFD = self.edges(emb_BFD), emb_BFD
        for number in range(self.num_layers):
            message_BFD = self.steps[number % len(self.steps)](edge_BFF, state_BFD)
            state_BFD = message_BFD + state_BFD if self.gru is None else self.gru(message_BFD, state_BFD)
            state_BFD = state_BFD + emb_BFD
        weight_BF = torch.sigmoid(self.attention(state_BFD.flatten(1)))
        return (weight_BF * self.score(state_BFD).squeeze(2)).sum(1, keepdim=True)
