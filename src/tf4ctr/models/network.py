"""The TF4CTR network: SSEM, parallel encoders, DFM."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.calibration import Calibration
from tf4ctr.models.dfm import Mean, Sum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.inputs import Inputs
from tf4ctr.models.ssem import EmbeddingFactory, Shared

RESERVED = ("fused", "uncalibrated")  # names of metrics beside those of the heads


class Logits(NamedTuple):
    """The logits of a batch, [B] each.

    Attributes:
        fused: the prediction, calibrated if the network is and evaluates.
        simple, complex: the heads that the TF Loss trains. With one encoder, both are its head.
        between: the heads of further encoders by name, from the simpler to the more complex.
    """

    fused: Tensor
    simple: Tensor
    complex: Tensor
    between: Mapping[str, Tensor] = MappingProxyType({})

    def heads(self) -> dict[str, Tensor]:
        """All heads by name, from the simple to the complex one."""
        return {"simple": self.simple, **self.between, "complex": self.complex}


class Network(nn.Module):
    """e_k = SSEM(x)_k;  h_k = encoder_k(e_k);  z, z_1, ..., z_K = DFM(h_1, ..., h_K).

    The input x are `Inputs`, the output is `Logits`. The paper has K = 2 encoders, a simple and a
    complex one. The parts are given as factories. The network adds the arguments that depend on the
    schema.

    Args:
        schema: the fields.
        embedding: `embedding(schema, dim)` builds a table.
        dim: embedding size D.
        ssem: `ssem(schema, embedding, dim, uses_embeddings)` builds a module with `dims`, the
            embedding size of each encoder; see ssem.py.
        encoders: by name, `encoder(schema, embedding_dim)` builds a module with `out_features`. Its
            class has `uses_embeddings = False` if it only reads `Inputs`, and `has_table = True` if
            it has a table of its own: then it also gets `table`, and `table(schema, dim)` builds
            one. Either one encoder with any name, or several: `simple`, `complex` and others
            between them.
        dfm: `dfm([out_features of each encoder])`; see dfm.py.
        calibrate: add a `Calibration` of the fused logit; who trains the network fits it.

    Raises:
        InputError: `simple` or `complex` is missing among several encoders, an encoder has a name
            of `RESERVED`, one ends with a hidden layer of one unit that would be taken for a logit,
            or one encoder comes with an ssem or dfm for several.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingFactory,
        dim: int,
        ssem: Callable[..., nn.Module],
        encoders: Mapping[str, Callable[..., nn.Module]],
        dfm: Callable[..., nn.Module],
        calibrate: bool = False,
    ) -> None:
        super().__init__()
        if len(encoders) != 1 and not {"simple", "complex"} <= set(encoders):
            raise InputError(
                f"the backbone has the encoders {list(encoders)}: expected one encoder,"
                " or several with 'simple' and 'complex' among them; add one, as in +encoder@backbone.simple=mlp"
            )
        if taken := sorted({*encoders} & {*RESERVED}):
            raise InputError(
                f"backbone.{taken[0]} is an encoder: {' and '.join(RESERVED)} are names of metrics of the fused"
                " logit. Give the encoder another name"
            )
        if len(encoders) == 1 and (_class_of(ssem), _class_of(dfm)) != (Shared, Sum):
            raise InputError(
                "this backbone has one encoder, but ssem and dfm select and fuse several: add framework=plain"
            )
        names = sorted(encoders, key=lambda name: {"simple": 0, "complex": 2}.get(name, 1))
        uses_embeddings = [getattr(_class_of(encoders[name]), "uses_embeddings", True) for name in names]
        self.ssem = ssem(schema, embedding, dim, uses_embeddings)
        dims: list[int] = self.ssem.dims  # type: ignore[assignment]
        options = embedding.keywords if isinstance(embedding, partial) else {}
        table = partial(FieldEmbedding, **{key: options[key] for key in ("sparse", "sharded") if key in options})
        self.encoders = nn.ModuleDict()
        for name, encoder_dim in zip(names, dims, strict=True):
            has_table = getattr(_class_of(encoders[name]), "has_table", False)
            self.encoders[name] = encoders[name](schema, encoder_dim, **({"table": table} if has_table else {}))
            if _class_of(dfm) in (Sum, Mean) and _ends_with_one_unit(self.encoders[name]):
                raise InputError(
                    f"backbone.{name} ends with one unit, which dfm=sum and dfm=mean take for a logit: give its"
                    " last layer more units"
                )
        self.dfm = dfm([encoder.out_features for encoder in self.encoders.values()])
        self.calibration = Calibration() if calibrate else None
        self.apply(_init_linear)

    @property
    def heads(self) -> list[str]:
        """Names of the heads, from the simple to the complex one.

        Empty with one encoder, because its head equals the fused logit.
        """
        return list(self.encoders) if len(self.encoders) > 1 else []

    def forward(self, ids_BW: Tensor, numbers_BN: Tensor | None = None) -> Logits:
        """ids int32 [B, W] and numbers float32 [B, N], see `Inputs` -> logits [B] each"""
        x = Inputs(ids_BW, numbers_BN)
        inputs = zip(self.encoders.values(), self.ssem(x), strict=True)
        fused_B, heads = self.dfm([encoder(emb_BFD, x) for encoder, emb_BFD in inputs])
        between = dict(zip(list(self.encoders)[1:-1], heads[1:-1], strict=True))
        if self.calibration is not None:
            fused_B = self.calibration(fused_B)
        return Logits(fused_B, heads[0], heads[-1], between)

    def by_head(self, logits: Logits) -> dict[str, Tensor]:
        """The logits `fused`, and those of `heads` by name, [B] each."""
        return {"fused": logits.fused, **(logits.heads() if self.heads else {})}

    def auxiliary(self) -> Tensor | None:
        """The losses of the encoders of histories in this step, added; None if there are none."""
        losses: list[Tensor] = []
        for table in self.embeddings():
            for history in table.histories:
                loss = getattr(history.encoder, "auxiliary", None)
                losses += [] if loss is None else [loss]
        return torch.stack(losses).sum() if losses else None

    def place_tables(self, draw: bool = True) -> None:
        """Give the sharded tables their rows, see `FieldEmbedding.place`."""
        for embedding in self.embeddings():
            embedding.place(draw)

    def tables(self) -> Iterable[nn.Parameter]:
        """The weights of all embedding tables, also of the linear encoder: L2 applies to them."""
        return (embedding.weight for embedding in self.embeddings())

    def readers(self) -> list[str | None]:
        """For each of `tables`, the encoder that reads it alone; None if several do."""
        own: dict[int, str] = {}
        tables = self.ssem.own_tables()  # type: ignore[operator]
        for (name, encoder), table in zip(self.encoders.items(), tables, strict=True):
            own |= {id(module): name for module in (table, *encoder.modules()) if isinstance(module, FieldEmbedding)}
        return [own.get(id(embedding)) for embedding in self.embeddings()]

    def embeddings(self) -> Iterable[FieldEmbedding]:
        """All embedding tables, also the linear encoder's."""
        return (module for module in self.modules() if isinstance(module, FieldEmbedding))


def _class_of(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return factory.func if isinstance(factory, partial) else factory


def _ends_with_one_unit(encoder: nn.Module) -> bool:
    """Whether an encoder has one output that is no logit; the class of the others says so."""
    return bool(encoder.out_features == 1) and not hasattr(type(encoder), "out_features")


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
