"""Measures parts of a split: the rows of each value of a field, or of a history's length."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from tf4ctr.data.encoding import value_names
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.schema import IDS, NUMBERS, Schema
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.inference.attention import lengths
from tf4ctr.inference.evaluation import Scores
from tf4ctr.inference.raw_values import quantile_bins, transform_of
from tf4ctr.metrics import auc_by_group

LENGTH = "_length"  # after a history's name: the number of its values
LENGTH_BINS = 10  # of a length at most: they fit on one screen
SHOWN_VALUES = 20  # of a field, on the terminal; they fit on one screen, and the csv file has all of them


def check_field(field: str, schema: Schema) -> None:
    """Check the name of a field, or of a history's length.

    Raises:
        InputError: the dataset has no field of this name, or it is a vector or a sequence.
    """
    names = [known.name for known in schema.fields if known.kind in (IDS, NUMBERS)]
    names += [history[0].name + LENGTH for history in schema.histories]
    if field in names:
        return
    for history in schema.histories:
        if field in [sequence.name for sequence in history]:
            raise InputError(
                f"by={field}: '{field}' is a sequence, whose rows have many values each."
                f" by={history[0].name}{LENGTH} measures by the number of values in the history"
            )
    raise InputError(f"by={field}: {schema.dataset} has no such field of ids or numbers, {did_you_mean(field, names)}")


def by_value(
    scores: Scores, schema: Schema, field: str, folder: Path, fields: Sequence[FieldSpec] = ()
) -> pl.DataFrame:
    """Measure each value of a field, or at most 10 intervals of a number or of a history's length.

    Args:
        field: its name, or that of a history with `_length`.
        folder: `vocabulary/` of the run.
        fields: how the fields are made of raw columns; only needed for a number.

    Returns:
        One row per value, most frequent first (intervals in their order): `value`, `rows`,
        `click_rate`, `predicted` (mean probability), `predicted_over_observed`, `auc` (null if a
        class is missing). A row with a list counts for each of its values. All but `rows` are
        weighted if the rows have weights.

    Raises:
        InputError: the dataset has no field of this name.
    """
    check_field(field, schema)
    kind = {known.name: known.kind for known in schema.fields}.get(field)
    if kind == NUMBERS:
        summary, names = _by_number(scores, schema, field, fields)
    elif kind == IDS:
        summary, names = _by_id(scores, schema, field), value_names(schema[field], folder)
    else:
        bin_N, names = length_bins(lengths(scores.ids, schema, field.removesuffix(LENGTH)).numpy())
        summary = _measured(torch.from_numpy(bin_N), scores.logits["fused"], scores.label, scores.weight)
    return summary.select(names[summary["id"]].alias("value"), pl.exclude("id"))


def _by_number(
    scores: Scores, schema: Schema, field: str, fields: Sequence[FieldSpec]
) -> tuple[pl.DataFrame, pl.Series]:
    """`by_value` of a number: one row per interval `id`, and the intervals' names."""
    scaling = schema[field].scaling
    assert scaling is not None
    bin_N, names = quantile_bins(scores.number(schema, field), scaling, transform_of(field, fields))
    summary = _measured(torch.from_numpy(bin_N), scores.logits["fused"], scores.label, scores.weight)
    return summary, pl.Series(names)


def length_bins(length_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], pl.Series]:
    """Put lengths into at most 10 bins: 0, and intervals with about equally many rows.

    Returns:
        The bin of each row, [N], and the bins' names, such as `3` or `4 to 7`.
    """
    values, rows = np.unique(length_N[length_N > 0], return_counts=True)
    starts = _starts(rows.tolist())
    intervals = np.split(values, starts)[1:]  # the part before the first start is empty
    names = [f"{part[0]}" if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in intervals]
    return np.searchsorted(values[starts], length_N, side="right"), pl.Series(["0", *names])


def _starts(rows: list[int]) -> list[int]:
    """Where the intervals of lengths begin, given the rows of each length."""
    starts: list[int] = []
    own, left = 0, sum(rows)  # rows of the last interval, and those after it
    for place, count in enumerate(rows):
        free = LENGTH_BINS - 1 - len(starts)
        fair = (own + left) / (free + 1)  # rows for each interval from the last one on
        # begin another one if the last one is nearer to its fair number of rows without this length
        if not starts or (free and own + count / 2 > fair):
            starts.append(place)
            own = 0
        own, left = own + count, left - count
    return starts


def _by_id(scores: Scores, schema: Schema, field: str) -> pl.DataFrame:
    """`by_value` of a categorical field: one row per `id`, counted from its padding row."""
    ids_NW = scores.ids[:, schema.ids_of(field)] - schema.offset_of(field)
    width = ids_NW.shape[1]
    rows = [ids_NW.T.flatten(), scores.logits["fused"].repeat(width), scores.label.repeat(width)]
    if scores.weight is not None:
        rows.append(scores.weight.repeat(width))
    if width > 1:
        values = rows[0] != 0  # the rest is padding
        rows = [column[values] for column in rows]
    return _measured(*rows).sort("rows", "id", descending=[True, False])


def _measured(id_N: Tensor, logit_N: Tensor, label_N: Tensor, weight_N: Tensor | None = None) -> pl.DataFrame:
    """The columns of `by_value` for each `id`, sorted by it."""
    auc_of_id, _, _ = auc_by_group(logit_N, label_N, id_N, weight_N)
    rows = pl.DataFrame({"id": id_N.numpy(), "p": torch.sigmoid(logit_N).numpy(), "label": label_N.numpy()})
    p, label, total = pl.col("p"), pl.col("label"), pl.len()
    click_rate, predicted = label.mean(), p.mean()
    if weight_N is not None:
        rows = rows.with_columns(weight=weight_N.double().numpy())
        p, label, total = p * pl.col("weight"), label * pl.col("weight"), pl.col("weight").sum()
        click_rate, predicted = label.sum() / total, p.sum() / total
    summary = rows.group_by("id").agg(
        rows=pl.len(),
        click_rate=click_rate,
        predicted=predicted,
        predicted_over_observed=p.sum() / label.sum(),
    )
    return summary.sort("id").with_columns(auc=pl.Series(auc_of_id.numpy()).fill_nan(None))


def values_table(field: str, values: pl.DataFrame) -> Table:
    """The most frequent values of a field."""
    title = f"by {field}" + (f": {SHOWN_VALUES} of {len(values):,} values" if len(values) > SHOWN_VALUES else "")
    table = Table(title=title, title_justify="left")
    for name in values.columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "value" else "right")
    for value, rows, *rates in values.head(SHOWN_VALUES).iter_rows():
        table.add_row(escape(value), f"{rows:,}", *("" if rate is None else f"{rate:.5f}" for rate in rates))
    return table
