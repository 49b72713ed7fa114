"""Lists a split's hardest and easiest rows, with their values."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from tf4ctr.data.encoding import value_names
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import IDS, NUMBERS, SEQUENCES, Field, Schema
from tf4ctr.inference.attention import shares
from tf4ctr.inference.evaluation import Scores
from tf4ctr.inference.raw_values import raw_texts, transform_of
from tf4ctr.models.network import Network

EVIDENCE = 5  # past values of a row that are listed with their weights: the others count little
SHOWN_HEADS = 2  # on the terminal; the csv file has all of them
SHOWN_PAST = 5  # past values on the terminal, the latest ones; the csv file has all of them
BETWEEN = ", "  # between the values of a sequence


def extremes(
    scores: Scores,
    schema: Schema,
    count: int,
    folder: Path,
    fields: Sequence[FieldSpec] = (),
    network: Network | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The `count` hardest rows and the `count` easiest rows, the most extreme first.

    Args:
        folder: `vocabulary/` of the run.
        fields: how the fields are made of raw columns; only needed for numbers.
        network: of the run; without it there is no evidence.

    Returns:
        Two frames with `row` (from 1, in the split), `label`, `q` (the fused head's probability of
        the true class), `q_simple`, ... of the other heads, and the value of each field as text.
        The values of a list are joined by `|`, those of a sequence by `, `, the oldest first. A
        number is the raw one, null if it is missing. The column of a field has its name, or
        `field: NAME` if one of the other columns has this name.

        If the network weighs the values of a history, `evidence: HISTORY` has the values that
        counted most in the row, see `evidence`. With a table per encoder (ssem=ser), each table has
        a column, `evidence: HISTORY (ENCODER)`, as each encoder has a `q`: their weights differ.
    """
    sign_N = 2 * scores.label.double() - 1
    q = {_q(name): torch.sigmoid(sign_N * logit_N).numpy() for name, logit_N in scores.logits.items()}
    column_of = _field_columns(schema, scores.logits)
    order = torch.argsort(sign_N * scores.logits["fused"], stable=True)

    def rows(chosen: Tensor) -> pl.DataFrame:
        columns: dict[str, Any] = {"row": (chosen + 1).numpy(), "label": scores.label[chosen].int().numpy()}
        columns |= {name: q_N[chosen.numpy()] for name, q_N in q.items()}
        for field in schema.fields:
            if field.kind in (IDS, SEQUENCES):
                columns[column_of[field.name]] = _values(scores.ids[chosen], schema, field, folder)
            elif field.kind == NUMBERS:
                assert field.scaling is not None
                scaled_N = scores.number(schema, field.name)[chosen.numpy()]
                columns[column_of[field.name]] = raw_texts(scaled_N, field.scaling, transform_of(field.name, fields))
        if network is not None:
            columns |= _evidence(network, schema, scores.ids[chosen], folder)
        return pl.DataFrame(columns)

    return rows(order[:count]), rows(order.flip(0)[:count])


def _q(head: str) -> str:
    """The column with a head's probability of the true class."""
    return "q" if head == "fused" else f"q_{head}"


def _field_columns(schema: Schema, heads: Collection[str]) -> dict[str, str]:
    """The column of each field: a field can have the name of one of the other columns."""
    taken = {"row", "label", *map(_q, heads)}
    return {field.name: f"field: {field.name}" if field.name in taken else field.name for field in schema.fields}


def _values(ids_NW: Tensor, schema: Schema, field: Field, folder: Path) -> list[str]:
    """The values of a field of ids as text, those of a list or a sequence joined."""
    names, between = value_names(field, folder), BETWEEN if field.kind == SEQUENCES else "|"
    rows = _table_rows(ids_NW, schema, field)
    return [between.join(names[number] for number in row if number or field.width == 1) for row in rows]


def _table_rows(ids_NW: Tensor, schema: Schema, field: Field) -> list[list[int]]:
    """The ids of a field, counted from its padding row."""
    return (ids_NW[:, schema.ids_of(field.name)].long() - schema.offset_of(field.name)).tolist()


def _evidence(network: Network, schema: Schema, ids_NW: Tensor, folder: Path) -> dict[str, list[str]]:
    """The columns `evidence: ...` of `extremes`."""
    columns = {}
    for history, of_tables in shares(network, ids_NW).items():
        names, rows = value_names(schema[history], folder).to_list(), _table_rows(ids_NW, schema, schema[history])
        for table, share_NL in of_tables.items():
            texts = [evidence(row, share_L, names) for row, share_L in zip(rows, share_NL.tolist(), strict=True)]
            columns[f"evidence: {history} ({table})" if table else f"evidence: {history}"] = texts
    return columns


def evidence(row: Sequence[int], share_L: Sequence[float], names: Sequence[str]) -> str:
    """The at most 5 values of a history that counted most, such as `Heat 0.42, Casino 0.31`.

    The number is the value's share of the weights, see `shares`, rounded; shares that are rounded
    to 0 are left out. A value that occurs several times has the sum of its shares.

    Args:
        row: the history's table rows, counted from its padding row.
        share_L: of each position.
        names: of the table rows.
    """
    totals: dict[int, float] = {}
    for number, share in zip(row, share_L, strict=True):
        totals[number] = totals.get(number, 0.0) + share
    largest = sorted(totals.items(), key=lambda total: total[1], reverse=True)[:EVIDENCE]
    return BETWEEN.join(f"{names[number]} {share:.2f}" for number, share in largest if share >= 0.005)


def rows_table(title: str, rows: pl.DataFrame, heads: Collection[str], schema: Schema | None = None) -> Table:
    """The rows that `extremes` returns. All fields share one column: a terminal is narrow.

    So with more than `SHOWN_HEADS` heads, or runs of an ensemble, only the fused one is shown.

    Args:
        heads: names of the scores' heads, fused first.
        schema: of the dataset; then only the latest values of its sequences are shown.
    """
    table = Table(title=title, title_justify="left")
    fused, *others = (_q(head) for head in heads)
    shown = ("row", "label", fused, *(others if len(others) <= SHOWN_HEADS else ()))
    measured = [name for name in shown if name in rows.columns]
    column_of = _field_columns(schema, heads) if schema else {}
    sequences = {column_of[field.name] for field in schema.sequence_fields} if schema else set()
    for name in measured:
        table.add_column(name, justify="right")
    table.add_column("values", overflow="fold")
    for row in rows.iter_rows(named=True):
        cells = [f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in measured]
        values = ((name, value) for name, value in row.items() if name not in (*measured, *others))
        table.add_row(*cells, escape("  ".join(_shown(name, value, name in sequences) for name, value in values)))
    return table


def _shown(name: str, value: str | None, is_sequence: bool) -> str:
    """`name=value`; of a sequence the latest values."""
    if value is None:
        return f"{name}=(missing)"
    past = value.split(BETWEEN)
    if not is_sequence or len(past) <= SHOWN_PAST:
        return f"{name}={value}"
    return f"{name}=...{BETWEEN}{BETWEEN.join(past[-SHOWN_PAST:])}"
