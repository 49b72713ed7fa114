"""Generalized interaction network of AOANet (Lang et al., KDD 2021)."""

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.inputs import Inputs


class GeneralizedInteraction(nn.Module):
    """z_o = (W_o * sum_(f, i) a_fio e_f y_i^T) h_o for each of O subspaces.

    e_f are the embeddings, y_i the outputs of the layer before; W_o [D, D] multiplies the outer
    products elementwise. Initially W_o is the identity, a and h are 1, as in public code: then z_o
    is the sum of all e_f * y_i. So the subspaces of a layer begin equal, and in the layers before
    the last one they stay equal.
    """

    def __init__(self, num_fields: int, inputs: int, subspaces: int, embedding_dim: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(embedding_dim).repeat(subspaces, 1, 1))
        self.pair_weight = nn.Parameter(torch.ones(num_fields, inputs, subspaces))
        self.vector = nn.Parameter(torch.ones(subspaces, embedding_dim))

    def forward(self, emb_BFD: Tensor, inputs_BID: Tensor) -> Tensor:
        """e [B, F, D], y [B, I, D] -> z [B, O, D]"""
        # (W * e y^T) h = e * ((W * 1 h^T) y): no outer products are needed
        map_ODE = self.matrix * self.vector.unsqueeze(1)
        mapped_BOID = torch.einsum("ode,bie->boid", map_ODE, inputs_BID)
        mixed_BOFD = torch.einsum("fio,boid->bofd", self.pair_weight, mapped_BOID)
        return (emb_BFD.unsqueeze(1) * mixed_BOFD).sum(2)


class AOANet(nn.Module):
    """A stack of generalized interactions over the embeddings.

    The first layer's y are the embeddings. The output are the last layer's z [B, O D].

    Args:
        num_layers: number of layers in the stack.
        subspaces: O.

    Raises:
        InputError: there is no layer or no subspace.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int, subspaces: int) -> None:
        super().__init__()
        if num_layers < 1 or subspaces < 1:
            raise InputError(f"num_layers is {num_layers}, subspaces is {subspaces}: both must be at least 1")
        fields = schema.num_fields
        self.layers = nn.ModuleList(
            GeneralizedInteraction(fields, subspaces if i else fields, subspaces, embedding_dim)
            for i in range(num_layers)
        )
        self.out_features = subspaces * embedding_dim

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, O D]"""
        out_BOD = emb_BFD
        for layer in self.layers:
            out_BOD = layer(emb_BFD, out_BOD)
        return out_BOD.flatten(1)
