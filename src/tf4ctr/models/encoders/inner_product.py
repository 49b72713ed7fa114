"""Inner products of the fields, then an MLP.

The inner-product network of PNN (Qu et al., ICDM 2016) and the dot interactions of DLRM (Naumov et
al., 2019).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


def field_pairs(schema: Schema) -> Tensor:
    """All pairs of fields f < g, int64 [2, P] with P = F (F - 1) / 2.

    Raises:
        InputError: the dataset has only one field.
    """
    if schema.num_fields < 2:
        raise InputError(f"the dataset {schema.dataset} has one field, but this encoder needs pairs of fields")
    return torch.triu_indices(schema.num_fields, schema.num_fields, 1)


class InnerProduct(nn.Module):
    """h_0 = [e_1; ...; e_F; all <e_f, e_g> with f < g], then an MLP.

    The output is the last hidden layer of the MLP [B, H].

    Args:
        embeddings: whether h_0 contains the embeddings. They are part of IPNN, but not of DLRM.
            (DLRM's own MLP for numbers, whose output also enters h_0, is not here: numbers are
            embedded as fields.)
        hidden_units, dropout, batch_norm: of the MLP.
    """

    pairs_2P: Tensor

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        hidden_units: Sequence[int],
        embeddings: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.register_buffer("pairs_2P", field_pairs(schema), persistent=False)
        inputs = self.pairs_2P.shape[1] + embeddings * schema.num_fields * embedding_dim
        self.layers = hidden_layers(inputs, hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        product_BFF = emb_BFD @ emb_BFD.transpose(1, 2)
        product_BP = product_BFF[:, self.pairs_2P[0], self.pairs_2P[1]]
        return self.layers(torch.cat([emb_BFD.flatten(1), product_BP], 1) if self.embeddings else product_BP)
