"""The TF4CTR network: SSEM, encoders side by side, DFM."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.dfm import Sum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.ssem import EmbeddingFactory, Shared


class Logits(NamedTuple):
    """Logits [B] each: `fused` is the prediction, `simple` and `complex` are the heads that the TF Loss trains.

    `between` names the heads of further encoders, from the simpler to the more complex. Where there is one encoder, its head is both.
    """

    fused: Tensor
    simple: Tensor
    complex: Tensor
    between: Mapping[str, Tensor] = MappingProxyType({})

    def heads(self) -> dict[str, Tensor]:
        """Every head by name, from the simple to the complex one."""
        return {"simple": self.simple, **self.between, "complex": self.complex}


class Network(nn.Module):
    """ids [B, W] -> `Logits`:  e_k = SSEM(x)_k;  h_k = encoder_k(e_k);  z, z_1, ..., z_K = DFM(h_1, ..., h_K).

    The paper has K = 2 encoders, a simple and a complex one. The parts come as factories that this completes with what only the
    schema knows.

    Args:
        schema: the fields.
        embedding: `embedding(schema, dim)` makes a table.
        dim: embedding size D.
        ssem: `ssem(schema, embedding, dim, looks)` with `dims`, the embedding size that each encoder sees; see ssem.py.
        encoders: by name, `encoder(schema, embedding_dim)` with `out_features`, and `uses_embeddings` false where it looks at ids
            alone. `simple` and `complex`, and others that stand between them; or one alone, under any name.
        dfm: `dfm([out_features of each])`.

    Raises:
        InputError: several encoders without a simple and a complex one, or one with an ssem or dfm for several.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        ssem: Callable[..., nn.Module],
        encoders: Mapping[str, Callable[..., nn.Module]],
        dfm: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        if len(encoders) != 1 and not {"simple", "complex"} <= set(encoders):
            raise InputError(
                f"the backbone has the encoders {list(encoders)}: it needs one, or a simple and a complex one among them"
            )
        if len(encoders) == 1 and (_made(ssem), _made(dfm)) != (Shared, Sum):
            raise InputError(
                "this backbone has one encoder: there is nothing to select or to fuse; add framework=plain"
            )
        names = sorted(encoders, key=lambda name: {"simple": 0, "complex": 2}.get(name, 1))
        looks = [getattr(_made(encoders[name]), "uses_embeddings", True) for name in names]
        self.ssem = ssem(schema, embedding, dim, looks)
        dims: list[int] = self.ssem.dims  # type: ignore[assignment]
        self.encoders = nn.ModuleDict(
            {name: encoders[name](schema, dim) for name, dim in zip(names, dims, strict=True)}
        )
        self.dfm = dfm([encoder.out_features for encoder in self.encoders.values()])
        self.apply(_init_linear)
        options = embedding.keywords if isinstance(embedding, partial) else {}
        for each in self.embeddings():  # an encoder's own table, as the linear one has, too
            each.sparse, each.sharded = options.get("sparse", False), options.get("sharded", False)

    @property
    def heads(self) -> list[str]:
        """Names of the heads beside the fused one, from the simple to the complex one; none where one encoder's head is the fused one."""
        return list(self.encoders) if len(self.encoders) > 1 else []

    def forward(self, ids_BW: Tensor) -> Logits:
        views = zip(self.encoders.values(), self.ssem(ids_BW), strict=True)
        fused_B, heads = self.dfm([encoder(emb_BFD, ids_BW) for encoder, emb_BFD in views])
        between = dict(zip(list(self.encoders)[1:-1], heads[1:-1], strict=True))
        return Logits(fused_B, heads[0], heads[-1], between)

    def tables(self) -> Iterable[nn.Parameter]:
        """Every embedding table, the linear encoder's weights among them: the parameters under L2."""
        return (embedding.weight for embedding in self.embeddings())

    def embeddings(self) -> Iterable[FieldEmbedding]:
        """Every embedding, the linear encoder's among them."""
        return (module for module in self.modules() if isinstance(module, FieldEmbedding))


def _made(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return factory.func if isinstance(factory, partial) else factory


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
