"""Cross network of DCN V2, with a full matrix (Wang et al., WWW 2021)."""

from torch import Tensor, nn

from tf4ctr.data.schema import Schema


class CrossV2(nn.Module):
    """x_(l+1) = x_0 * (W_l x_l + b_l) + x_l, elementwise, with x_0 = [e_1; ...; e_F]; yields x_L [B, F D].

    Args:
        num_layers: L.
    """

    def __init__(self, schema: Schema, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.out_features = schema.num_fields * embedding_dim
        self.layers = nn.ModuleList(nn.Linear(self.out_features, self.out_features) for _ in range(num_layers))

    def forward(self, emb_BFD: Tensor, ids_BW: Tensor) -> Tensor:
        """-> [B, F D]"""
        first_BN = cross_BN = emb_BFD.flatten(1)
        for layer in self.layers:
            cross_BN = first_BN * layer(cross_BN) + cross_BN
        return cross_BN
