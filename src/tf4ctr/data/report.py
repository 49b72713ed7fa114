"""What a prepared dataset looks like: report.md and report.png in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.schema import Schema


def out_of_vocabulary(folder: Path, schema: Schema, split: str) -> dict[str, float]:
    """Share of each field's values in a split that the vocabulary does not know, missing ones included, padding left out."""
    counts = []
    for field, offset in zip(schema.fields, schema.offsets, strict=True):
        columns = [pl.col(column) for column in field.columns]
        unknown = pl.sum_horizontal((column == offset + field.vocabulary_size - 1).sum() for column in columns)
        values = pl.sum_horizontal((column != offset).sum() for column in columns)
        counts.append((unknown / values).alias(field.name))
    return pl.scan_parquet(folder / f"{split}.parquet").select(counts).collect(engine="streaming").row(0, named=True)


def write(
    folder: Path, schema: Schema, splits: Mapping[str, Mapping[str, Any]], top: Mapping[str, pl.DataFrame]
) -> None:
    """Write both files.

    Args:
        folder: prepared dataset.
        schema: its schema.
        splits: `rows`, `click_rate` and `out_of_vocabulary` by field of each split.
        top: the most frequent values of each field in training and how often they come up, columns FIELD and `count`.
    """
    train_rows = splits["train"]["rows"]
    lines = [f"# {schema.dataset}", "", "| split | rows | click rate |", "|---|---:|---:|"]
    lines += [f"| {split} | {found['rows']:,} | {found['click_rate']:.4f} |" for split, found in splits.items()]
    lines += [
        "",
        "| field | vocabulary | "
        + " | ".join(f"unknown in {split}" for split in splits)
        + " | most frequent in training |",
    ]
    lines += ["|---|---:|" + "---:|" * len(splits) + "---|"]
    for field in schema.fields:
        unknown = " | ".join(f"{found['out_of_vocabulary'][field.name]:.2%}" for found in splits.values())
        often = ", ".join(
            f"`{str(value)[:24].replace('|', '/')}` {count / train_rows:.1%}" for value, count in top[field.name].rows()
        )
        lines.append(f"| {field.name} | {field.vocabulary_size:,} | {unknown} | {often} |")
    (folder / "report.md").write_text("\n".join(lines) + "\n\n![rows, click rates, vocabularies](report.png)\n")
    _draw(folder / "report.png", schema, splits)


def _draw(path: Path, schema: Schema, splits: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.figure import Figure  # not at the top: most of a second

    names = [field.name for field in schema.fields]
    figure = Figure(figsize=(11, 2 + 0.25 * len(names)), layout="constrained")
    figure.suptitle(f"{schema.dataset}: {sum(found['rows'] for found in splits.values()):,} rows")
    rates, sizes, unknown = figure.subplots(1, 3, width_ratios=(1, 2, 2))
    bars = rates.bar(list(splits), [found["click_rate"] for found in splits.values()], color="C0")
    rates.bar_label(bars, [f"{found['rows']:,}\nrows" for found in splits.values()], fontsize=7)
    rates.margins(y=0.25)
    rates.set_title("click rate", fontsize=10)
    sizes.barh(names, [field.vocabulary_size for field in schema.fields], color="C2")
    sizes.set_xscale("log")
    sizes.set_title("vocabulary", fontsize=10)
    height = 0.8 / len(splits)
    for number, (split, found) in enumerate(splits.items()):
        places = [place + (number - (len(splits) - 1) / 2) * height for place in range(len(names))]
        unknown.barh(places, [found["out_of_vocabulary"][name] for name in names], height, label=split)
    unknown.set_yticks(range(len(names)), [""] * len(names))
    unknown.set_title("share of unknown values", fontsize=10)
    unknown.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    unknown.legend(fontsize=8)
    for axis in (sizes, unknown):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
