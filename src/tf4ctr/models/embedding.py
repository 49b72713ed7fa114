"""The embeddings of all fields: one table for ids, read with one lookup, and numbers beside it.

Shapes in the names of tensors, here and in every model file: B batch, F fields, W id columns (a
list field has several), N numbers, D embedding size, H hidden size, L positions of a history.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn

from tf4ctr.data.schema import Field, Schema
from tf4ctr.models.histories import HistoryEmbedding, SequenceFactory
from tf4ctr.models.numbers import LinearNumbers
from tf4ctr.models.rows import look_up
from tf4ctr.models.sequences.pooling import MeanPooling
from tf4ctr.models.sharding import BlockwiseNormal, ShardedLookup, Shards, mean_over_ranks
from tf4ctr.models.vectors import GivenVectors, VectorsOfValues

NumberFactory = Callable[[Sequence[Field], int], nn.Module]


class FieldEmbedding(nn.Module):
    """The embedding of each field, whatever its kind, in the order of the schema: [B, F, D].

    Ids own the rows of one table [num_ids, D], drawn from N(0, init_std^2); each field's padding
    row is zero. The embeddings of a list field's values are pooled without padding: their sum, mean
    or maximum. A padding row never gets a gradient, so it stays zero under weight decay. A number
    becomes an embedding by `number`, a history by `sequence`.

    Args:
        schema: the fields.
        dim: embedding size D.
        init_std: standard deviation of the initial values.
        sparse: the gradient contains the rows of the batch only. `RowwiseAdam` requires this.
        sharded: the rows are distributed over the ranks of one training, with sparse gradients of
            each rank's own. `weight` has no memory until `place` is called.
        number: `number(schema.number_fields, dim)` builds the module of numbers, see numbers.py.
        sequence: builds the encoder of a history, see histories.py.
    """

    field_W: Tensor
    padding_W: Tensor
    mean_F: Tensor
    order_F: Tensor

    def __init__(
        self,
        schema: Schema,
        dim: int,
        init_std: float = 1e-4,
        sparse: bool = False,
        sharded: bool = False,
        number: NumberFactory = LinearNumbers,
        sequence: SequenceFactory = MeanPooling,
    ) -> None:
        super().__init__()
        self.dim, self.sparse, self.sharded = dim, sparse or sharded, sharded
        self.shards: Shards | None = None  # over several ranks
        self._first: tuple[Tensor, Tensor] | None = None  # of `begin`, until the table has its rows
        self.weight = nn.Parameter(torch.empty(schema.num_ids, dim, device="meta" if sharded else None))
        if sharded:
            self._draw = BlockwiseNormal(schema.num_ids, dim, init_std)
        else:
            with torch.no_grad():
                self.weight.normal_(std=init_std)
                self.weight[list(schema.paddings)] = 0.0
        self.pooled_fields = schema.id_fields[: len(schema.id_fields) - len(schema.sequence_fields)]
        self.num_fields = len(self.pooled_fields)
        self.num_columns = sum(field.width for field in self.pooled_fields)
        self.has_lists = self.num_columns > self.num_fields
        if self.has_lists:
            self._prepare_pooling(schema)
        self.histories = nn.ModuleList(
            HistoryEmbedding(schema, history, dim, sequence, init_std) for history in schema.histories
        )
        self.numbers = number(schema.number_fields, dim) if schema.number_fields else None
        self.vectors = nn.ModuleList(_vectors(schema, field, dim) for field in schema.vector_fields)
        self.schema = schema
        self.has_ids_only = self.num_fields == schema.num_fields
        if not self.has_ids_only:
            order = [field.name for field in (*schema.id_fields, *schema.number_fields, *schema.vector_fields)]
            places = [order.index(field.name) for field in schema.fields]
            self.register_buffer("order_F", torch.tensor(places), persistent=False)

    def _prepare_pooling(self, schema: Schema) -> None:
        fields = self.pooled_fields
        field_of_column = [number for number, field in enumerate(fields) for _ in range(field.width)]
        padding_of_column = [schema.offset_of(fields[number].name) for number in field_of_column]
        self.register_buffer("field_W", torch.tensor(field_of_column), persistent=False)
        self.register_buffer("padding_W", torch.tensor(padding_of_column), persistent=False)
        self.register_buffer("mean_F", torch.tensor([field.pooling == "mean" for field in fields]), persistent=False)
        self.has_means = any(field.pooling == "mean" for field in fields)
        self.maxima = {
            number: schema.ids_of(field.name) for number, field in enumerate(fields) if field.pooling == "max"
        }

    def place(self, draw: bool = True) -> None:
        """Give a sharded table its rows: those of this rank, or all rows outside of a training.

        Every rank must call it, once the ranks are connected. From then on every lookup of several
        ranks is collective, and every rank looks up its own batch, see `ShardedLookup`. Nothing
        happens to a table that has its rows.

        Args:
            draw: draw the rows that a table without ranks would have; False leaves them undefined,
                for a checkpoint that is loaded next.
        """
        if not self.weight.is_meta:
            return
        rows = range(self.schema.num_ids)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self.shards = Shards(len(rows), distributed.get_rank(), distributed.get_world_size())
            rows = self.shards.own
        weight_RD = torch.empty(len(rows), self.dim)
        if draw:
            self._draw.fill(weight_RD, rows)
            weight_RD[[row - rows.start for row in self.schema.paddings if row in rows]] = 0.0
            if self._first is not None:
                _copy_rows(weight_RD, self._first[0], self._first[1][rows.start : rows.stop])
        self._first = None
        self.weight = nn.Parameter(weight_RD)

    def begin(self, other_SD: Tensor, place_R: Tensor) -> None:
        """Begin with rows of another table: row r is other[place[r]], unless place[r] is -1.

        A sharded table takes them when it gets its rows.
        """
        if self.weight.is_meta:
            self._first = other_SD, place_R
        else:
            _copy_rows(self.weight.detach(), other_SD, place_R)

    def replicate(self) -> None:
        """Train equal copies of the table on all ranks with sparse gradients: their mean."""
        self.weight.register_hook(mean_over_ranks)

    def forward(self, ids_BW: Tensor, numbers_BN: Tensor | None = None) -> Tensor:
        """ids int32 [B, W] and numbers float32 [B, N], see `Inputs` -> [B, F, D]"""
        emb_BFD, of_histories = self._embed(ids_BW)
        if self.has_ids_only:
            return emb_BFD
        parts = [emb_BFD]
        for history, emb_BLE in zip(self.histories, of_histories, strict=True):
            parts.append(history(ids_BW, emb_BLE, emb_BFD))
        if self.numbers is not None:
            assert numbers_BN is not None
            parts.append(self._numbers(numbers_BN[:, : len(self.schema.number_fields)]))
        for field in self.schema.vector_fields:
            parts.append(self._vector(field, ids_BW, numbers_BN).unsqueeze(1))
        return torch.cat([part.to(emb_BFD.dtype) for part in parts], 1).index_select(1, self.order_F)

    def attention(self, ids_BW: Tensor) -> dict[str, Tensor]:
        """How much each position of a history counts, by its leading field: [B, L].

        Histories whose encoder does not weigh positions are left out.
        """
        emb_BFD, of_histories = self._embed(ids_BW)
        histories = zip(self.schema.histories, self.histories, of_histories, strict=True)
        return {
            fields[0].name: history.weights(ids_BW, emb_BLE, emb_BFD)  # type: ignore[operator]
            for fields, history, emb_BLE in histories
            if hasattr(history.encoder, "weights")
        }

    def _embed(self, ids_BW: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The embeddings of the categorical fields, [B, F, D], and of each history's positions."""
        emb_BWD, *of_histories = self._look_up(ids_BW)
        return self._pool(emb_BWD, ids_BW[:, : self.num_columns]) if self.has_lists else emb_BWD, of_histories

    def _look_up(self, ids_BW: Tensor) -> Sequence[Tensor]:
        """The embeddings of the pooled columns, [B, w, D], and of each history, [B, L, S D]."""
        if not self.histories:
            return [self._rows_of(ids_BW)]
        rows, pooled_BW = ids_BW.shape[0], ids_BW[:, : self.num_columns]
        # part by part, so that the embeddings of each need no copy
        parts = [pooled_BW, *(history.ids(ids_BW) for history in self.histories)]  # type: ignore[operator]
        widths = [part.shape[1] for part in parts]
        padding_N = torch.cat(
            [torch.zeros_like(pooled_BW, dtype=torch.bool).flatten()]
            + [history.padding_of(ids_BW).flatten() for history in self.histories]  # type: ignore[operator]
        )
        emb_ND = self._rows_of(torch.cat([part.flatten() for part in parts]), padding_N)
        pooled, *others = emb_ND.split([rows * width for width in widths])
        # sizes without -1, which a batch of 0 rows does not determine
        of_histories = [
            emb.view(rows, history.width, width // history.width * self.dim)
            for history, emb, width in zip(self.histories, others, widths[1:], strict=True)
        ]
        return [pooled.view(rows, widths[0], self.dim), *of_histories]

    def _rows_of(self, ids: Tensor, padding_N: Tensor | None = None) -> Tensor:
        """[..., D]; `padding_N` marks positions that need no gradient, as their row is padding."""
        if self.shards is None:
            return look_up(self.weight, ids, self.sparse, padding_N)
        emb_ND: Tensor = ShardedLookup.apply(self.weight, ids.flatten(), self.shards, padding_N)
        return emb_ND.view(*ids.shape, self.dim)

    def vectors_of(self, name: str) -> nn.Module:
        """The module of a field of vectors."""
        return self.vectors[[field.name for field in self.schema.vector_fields].index(name)]

    def _numbers(self, numbers_BN: Tensor) -> Tensor:
        assert self.numbers is not None
        device = numbers_BN.device.type
        if not torch.is_autocast_enabled(device):
            return self.numbers(numbers_BN)
        with torch.autocast(device, enabled=False):  # bfloat16 would keep three digits of a number
            return self.numbers(numbers_BN)

    def _vector(self, field: Field, ids_BW: Tensor, numbers_BN: Tensor | None) -> Tensor:
        if field.of is not None:
            row_B = ids_BW[:, self.schema.ids_of(field.of)].squeeze(1) - self.schema.offset_of(field.of)
            return self.vectors_of(field.name)(row_B)
        assert numbers_BN is not None
        return self.vectors_of(field.name)(numbers_BN[:, self.schema.numbers_of(field.name)])

    def _pool(self, emb_BWD: Tensor, ids_BW: Tensor) -> Tensor:
        """Pool the columns of each field of ids, without padding: [B, W, D] -> [B, F, D]."""
        known_BW1 = (ids_BW != self.padding_W).unsqueeze(2)
        emb_BWD = emb_BWD * known_BW1
        # .shape instead of len(): an exported graph accepts batches of any size
        zeros_BFD = emb_BWD.new_zeros(ids_BW.shape[0], self.num_fields, self.dim)
        emb_BFD = zeros_BFD.index_add(1, self.field_W, emb_BWD)
        if self.has_means:
            counts_BF1 = zeros_BFD[:, :, :1].index_add(1, self.field_W, known_BW1.to(emb_BWD.dtype))
            emb_BFD = torch.where(self.mean_F[:, None], emb_BFD / counts_BF1.clamp_min(1), emb_BFD)
        if self.maxima:
            columns = list(emb_BFD.unbind(1))
            for number, width in self.maxima.items():
                # an empty list has one value, out of vocabulary: there is always a maximum
                columns[number] = emb_BWD[:, width].masked_fill(~known_BW1[:, width], -torch.inf).amax(1)
            emb_BFD = torch.stack(columns, 1)
        return emb_BFD


def _copy_rows(weight_RD: Tensor, other_SD: Tensor, place_R: Tensor) -> None:
    (kept,) = (place_R >= 0).nonzero(as_tuple=True)
    weight_RD[kept] = other_SD[place_R[kept]].to(weight_RD.dtype)


def _vectors(schema: Schema, field: Field, dim: int) -> nn.Module:
    if field.of is None:
        return GivenVectors(field.width, dim)
    return VectorsOfValues(schema[field.of].vocabulary_size - 2, field.width, dim, field.frozen)
