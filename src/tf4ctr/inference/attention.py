"""How much each value of a history counted, if the run's sequence encoder weighs them.

Shapes: N rows, W columns of ids, L positions of a history, P positions that are drawn.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tf4ctr.data.schema import Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation
from tf4ctr.training.head_colours import head_colours

DRAWN_ROWS = 10_000  # of the picture at most: more do not change its lines visibly
BATCH_ROWS = 1_000  # at a time: the layers of an attention are large for long histories
DRAWN_SHARE = 0.01  # of the rows that a position needs to be drawn: few rows give a line of noise


def lengths(ids_NW: Tensor, schema: Schema, history: str) -> Tensor:
    """How many values a history has in each row, [N].

    Args:
        ids_NW: of the rows.
        schema: of the dataset.
        history: its leading sequence.
    """
    return (ids_NW[:, schema.ids_of(history)] != schema.offset_of(history)).sum(1)


@torch.inference_mode()
def shares(network: Network, ids_NW: Tensor) -> dict[str, dict[str, Tensor]]:
    """The share of each position of a history in the weights of its row: |a_l| / sum_k |a_k|.

    The weights a are those of the run's sequence encoder. They need not sum to 1, and those of DIN
    can be negative. The sign is left out, because the layers after the encoder can reverse it.

    Returns:
        History, by its leading sequence -> table -> shares, float64 [N, L]. The sum of a row is 1,
        or 0 if all its weights are 0. A table is called by its encoder if each encoder has its own
        (ssem=ser), else it is called "". A history whose encoder has no weights is left out.
    """
    device = next(network.parameters()).device
    parts: dict[str, dict[str, list[Tensor]]] = {}
    for ids_BW in ids_NW.split(BATCH_ROWS):
        for table, embedding in tables(network).items():
            for history, weight_BL in embedding.attention(ids_BW.to(device)).items():
                weights = parts.setdefault(history, {}).setdefault(table, [])
                weights.append(weight_BL.abs().cpu().double())
    return {
        history: {table: _normalized(torch.cat(weights)) for table, weights in of_tables.items()}
        for history, of_tables in parts.items()
    }


def _normalized(weight_NL: Tensor) -> Tensor:
    total_N1 = weight_NL.sum(1, keepdim=True)
    return weight_NL / total_N1.where(total_N1 > 0, 1)


def tables(network: Network) -> dict[str, FieldEmbedding]:
    """The embedding tables that encoders read; see `shares` for the names."""
    ssem = network.ssem
    if isinstance(ssem, SeparateRepresentation):
        names = [name for name, reads in zip(network.encoders, ssem.uses_embeddings, strict=True) if reads]
        return dict(zip(names, ssem.tables, strict=True))  # type: ignore[arg-type]
    return {"": ssem.table} if isinstance(ssem.table, FieldEmbedding) else {}


def by_position(share_NL: Tensor, length_N: Tensor) -> NDArray[np.float64]:
    """How much the values at a position count: lower quartile, mean and upper quartile, [P, 3].

    Position 1 is the latest value. A value counts n s, with its share s of the n values of its row:
    1 is as much as the row's values on average. So rows of different lengths are comparable. Rows
    with less than two values or without weights are left out, and positions that less than 1 % of
    the rows have.

    Args:
        share_NL: see `shares`.
        length_N: values of each row.
    """
    used_N = (length_N > 1) & (share_NL.sum(1) > 0)
    length, share = length_N[used_N].numpy(), share_NL[used_N].numpy()
    points = []
    for position in range(1, share.shape[1] + 1):
        rows = np.flatnonzero(length >= position)
        if len(rows) < max(1, DRAWN_SHARE * len(length)):
            break
        counted = share[rows, length[rows] - position] * length[rows]
        low, high = np.quantile(counted, (0.25, 0.75))
        points.append((low, counted.mean(), high))
    return np.array(points).reshape(-1, 3)


def profiles(network: Network, schema: Schema, ids_NW: Tensor) -> dict[str, dict[str, NDArray[np.float64]]]:
    """`by_position` of each history and table, over up to 10,000 rows spread over a split.

    The rows have at least two values in a history. The result is empty if there are no such rows,
    or no weights.

    Args:
        network: of the run.
        schema: of its dataset.
        ids_NW: of the split.
    """
    leaders = [history[0].name for history in schema.histories]
    if not leaders:
        return {}
    longest_N = torch.stack([lengths(ids_NW, schema, leader) for leader in leaders]).amax(0)
    rows = torch.nonzero(longest_N > 1).squeeze(1)
    if not len(rows):
        return {}
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), DRAWN_ROWS), dtype=torch.float64).round().long()
    ids_NW = ids_NW[rows[chosen]]
    return {
        history: {
            table: by_position(share_NL, lengths(ids_NW, schema, history)) for table, share_NL in of_tables.items()
        }
        for history, of_tables in shares(network, ids_NW).items()
    }


def draw_attention(curves: Mapping[str, Mapping[str, NDArray[np.float64]]], heads: Iterable[str], path: Path) -> None:
    """Draw what `profiles` returns: a panel per history, a line with its quartiles per table.

    On the grey line at 1, a value counts as much as the values of its row on average. The table of
    an encoder has the colour of its head, the table that all share that of the fused one.

    Args:
        curves: see `profiles`.
        heads: all heads of the run.
        path: of the picture.
    """
    from matplotlib.figure import Figure  # importing it takes most of a second

    figure = Figure(figsize=(6.4, 0.6 + 2.8 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), 1, squeeze=False)[:, 0]
    colours = head_colours(heads)
    for axis, (history, of_tables) in zip(axes, curves.items(), strict=True):
        axis.axhline(1, color="0.7", linewidth=1)
        has_names = any(of_tables)
        for table, points_P3 in of_tables.items():
            low_P, mean_P, high_P = points_P3.T
            position_P = np.arange(1, len(points_P3) + 1)
            axis.plot(position_P, mean_P, marker=".", color=colours[table or "fused"], label=table or None)
            axis.fill_between(position_P, low_P, high_P, color=colours[table or "fused"], alpha=0.2, linewidth=0)
        axis.set_title(f"{history}: mean and quartiles", fontsize=10)
        axis.set_ylabel("weight / mean weight of the row")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if has_names:
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[-1].set_xlabel("position, counted from the latest value")
    figure.savefig(path, dpi=120)
