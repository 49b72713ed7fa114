"""The history of each row as embeddings of its fields.

How a history becomes one vector is the task of an encoder, one file per way in `sequences/`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tf4ctr.data.schema import Field, Schema

SequenceFactory = Callable[[int, int, bool], nn.Module]  # (features, width, has_target) -> encoder


class HistoryEmbedding(nn.Module):
    """Encodes S aligned sequences of ids, one history, into S embeddings.

    The embeddings of position l are concatenated: h_l in R^(S D). The target t is the concatenation
    of the embeddings of each sequence's target field in this row, zero for a sequence without one
    (times). The encoder makes a vector of S D numbers of h_1, ..., h_L and t. An empty history is a
    learned vector instead, and no gradient reaches anything else from it.

    Args:
        schema: of the dataset.
        history: the sequences, the leading one first.
        dim: embedding size D.
        sequence: `sequence(features, width, has_target)` builds the encoder, with S D features.
        init_std: standard deviation of the initial vector of an empty history.

    Raises:
        InputError: the encoder needs a target, and the history has none.
    """

    def __init__(
        self, schema: Schema, history: Sequence[Field], dim: int, sequence: SequenceFactory, init_std: float
    ) -> None:
        super().__init__()
        self.sequences, self.dim, self.width = len(history), dim, history[0].width
        places = [schema.ids_of(field.name) for field in history]
        self.columns = slice(places[0].start, places[-1].stop)  # the sequences of a history are neighbours
        self.padding = schema.offset_of(history[0].name)
        # the places of the targets among the categorical fields, None for a sequence without one
        names = [field.name for field in schema.id_fields]
        self.targets = [None if field.target is None else names.index(field.target) for field in history]
        self.has_target = any(target is not None for target in self.targets)
        self.encoder = sequence(self.sequences * dim, self.width, self.has_target)
        self.empty = nn.Parameter(torch.randn(self.sequences * dim) * init_std)

    def ids(self, ids_BW: Tensor) -> Tensor:
        """The ids of all sequences, position by position: [B, L S].

        In this order the embeddings of a position are neighbours, and need no copy to be one h_l.
        """
        ids_BSL = ids_BW[:, self.columns].unflatten(1, (self.sequences, self.width))
        return ids_BSL.transpose(1, 2).flatten(1)

    def padding_of(self, ids_BW: Tensor) -> Tensor:
        """Which of `ids` are padding, [B, L S]."""
        return (~self._known(ids_BW)).repeat_interleave(self.sequences, 1)

    def forward(self, ids_BW: Tensor, emb_BLE: Tensor, emb_BFD: Tensor) -> Tensor:
        """-> [B, S, D]

        Args:
            ids_BW: all ids of the rows.
            emb_BLE: the embeddings of `ids`; E = S D.
            emb_BFD: embeddings of the categorical fields.
        """
        known_BL = self._known(ids_BW)
        encoded_BE = self.encoder(emb_BLE, known_BL, self._target(emb_BFD))
        # the first position has a value unless all are empty
        encoded_BE = torch.where(known_BL[:, :1], encoded_BE, self.empty.to(encoded_BE.dtype))
        return encoded_BE.view(-1, self.sequences, self.dim)

    def weights(self, ids_BW: Tensor, emb_BLE: Tensor, emb_BFD: Tensor) -> Tensor:
        """How much each position counts, [B, L], 0 at padding; arguments as in `forward`."""
        return self.encoder.weights(emb_BLE, self._known(ids_BW), self._target(emb_BFD))  # type: ignore[operator]

    def _known(self, ids_BW: Tensor) -> Tensor:
        """Which positions have a value, [B, L]."""
        return ids_BW[:, self.columns][:, : self.width] != self.padding

    def _target(self, emb_BFD: Tensor) -> Tensor | None:
        if not self.has_target:
            return None
        zeros_BD = torch.zeros_like(emb_BFD[:, 0])
        return torch.cat([zeros_BD if place is None else emb_BFD[:, place] for place in self.targets], 1)
