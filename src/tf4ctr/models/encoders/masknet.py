"""Instance-guided masks: MaskNet, parallel and serial (Wang et al., DLP-KDD 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.data.schema import Schema
from tf4ctr.errors import InputError
from tf4ctr.models.affine import Affine
from tf4ctr.models.dropout import Dropout
from tf4ctr.models.encoders.mlp import hidden_layers
from tf4ctr.models.inputs import Inputs


class FieldLayerNorm(nn.Module):
    """Layer norm of each field's embedding, with a gain and a bias per field."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_fields, embedding_dim))
        self.bias = nn.Parameter(torch.zeros(num_fields, embedding_dim))

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, D]"""
        return F.layer_norm(emb_BFD, emb_BFD.shape[2:]) * self.gain + self.bias


class MaskBlock(nn.Module):
    """mask = W_2 relu(W_1 v + b_1) + b_2;  output relu(layer_norm(W (mask * h))).

    v = [e_1; ...; e_F] is the instance, h the block's input. W_1 v is `ratio` times as long as v.
    """

    def __init__(self, instance: int, hidden: int, units: int, ratio: float) -> None:
        super().__init__()
        inner = max(1, int(ratio * instance))
        self.mask = nn.Sequential(Affine(instance, inner), nn.ReLU(), Affine(inner, hidden))
        self.linear, self.norm = Affine(hidden, units, bias=False), nn.LayerNorm(units)

    def forward(self, instance_BN: Tensor, hidden_BH: Tensor) -> Tensor:
        """v [B, N], h [B, H] -> [B, units]"""
        return torch.relu(self.norm(self.linear(self.mask(instance_BN) * hidden_BH)))


def _check(block_units: Sequence[int], ratio: float) -> None:
    if not block_units or min(block_units) < 1 or ratio <= 0:
        raise InputError(
            f"block_units is {list(block_units)}, ratio is {ratio}:"
            " at least one mask block is needed, with positive units and a positive ratio"
        )


class ParallelMaskNet(nn.Module):
    """Parallel mask blocks over the layer-normalised embeddings, then an MLP over their outputs.

    The output is the last hidden layer of the MLP [B, H].

    Args:
        block_units: outputs of each mask block.
        ratio: width of a mask's inner layer, as a multiple of F D.
        hidden_units, dropout, batch_norm: of the MLP.
        block_dropout: probability that an output of a block is set to zero in training.
        embedding_norm: whether there is a layer norm of the embeddings, as in the paper.

    Raises:
        InputError: there is no mask block, or one without units, a ratio that is not positive, or a
            dropout outside [0, 1).
    """

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        block_units: Sequence[int],
        hidden_units: Sequence[int],
        ratio: float = 1.0,
        dropout: float = 0.0,
        batch_norm: bool = True,
        block_dropout: float = 0.0,
        embedding_norm: bool = True,
    ) -> None:
        super().__init__()
        _check(block_units, ratio)
        if not 0 <= block_dropout < 1:
            raise InputError(f"block_dropout is {block_dropout}: it is a probability, from 0 to below 1")
        features = schema.num_fields * embedding_dim
        self.norm = FieldLayerNorm(schema.num_fields, embedding_dim) if embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(MaskBlock(features, features, units, ratio) for units in block_units)
        self.dropout = Dropout(block_dropout)
        self.layers = hidden_layers(sum(block_units), hidden_units, dropout, batch_norm)
        self.out_features = hidden_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        instance_BN, hidden_BN = emb_BFD.flatten(1), self.norm(emb_BFD).flatten(1)
        blocks_BH = torch.cat([block(instance_BN, hidden_BN) for block in self.blocks], 1)
        return self.layers(self.dropout(blocks_BH))


class SerialMaskNet(nn.Module):
    """Mask blocks in series. The first one reads the layer-normalised embeddings.

    The output is that of the last block [B, H].

    Args:
        block_units: outputs of each mask block.
        ratio: width of a mask's inner layer, as a multiple of F D.

    Raises:
        InputError: there is no mask block, or one without units, or a ratio that is not positive.
    """

    def __init__(self, schema: Schema, embedding_dim: int, block_units: Sequence[int], ratio: float = 1.0) -> None:
        super().__init__()
        _check(block_units, ratio)
        features = schema.num_fields * embedding_dim
        self.norm = FieldLayerNorm(schema.num_fields, embedding_dim)
        inputs = [features, *block_units[:-1]]
        self.blocks = nn.ModuleList(
            MaskBlock(features, *sizes, ratio) for sizes in zip(inputs, block_units, strict=True)
        )
        self.out_features = block_units[-1]

    def forward(self, emb_BFD: Tensor, x: Inputs) -> Tensor:
        """-> [B, H]"""
        instance_BN, hidden_BH = emb_BFD.flatten(1), self.norm(emb_BFD).flatten(1)
        for block in self.blocks:
            hidden_BH = block(instance_BN, hidden_BH)
        return hidden_BH
