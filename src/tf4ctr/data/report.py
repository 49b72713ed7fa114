"""A report on a prepared dataset: report.md and report.png in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tf4ctr.data.schema import SEQUENCES, Field, Schema

QUANTILES = {"lowest": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "highest": 1.0}  # of a number
QUARTILES = {"25 %": 0.25, "median": 0.5, "75 %": 0.75}  # of the length of a history
SHOWN_CHARACTERS = 24  # of a value, so that a row of the table stays readable

Lengths = Mapping[str, Mapping[str, Mapping[str, float]]]  # split -> what `lengths` returns


def out_of_vocabulary(folder: Path, schema: Schema, split: str) -> dict[str, float]:
    """The share of each field's values in a split that are out of vocabulary, by field name.

    Missing values count as out of vocabulary. Padding does not count as a value.
    """
    shares = []
    for name in (field.name for field in schema.id_fields):
        columns = [pl.col(column) for column in schema.columns[schema.ids_of(name)]]
        unknown = pl.sum_horizontal(_count(column == schema.unknown_of(name)) for column in columns)
        values = pl.sum_horizontal(_count(column != schema.offset_of(name)) for column in columns)
        # a sequence can be empty in all rows of a split
        shares.append(pl.when(values > 0).then(unknown / values).otherwise(0.0).alias(name))
    return pl.scan_parquet(folder / f"{split}.parquet").select(shares).collect(engine="streaming").row(0, named=True)


def _count(condition: pl.Expr) -> pl.Expr:
    # polars counts in UInt32, which the sum over a list field's columns could exceed
    return condition.sum().cast(pl.UInt64)


def missing(folder: Path, schema: Schema, split: str) -> dict[str, float]:
    """The share of each number's values in a split that are missing, by field name."""
    shares = [pl.col(name).is_nan().mean() for name in schema.number_columns]
    return pl.scan_parquet(folder / f"{split}.parquet").select(shares).collect(engine="streaming").row(0, named=True)


def lengths(folder: Path, schema: Schema, split: str) -> dict[str, dict[str, float]]:
    """How many values the histories have in the rows of a split, by their leading sequence.

    Returns:
        `empty`, the share of rows without a value; `mean`; the quartiles `25 %`, `median` and
        `75 %`, each the least length that so many rows do not exceed; and `longest`.
    """
    rows, results = pl.scan_parquet(folder / f"{split}.parquet"), {}
    for leader in (history[0] for history in schema.histories):
        is_value = [pl.col(column) != schema.offset_of(leader.name) for column in leader.columns]
        # counts, because the lengths of all rows may not fit into memory
        counted = rows.group_by(length=pl.sum_horizontal(is_value)).agg(rows=pl.len()).collect(engine="streaming")
        length, count = counted.sort("length").to_numpy().T.astype(np.int64)
        places = np.searchsorted(np.cumsum(count), [share * count.sum() for share in QUARTILES.values()])
        results[leader.name] = {
            "empty": float(count[length == 0].sum() / count.sum()),
            "mean": float(length @ count / count.sum()),
            **dict(zip(QUARTILES, length[places].tolist(), strict=True)),
            "longest": int(length[-1]),
        }
    return results


def write(
    folder: Path, schema: Schema, splits: Mapping[str, Mapping[str, Any]], top: Mapping[str, pl.DataFrame]
) -> None:
    """Write both files.

    Args:
        folder: the prepared dataset.
        schema: its schema.
        splits: split -> `rows`, `click_rate` and `out_of_vocabulary` (a share per field).
        top: field -> its most frequent values in training, in columns FIELD and `count`.
    """
    lines = [f"# {schema.dataset}", "", "| split | rows | click rate |", "|---|---:|---:|"]
    lines += [f"| {split} | {facts['rows']:,} | {facts['click_rate']:.4f} |" for split, facts in splits.items()]
    found = {split: lengths(folder, schema, split) for split in splits} if schema.histories else {}
    lines += _vocabularies(schema, splits, top, found)
    lines += _histories(schema, found)
    lines += _numbers(schema, splits)
    (folder / "report.md").write_text("\n".join(lines) + "\n\n![rows, click rates, vocabularies](report.png)\n")
    _draw(folder / "report.png", schema, splits)


def _vocabularies(
    schema: Schema, splits: Mapping[str, Mapping[str, Any]], top: Mapping[str, pl.DataFrame], found: Lengths
) -> list[str]:
    """A table of the fields with ids: known and unknown values, and the most frequent ones.

    The share of a frequent value is that of the rows, and in a sequence that of its values.
    """
    titles = ["field", "vocabulary", *(f"unknown in {split}" for split in splits), "most frequent in training"]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---:|" + "---:|" * len(splits) + "---|"]
    for field in schema.id_fields:
        total = splits["train"]["rows"]
        if field.kind == SEQUENCES:
            total *= found["train"][field.aligned_with or field.name]["mean"]
        unknown = " | ".join(f"{facts['out_of_vocabulary'][field.name]:.2%}" for facts in splits.values())
        frequent = ", ".join(
            f"`{str(value)[:SHOWN_CHARACTERS].replace('|', '/')}` {count / total:.1%}"
            for value, count in (top[field.name].rows() if field.name in top else ())
        )
        lines.append(f"| {field.name} | {field.vocabulary_size:,} | {unknown} | {frequent} |")
    return lines


def _histories(schema: Schema, found: Lengths) -> list[str]:
    """A table of the histories: how many values a row has."""
    if not found:
        return []
    titles = ["history, values per row", "split", "empty", "mean", *QUARTILES, "longest", "kept at most"]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for history in schema.histories:
        name = ", ".join(field.name for field in history)
        for split, of_histories in found.items():
            empty, mean, *others = of_histories[history[0].name].values()
            shown = [f"{empty:.2%}", f"{mean:.1f}", *map(str, others), str(history[0].width)]
            lines.append(f"| {name} | {split} | {' | '.join(shown)} |")
    return lines


def _numbers(schema: Schema, splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the numbers: distribution in training before scaling, and missing values."""
    if not schema.number_fields:
        return []
    shares = [f"missing in {split}" for split in splits]
    titles = ["number, after its transform", *QUANTILES, "scaling", *shares]
    lines = ["", f"| {' | '.join(titles)} |"]
    lines.append("|---|" + "---:|" * len(QUANTILES) + "---|" + "---:|" * len(splits))
    for field in schema.number_fields:
        assert field.scaling is not None
        quantiles = field.scaling.quantiles
        shown = [
            f"{quantiles[round(rank * (len(quantiles) - 1))]:.6g}" if quantiles else "" for rank in QUANTILES.values()
        ]
        missing = [f"{facts['missing'][field.name]:.2%}" for facts in splits.values()]
        lines.append(f"| {field.name} | {' | '.join(shown)} | {field.scaling.kind} | {' | '.join(missing)} |")
    return lines


def load_matplotlib() -> None:
    """Import what `write` draws with. It takes a third of a second, so it is not at the top."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def _draw(path: Path, schema: Schema, splits: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [field.name for field in schema.id_fields]
    numbers = schema.number_fields
    heights = (2 + 0.25 * len(names), 0.6 + 0.25 * len(numbers) if numbers else 0.01)
    figure = Figure(figsize=(11, sum(heights)), dpi=110, layout="constrained")
    figure.suptitle(f"{schema.dataset}: {sum(facts['rows'] for facts in splits.values()):,} rows")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    rates, sizes, unknown = top.subplots(1, 3, width_ratios=(1, 2, 2))
    bars = rates.bar(list(splits), [facts["click_rate"] for facts in splits.values()], color="C0")
    rates.bar_label(bars, [f"{facts['rows']:,}\nrows" for facts in splits.values()], fontsize=7)
    rates.margins(y=0.25)
    rates.set_title("click rate", fontsize=10)
    sizes.barh(names, [field.vocabulary_size for field in schema.id_fields], color="C2")
    sizes.set_xscale("log")
    sizes.minorticks_off()
    sizes.set_title("vocabulary", fontsize=10)
    height = 0.8 / len(splits)  # of one bar: those of a field take 0.8 of its place, so that fields stand apart
    for number, (split, facts) in enumerate(splits.items()):
        places = [place + (number - (len(splits) - 1) / 2) * height for place in range(len(names))]
        unknown.barh(places, [facts["out_of_vocabulary"][name] for name in names], height, label=split)
    unknown.set_yticks([])  # the fields stand beside their vocabularies
    unknown.set_title("share of unknown values", fontsize=10)
    unknown.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    top.legend(*unknown.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    for axis in (sizes, unknown):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    if numbers:
        _draw_numbers(bottom.subplots(), numbers)
    FigureCanvasAgg(figure).print_png(path)  # `savefig` draws it twice


def _draw_numbers(axis: Any, fields: Sequence[Field]) -> None:
    """A box per number: its quartiles in training, scaled, and the middle 90 % of the rows."""
    boxes = []
    for field in fields:
        assert field.scaling is not None
        quantiles = field.scaling.scaled_quantiles or [0.0]
        ranks = (0.05, 0.25, 0.5, 0.75, 0.95)
        values = [quantiles[round(rank * (len(quantiles) - 1))] for rank in ranks]
        boxes.append(dict(zip(("whislo", "q1", "med", "q3", "whishi"), values, strict=True)))
    axis.bxp(boxes, orientation="horizontal", showfliers=False, widths=0.6)
    axis.set_yticks(range(1, len(fields) + 1), [field.name for field in fields])
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.set_title("numbers after scaling", fontsize=10)
