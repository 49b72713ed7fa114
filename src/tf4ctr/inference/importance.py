"""How much a run needs each field: the loss of AUC if the field's values are shuffled."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from tf4ctr.data.schema import SEQUENCES, Schema
from tf4ctr.inference.evaluation import Scores
from tf4ctr.metrics import auc
from tf4ctr.models.network import Network

SHUFFLES = 3  # of each field: their deviation shows how much chance there is in the mean


class Columns(NamedTuple):
    """What is shuffled together: a field, or a history with the sequences aligned with it."""

    name: str
    ids: list[int]  # columns of `ids`
    numbers: list[int]  # columns of `numbers`


def shuffled_columns(schema: Schema) -> list[Columns]:
    """The columns of each field, in the order of the schema.

    The sequences of one history are one entry with the name of the leading one, because their
    positions belong together. A vector that belongs to the values of another field has no columns:
    it moves with that field.
    """
    ids = {field.name: list(_range(schema.ids_of(field.name))) for field in schema.id_fields}
    histories = {history[0].name: history for history in schema.histories}
    parts = []
    for field in schema.fields:
        if field.name in histories:
            columns = [column for sequence in histories[field.name] for column in ids[sequence.name]]
            parts.append(Columns(field.name, columns, []))
        elif field.name in ids and field.kind != SEQUENCES:
            parts.append(Columns(field.name, ids[field.name], []))
        elif field.name not in ids and field.columns:
            parts.append(Columns(field.name, [], list(_range(schema.numbers_of(field.name)))))
    return parts


def _range(columns: slice) -> range:
    return range(columns.start, columns.stop)


@torch.inference_mode()
def importance(
    network: Network, schema: Schema, scores: Scores, batch_size: int, rows: int | None, seed: int
) -> pl.DataFrame:
    """Permutation importance (Breiman, 2001; Fisher, Rudin and Dominici, JMLR 2019).

    The values of a field are shuffled between the rows, all its columns together, and the rows are
    scored again. The importance is AUC - AUC after shuffling: 0 if the network ignores the field.
    If two fields say the same, each alone can seem unimportant, because the other one is still
    there.

    Args:
        network: of the run; it is used on its device.
        schema: of its dataset.
        scores: of the split.
        batch_size: rows that are scored at a time.
        rows: draw as many rows at random, if the split has more; None for all.
        seed: of the drawn rows and of the shuffles.

    Returns:
        `field`, `auc_loss` (the mean of 3 shuffles of the fused head's AUC, weighted if the rows
        have weights) and `deviation` (their standard deviation), the largest loss first.
    """
    random = torch.Generator().manual_seed(seed)
    chosen: slice | Tensor = slice(None)
    if rows is not None and rows < len(scores.label):
        chosen = torch.randperm(len(scores.label), generator=random)[:rows].sort().values
    ids_NW, label_N = scores.ids[chosen], scores.label[chosen]
    numbers_NM = None if scores.numbers is None else scores.numbers[chosen]
    weight_N = None if scores.weight is None else scores.weight[chosen]

    def measured(ids_NW: Tensor, numbers_NM: Tensor | None) -> float:
        return float(auc(_fused(network, ids_NW, numbers_NM, batch_size), label_N, weight_N))

    whole, table = measured(ids_NW, numbers_NM), []
    for name, ids, numbers in track(shuffled_columns(schema), "importance", transient=True):
        losses = []
        for _ in range(SHUFFLES):
            order = torch.randperm(len(label_N), generator=random)
            shuffled_NM = None if numbers_NM is None else _shuffled(numbers_NM, numbers, order)
            losses.append(whole - measured(_shuffled(ids_NW, ids, order), shuffled_NM))
        table.append({"field": name, "auc_loss": float(np.mean(losses)), "deviation": float(np.std(losses, ddof=1))})
    return pl.DataFrame(table).sort("auc_loss", descending=True, maintain_order=True)


def _shuffled(rows_NX: Tensor, columns: list[int], order: Tensor) -> Tensor:
    """The rows with the values of some columns in another order of rows."""
    shuffled_NX = rows_NX.clone()
    shuffled_NX[:, columns] = rows_NX[:, columns][order]
    return shuffled_NX


def _fused(network: Network, ids_NW: Tensor, numbers_NM: Tensor | None, batch_size: int) -> Tensor:
    """The fused logits of rows, float64 [N]."""
    device = next(network.parameters()).device
    logits = []
    for start in range(0, len(ids_NW), batch_size):
        batch = slice(start, start + batch_size)
        numbers_BM = None if numbers_NM is None else numbers_NM[batch].to(device)
        logits.append(network(ids_NW[batch].to(device), numbers_BM).fused.double().cpu())
    return torch.cat(logits)


def importance_table(table: pl.DataFrame) -> Table:
    """The importance of all fields, for the terminal."""
    shown = Table(title="importance: loss of AUC if the field is shuffled between rows", title_justify="left")
    shown.add_column("field", style="bold")
    shown.add_column("loss of AUC", justify="right")
    shown.add_column("deviation", justify="right")
    for name, loss, deviation in table.iter_rows():
        shown.add_row(name, f"{loss:.6f}", f"{deviation:.6f}")
    return shown


def draw_importance(table: pl.DataFrame, path: Path) -> None:
    """Draw a bar per field with its deviation, the largest on top."""
    from matplotlib.figure import Figure  # importing it takes most of a second

    figure = Figure(figsize=(6.4, 0.9 + 0.28 * len(table)), layout="constrained")
    axis = figure.subplots()
    axis.barh(table["field"].to_list(), table["auc_loss"].to_list(), xerr=table["deviation"].to_list(), color="C0")
    axis.invert_yaxis()
    axis.set_xlabel("loss of AUC if the field is shuffled between rows")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
