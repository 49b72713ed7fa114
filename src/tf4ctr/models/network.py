"""The TF4CTR network: SSEM, two encoders side by side, DFM."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.models.dfm import Logits
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.ssem import EmbeddingFactory


class Network(nn.Module):
    """ids [B, W] -> `Logits`:  e_s, e_c = SSEM(x);  h_s, h_c = simple(e_s), complex(e_c);  z, z_s, z_c = DFM(h_s, h_c).

    The parts come as factories that this completes with what only the schema knows.

    Args:
        schema: the fields.
        embedding: `embedding(schema, dim)` makes a table.
        dim: embedding size D.
        ssem: `ssem(schema, embedding, dim)`.
        simple, complex: `encoder(schema, embedding_dim)` with `out_features`.
        dfm: `dfm(simple_features, complex_features)`.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        ssem: Callable[..., nn.Module],
        simple: Callable[..., nn.Module],
        complex: Callable[..., nn.Module],
        dfm: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.ssem = ssem(schema, embedding, dim)
        self.simple = simple(schema, self.ssem.simple_dim)
        self.complex = complex(schema, self.ssem.complex_dim)
        self.dfm = dfm(self.simple.out_features, self.complex.out_features)
        self.apply(_init_linear)

    def forward(self, ids_BW: Tensor) -> Logits:
        simple_BFD, complex_BFD = self.ssem(ids_BW)
        return self.dfm(self.simple(simple_BFD, ids_BW), self.complex(complex_BFD, ids_BW))

    def tables(self) -> Iterable[nn.Parameter]:
        """Every embedding table, the linear encoder's weights among them: the parameters under L2."""
        return (module.weight for module in self.modules() if isinstance(module, FieldEmbedding))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
