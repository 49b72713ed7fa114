"""Raw rows -> the same rows with probabilities, streamed.

Memory does not grow with the number of rows. The output is complete or absent.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import polars as pl
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tf4ctr.assembly import load_run
from tf4ctr.data import faults
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.readers import READERS, SHORT, as_text, csv_lines
from tf4ctr.data.spec import ALL, DatasetSpec, RawFiles
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.models.network import Network

BAD_ROWS = ("refuse", "skip")
LINE = "__line"  # the column of line numbers
EXAMPLES = 2  # values of each side that a warning shows: enough to see a difference in form
SHOWN_CHARACTERS = 40  # of such a value


class AllUnknown(NamedTuple):
    """A field whose values are all out of vocabulary.

    Attributes:
        field: its name.
        values: examples of the input's values.
        known: examples of the vocabulary's values.
    """

    field: str
    values: list[str]
    known: list[str]


class Prediction(NamedTuple):
    """The result of a prediction.

    Attributes:
        rows: number of rows written.
        mean: their mean probability.
        out_of_vocabulary: share of unknown values of each column of ids.
        set_aside: number of bad rows that were skipped.
        all_unknown: the fields without one known value, although at least one row has a value.
    """

    rows: int
    mean: float
    out_of_vocabulary: dict[str, float]
    set_aside: int
    all_unknown: list[AllUnknown]


def predict(run: Path, source: Path, output: Path, heads: bool = False, bad_rows: str = "refuse") -> Prediction:
    """Add the column `p` to the rows of `source` and write them to `output`, in the same order.

    Args:
        run: folder of a trained run; its best weights are used.
        source: parquet, or a file in the dataset's raw layout. The label may be absent if the
            columns have names.
        output: a .parquet or .csv file. csv cannot contain lists; their rows need .parquet.
        heads: whether to add the probability of each head too, as `p_simple`, ...
        bad_rows: `refuse` writes nothing if a row is invalid; `skip` leaves invalid rows out and
            writes them to a .bad.csv beside the output, with line and reason.

    Raises:
        InputError: an unknown option, an input that cannot be read or has invalid rows (unless they
            are skipped), or an output that cannot contain the rows.
    """
    _check_options(output, bad_rows)
    network, schema, config = load_run(run)
    spec = DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))  # type: ignore[arg-type]
    encoder = RowEncoder(schema, spec.fields, run / "vocabulary")
    names = {"p": "fused", **({f"p_{name}": name for name in network.heads} if heads else {})}
    scorer = _Scorer(network, encoder, names, bad_rows == "skip")
    raw = _raw(spec, source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        partial, complete = Path(scratch) / output.name, raw
        try:
            if bad_rows == "skip" and raw.reader == "csv":
                complete, bad_lines = _complete_lines(raw, source, Path(scratch) / "complete.csv")
                scorer.bad.append(bad_lines)
            _write(_rows(spec, complete, encoder), scorer, partial)
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            _refuse(spec, raw, scorer, error)
        bad = scorer.bad_rows()
        if len(bad):
            bad.write_csv(Path(scratch) / "bad.csv")
            (Path(scratch) / "bad.csv").replace(output.with_suffix(".bad.csv"))
        partial.replace(output)
    return scorer.result()


def _check_options(output: Path, bad_rows: str) -> None:
    if output.suffix not in (".parquet", ".csv"):
        raise InputError(f"output={output}: name a .parquet or a .csv file")
    if bad_rows not in BAD_ROWS:
        raise InputError(f"bad_rows={bad_rows}: {did_you_mean(bad_rows, BAD_ROWS)}")


def _refuse(spec: DatasetSpec, raw: RawFiles, scorer: "_Scorer", error: Exception) -> NoReturn:
    """Raise for the first bad row, or for a file that cannot be read."""
    if scorer.skip or not scorer.bad:
        faults.refuse_unreadable(spec, raw, ALL, error)
    faults.refuse_short_rows(spec, raw, ALL)
    (source,) = raw.files[ALL]
    line, reason, _ = scorer.bad_rows().row(0)
    raise InputError(f"{source}, {raw.unit} {line}: {reason}") from None


def _write(rows: pl.LazyFrame, scorer: "_Scorer", path: Path) -> None:
    """Score all rows into a .parquet or .csv file."""
    columns = {name: dtype for name, dtype in rows.collect_schema().items() if name not in (LINE, SHORT)}
    if path.suffix == ".csv":
        _check_csv(columns)
    scored_schema = pl.Schema({**columns, **dict.fromkeys(scorer.names, pl.Float32())})
    with Progress(
        TextColumn("score"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()
    ) as bar:
        task = bar.add_task("score", total=None)
        scorer.advance = lambda count: bar.advance(task, count)
        scored = rows.map_batches(scorer, schema=scored_schema, validate_output_schema=False, streamable=True)
        (scored.sink_parquet if path.suffix == ".parquet" else scored.sink_csv)(path, engine="streaming")


def _check_csv(columns: Mapping[str, pl.DataType]) -> None:
    for name, dtype in columns.items():
        if dtype.is_nested() or dtype == pl.Binary:
            raise InputError(
                f"input column '{name}' is {dtype}, which a csv file cannot contain: name a .parquet file as output="
            )


class _Scorer:
    """A frame of raw rows -> the same rows with probabilities. Counts rows and unknown values.

    Several threads call it.
    """

    def __init__(self, network: Network, encoder: RowEncoder, names: dict[str, str], skip: bool) -> None:
        self.network, self.encoder, self.names, self.skip = network, encoder, names, skip
        self.lock = threading.Lock()
        self.rows, self.sum, self.unknown_W = 0, 0.0, 0 * encoder.unknown_W
        self.bad: list[pl.DataFrame] = []  # line, reason, row
        self.advance: Callable[[int], None] = lambda count: None
        # the fields without a known value so far, with examples of their values
        self._unmatched: dict[str, list[str]] = {field.name: [] for field in encoder.fields}
        self._fault = (
            pl.when(pl.col(SHORT)).then(pl.lit("cut short or too long")).otherwise(encoder.fault()).alias("reason")
        )

    @torch.inference_mode()
    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        text = frame.select(LINE, SHORT, *_texts(frame.schema, self.encoder.columns))
        reason = text.select(self._fault).to_series()
        if reason.null_count() < len(reason):
            self.bad.append(_bad_rows(frame, reason))
            if not self.skip:
                raise ValueError("bad rows")
            frame, text = frame.filter(reason.is_null()), text.filter(reason.is_null())
        ids_NW = self.encoder.ids(text)
        logits = self.network(torch.from_numpy(ids_NW))
        of_head = {"fused": logits.fused, **logits.heads()}
        probability = {name: torch.sigmoid(of_head[head]).numpy() for name, head in self.names.items()}
        with self.lock:
            self.rows, self.sum = self.rows + len(frame), self.sum + float(probability["p"].sum())
            self.unknown_W += (ids_NW == self.encoder.unknown_W).sum(0)
            self._match(text, ids_NW)
        self.advance(len(frame))
        return frame.drop(LINE, SHORT).with_columns(**{name: pl.Series(p_N) for name, p_N in probability.items()})

    def _match(self, text: pl.DataFrame, ids_NW: NDArray) -> None:
        """Remove the fields with a known value from `_unmatched`: mostly all in the first frame."""
        schema = self.encoder.schema
        for name in list(self._unmatched):
            ids = ids_NW[:, schema.ids_of(name)]
            if ((ids != schema.unknown_of(name)) & (ids != schema.offset_of(name))).any():
                del self._unmatched[name]
            elif len(self._unmatched[name]) < EXAMPLES:
                field = self.encoder.fields[schema.number_of(name)]
                values = text.select(field.value(text.schema[field.raw])).to_series()
                values = (values.explode() if field.width > 1 else values).drop_nulls()
                examples = [*self._unmatched[name], *values.unique(maintain_order=True).head(EXAMPLES)]
                self._unmatched[name] = list(dict.fromkeys(examples))[:EXAMPLES]

    def bad_rows(self) -> pl.DataFrame:
        """The bad rows of all frames, by line: `line`, `reason` and `row`."""
        return pl.concat(self.bad).sort("line") if self.bad else pl.DataFrame()

    def result(self) -> Prediction:
        """The counts of all frames."""
        shares = (count / max(1, self.rows) for count in self.unknown_W.tolist())
        return Prediction(
            self.rows,
            self.sum / max(1, self.rows),
            dict(zip(self.encoder.schema.columns, shares, strict=True)),
            sum(map(len, self.bad)),
            [
                AllUnknown(name, values, self.encoder.values[name].head(EXAMPLES).to_list())
                for name, values in self._unmatched.items()
                if values
            ],
        )


def _texts(dtypes: pl.Schema, columns: list[str]) -> list[pl.Expr]:
    return [as_text(pl.col(name), dtypes[name]).alias(name) for name in columns]


def _bad_rows(frame: pl.DataFrame, reason: pl.Series) -> pl.DataFrame:
    """The rows with a reason: `line`, `reason` and the `row` as one text."""
    cells = [
        pl.struct(name).struct.json_encode() if dtype.is_nested() else pl.col(name).cast(pl.String, strict=False)
        for name, dtype in frame.schema.items()
        if name not in (LINE, SHORT)
    ]
    row = pl.concat_str([cell.fill_null("") for cell in cells], separator=",").alias("row")
    return frame.select(pl.col(LINE).cast(pl.UInt32).alias("line"), reason, row).filter(reason.is_not_null())


def _complete_lines(raw: RawFiles, source: Path, target: Path) -> tuple[RawFiles, pl.DataFrame]:
    """Copy the lines with the header's number of cells to `target`, each with its number before it.

    Returns:
        How to read `target`, and the other lines as `line`, `reason` and `row`.
    """
    separator = raw.options.get("separator", ",")
    names, lines = csv_lines(source, **raw.options)
    number, bad = pl.col("row") + 1, (pl.col("cells") != len(names)) | pl.col("unclosed")
    numbered = pl.concat_str(number.cast(pl.String), "line", separator=separator)
    lines.filter(~bad).select(numbered).sink_csv(target, include_header=False, quote_style="never")
    reason = (
        pl.when("unclosed")
        .then(pl.lit("a quote without its pair"))
        .otherwise(pl.format(f"{{}} cells, the header has {len(names)}", "cells"))
    )
    bad_lines = lines.filter(bad).select(
        number.cast(pl.UInt32).alias("line"), reason.alias("reason"), pl.col("line").alias("row")
    )
    complete = RawFiles("csv", {**raw.options, "header": [LINE, *names]}, {ALL: [target]})
    return complete, bad_lines.collect(engine="streaming")


def _raw(spec: DatasetSpec, source: Path) -> RawFiles:
    """How to read `source`: parquet and libsvm by suffix, else the dataset's first csv layout."""
    if not source.is_file():
        raise InputError(f"input={source}: the file does not exist")
    if source.suffix == ".parquet":
        return RawFiles("parquet", {}, {ALL: [source]})
    reader = "libsvm" if source.suffix in (".libsvm", ".svm") else "csv"
    for layout in spec.layouts:
        if layout["reader"] == reader:
            options = {key: layout[key] for key in READERS[reader].options if key in layout}
            return RawFiles(reader, options, {ALL: [source]})
    if source.suffix in (".csv", ".gz"):
        return RawFiles("csv", {}, {ALL: [source]})
    raise InputError(
        f"input={source}: no layout of {spec.name} reads it; give a .parquet or a .csv file with the raw columns"
    )


def _rows(spec: DatasetSpec, raw: RawFiles, encoder: RowEncoder) -> pl.LazyFrame:
    """All columns of the file as they are, `__short`, and `__line` (of parquet the row, from 1)."""
    (source,) = raw.files[ALL]
    columns = spec.columns if raw.reader == "libsvm" else encoder.columns
    rows = raw.rows([source], columns)  # raises if a column is missing
    dtypes = rows.collect_schema()
    for field in encoder.fields:
        field.value(dtypes[field.raw])  # raises if it is a list and the field takes one value, or the reverse
    if raw.reader == "parquet":
        rows = pl.scan_parquet(source).with_columns(pl.lit(False).alias(SHORT))
    if raw.reader == "csv":
        names, _ = csv_lines(source, **raw.options)
        rows = raw.rows([source], names)
        # `__short` is also true if the last cell is empty: ask whether a row really is short
        if LINE in names or not raw.bad_rows(source, names):
            rows = rows.with_columns(pl.lit(False).alias(SHORT))
    return rows if LINE in rows.collect_schema() else rows.with_row_index(LINE, offset=raw.first_line)


def unknown_table(result: Prediction) -> Table:
    """The share of unknown values of each column of ids, largest first."""
    table = Table()
    table.add_column("field")
    table.add_column("out of vocabulary", justify="right")
    for name, share in sorted(result.out_of_vocabulary.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{share:.2%}")
    return table


def unknown_warnings(result: Prediction) -> list[str]:
    """A warning for each field whose values are all out of vocabulary."""

    def shown(values: list[str]) -> str:
        return ", ".join(repr(value[:SHOWN_CHARACTERS]) for value in values) or "no values"

    return [
        f"field '{field}': all its values are out of vocabulary. The input has {shown(values)}; the vocabulary has"
        f" {shown(known)}. Check that both write the values in the same form"
        for field, values, known in result.all_unknown
    ]
