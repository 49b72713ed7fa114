"""Raw rows -> the same rows with probabilities, streamed: memory does not grow with the rows, and the output is whole or absent."""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tf4ctr.assembly import load_run
from tf4ctr.data import faults
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.readers import csv_lines
from tf4ctr.data.spec import ALL, DatasetSpec, RawFiles
from tf4ctr.errors import InputError
from tf4ctr.models.network import Network

BAD_ROWS = ("refuse", "skip")
LINE, SHORT = "__line", "__short"


class Prediction(NamedTuple):
    """What came of it: rows written, their mean probability, the share of unknown values of each column of ids, and rows set aside."""

    rows: int
    mean: float
    out_of_vocabulary: dict[str, float]
    set_aside: int


def predict(run: Path, source: Path, output: Path, heads: bool = False, bad_rows: str = "refuse") -> Prediction:
    """Add `p`, and with `heads` the probability of each head as `p_simple`, ..., to the rows of `source`, in its order.

    Args:
        run: folder of a trained run; its best weights are taken.
        source: parquet, or a file in the dataset's raw layout; the label may be absent where the columns have names.
        output: a .parquet or .csv file to write.
        bad_rows: `refuse` to write nothing where a row is none; `skip` to leave such rows out and put them, with line and reason, into
            a .bad.csv beside the output.

    Raises:
        InputError: a file that cannot be read or, unless they are skipped, has rows that are none; or an output of another kind.
    """
    if output.suffix not in (".parquet", ".csv"):
        raise InputError(f"output={output}: name a .parquet or a .csv file")
    network, schema, config = load_run(run)
    spec = DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))  # type: ignore[arg-type]
    encoder = RowEncoder(schema, spec.fields, run / "vocabulary")
    raw = _raw(spec, source)
    names = {"p": "fused", **({f"p_{name}": name for name in network.heads} if heads else {})}
    scorer = _Scorer(network, encoder, names, bad_rows == "skip")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as made:
        partial, aside = Path(made) / output.name, []
        try:
            if bad_rows == "skip" and raw.reader == "csv":
                raw, lines = _whole_lines(raw, source, Path(made) / "whole.csv")
                aside.append(lines)
            rows = _rows(spec, raw, encoder.columns)
            kept = {name: kind for name, kind in rows.collect_schema().items() if name not in (LINE, SHORT)}
            schema_made = pl.Schema({**kept, **dict.fromkeys(names, pl.Float32())})
            with Progress(
                TextColumn("score"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()
            ) as bar:
                task = bar.add_task("score", total=None)
                scorer.advance = lambda count: bar.advance(task, count)
                scored = rows.map_batches(scorer, schema=schema_made, validate_output_schema=False, streamable=True)
                (scored.sink_parquet if output.suffix == ".parquet" else scored.sink_csv)(partial, engine="streaming")
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            if scorer.wrong:
                faults.refuse_short_rows(spec, raw, ALL)
                line, reason, _ = pl.concat(scorer.wrong).sort("line").row(0)
                raise InputError(f"{source}, line {line}: {reason}") from None
            faults.refuse_unreadable(spec, raw, ALL, error)
        bad = pl.concat([*aside, *scorer.wrong]).sort("line") if aside or scorer.wrong else pl.DataFrame()
        if len(bad):
            bad.write_csv(Path(made) / "bad.csv")
            (Path(made) / "bad.csv").replace(output.with_suffix(".bad.csv"))
        partial.replace(output)
    shares = {
        name: int(count) / max(1, scorer.rows) for name, count in zip(schema.columns, scorer.unknown_W, strict=True)
    }
    return Prediction(scorer.rows, scorer.mass / max(1, scorer.rows), shares, len(bad))


class _Scorer:
    """A frame of raw rows -> the same rows with probabilities, called by several threads; counts what it sees."""

    def __init__(self, network: Network, encoder: RowEncoder, names: dict[str, str], skip: bool) -> None:
        self.network, self.encoder, self.names, self.skip = network, encoder, names, skip
        self.lock = threading.Lock()
        self.rows, self.mass, self.unknown_W = 0, 0.0, 0 * encoder.unknown_W
        self.wrong: list[pl.DataFrame] = []  # line, reason, row
        self.advance: Callable[[int], None] = lambda count: None
        self._texts = [pl.col(name).cast(pl.String) for name in encoder.columns]
        self._fault = (
            pl.when(pl.col(SHORT)).then(pl.lit("cut short or too long")).otherwise(encoder.fault()).alias("reason")
        )

    @torch.inference_mode()
    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        text = frame.select(LINE, SHORT, *self._texts)
        reason = text.select(self._fault).to_series()
        if reason.null_count() < len(reason):
            self.wrong.append(_aside(frame, reason))
            if not self.skip:
                raise ValueError("bad rows")
            frame, text = frame.filter(reason.is_null()), text.filter(reason.is_null())
        ids_NW = self.encoder.ids(text)
        logits = self.network(torch.from_numpy(ids_NW))
        of_head = {"fused": logits.fused, **logits.heads()}
        probability = {name: torch.sigmoid(of_head[head]).numpy() for name, head in self.names.items()}
        with self.lock:
            self.rows, self.mass = self.rows + len(frame), self.mass + float(probability["p"].sum())
            self.unknown_W += (ids_NW == self.encoder.unknown_W).sum(0)
        self.advance(len(frame))
        return frame.drop(LINE, SHORT).with_columns(**{name: pl.Series(each) for name, each in probability.items()})


def _aside(frame: pl.DataFrame, reason: pl.Series) -> pl.DataFrame:
    """The rows with a reason: `line`, `reason` and the `row` as one text."""
    cells = [pl.col(name).cast(pl.String).fill_null("") for name in frame.columns if name not in (LINE, SHORT)]
    rows = frame.select(
        pl.col(LINE).cast(pl.UInt32).alias("line"), reason, pl.concat_str(cells, separator=",").alias("row")
    )
    return rows.filter(reason.is_not_null())


def _whole_lines(raw: RawFiles, source: Path, target: Path) -> tuple[RawFiles, pl.DataFrame]:
    """Copy the lines that have as many cells as the header, each with its number before it; return how to read them, and the others."""
    separator = raw.options.get("separator", ",")
    names, lines = csv_lines(source, **raw.options)
    numbered = pl.concat_str((pl.col("row") + 1).cast(pl.String), "line", separator=separator)
    lines.filter(pl.col("cells") == len(names)).select(numbered).sink_csv(
        target, include_header=False, quote_style="never"
    )
    reason = pl.format(f"{{}} cells, the header has {len(names)}", "cells").alias("reason")
    line = (pl.col("row") + 1).cast(pl.UInt32).alias("line")
    others = (
        lines.filter(pl.col("cells") != len(names))
        .select(line, reason, pl.col("line").alias("row"))
        .collect(engine="streaming")
    )
    return RawFiles("csv", {"separator": separator, "header": [LINE, *names]}, {ALL: [target]}), others


def _raw(spec: DatasetSpec, source: Path) -> RawFiles:
    """How `source` is to be read: parquet by its name, else as the dataset's first layout that is text (libsvm by its name)."""
    if not source.is_file():
        raise InputError(f"input={source}: there is no such file")
    if source.suffix == ".parquet":
        return RawFiles("parquet", {}, {ALL: [source]})
    kinds = [
        layout for layout in spec.layouts if (layout["reader"] == "libsvm") == (source.suffix in (".libsvm", ".svm"))
    ]
    for layout in kinds:
        if layout["reader"] in ("csv", "libsvm"):
            return RawFiles(
                layout["reader"],
                {key: layout[key] for key in ("separator", "header") if key in layout},
                {ALL: [source]},
            )
    if source.suffix in (".csv", ".gz"):
        return RawFiles("csv", {}, {ALL: [source]})
    raise InputError(
        f"input={source}: no layout of {spec.name} reads it; give a .parquet or a .csv file with the raw columns"
    )


def _rows(spec: DatasetSpec, raw: RawFiles, wanted: list[str]) -> pl.LazyFrame:
    """All columns of the file as they are, with its line as `__line` (a parquet file's row, counted from 1) and `__short`."""
    (source,) = raw.files[ALL]
    if raw.reader == "libsvm":
        rows = raw.rows([source], [spec.label, *wanted])
    elif raw.reader == "parquet":
        raw.rows([source], wanted)  # tells what is missing
        rows = pl.scan_parquet(source).with_columns(pl.lit(False).alias(SHORT))
    else:
        header = raw.options.get("header")
        every = (
            list(header)
            if header
            else pl.scan_csv(source, separator=raw.options.get("separator", ",")).collect_schema().names()
        )
        raw.rows([source], wanted)
        rows = raw.rows([source], every)
        # an empty last cell looks like a row cut short: the reader says which are
        rows = (
            rows.with_columns(pl.lit(False).alias(SHORT)) if LINE in every or not raw.bad_rows(source, every) else rows
        )
    return rows if LINE in rows.collect_schema() else rows.with_row_index(LINE, offset=raw.first_line)


def unknown_table(done: Prediction) -> Table:
    """The share of unknown values of each field, the largest first."""
    table = Table()
    table.add_column("field")
    table.add_column("out of vocabulary", justify="right")
    for name, share in sorted(done.out_of_vocabulary.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{share:.2%}")
    return table
