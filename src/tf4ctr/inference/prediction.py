"""Raw rows -> the same rows with probabilities, streamed.

Memory does not grow with the number of rows. The output is complete or absent.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tf4ctr.data import faults
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import SHORT
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.inference.findings import Findings, FindingsCounter
from tf4ctr.inference.input_rows import (
    check_types,
    complete_lines,
    faulty_rows,
    frame_rows,
    open_rows,
    own_columns,
    prepared_values,
    raw_columns,
    raw_files,
)
from tf4ctr.inference.members import Member, fused_and_heads, head_names, load_members

BAD_ROWS = ("refuse", "skip")


class Prediction(NamedTuple):
    """The result of a prediction.

    Attributes:
        rows: number of rows written.
        mean: their mean probability.
        set_aside: number of bad rows that were skipped.
        findings: what each run does not know of the rows.
    """

    rows: int
    mean: float
    set_aside: int
    findings: Sequence[Findings]


def predict(
    run: Path | Sequence[Path], source: Path, output: Path, heads: bool = False, bad_rows: str = "refuse"
) -> Prediction:
    """Add the column `p` to the rows of `source` and write them to `output`, in the same order.

    Several runs are an ensemble: `p` is the mean of their probabilities. Each run reads the rows
    with its own vocabulary. The input is read once.

    A history of the log is joined by the user, unless a row has its own in the column of its name.
    A row with a moment gets the events before it.

    Args:
        run: folder of a trained run, or the folders of several; their best weights are used.
        source: parquet, Arrow, ndjson, or a file in the dataset's raw layout. The label may be
            absent if the columns have names.
        output: a .parquet or .csv file. csv cannot contain lists; their rows need .parquet.
        heads: whether to add the probability of each head too, as `p_simple`, ...; of an ensemble
            that of each run, as `p_run_1`, ...
        bad_rows: `refuse` writes nothing if a row is invalid; `skip` leaves invalid rows out and
            writes them to `bad_rows_file(output)`, with line and reason.

    Raises:
        InputError: an unknown option, an input that cannot be read or has invalid rows (unless they
            are skipped), or an output that cannot contain the rows or is the input; runs that do
            not read the same rows.
    """
    _check_options(output, bad_rows)
    if output.resolve() == source.resolve():
        raise InputError(f"output={output} is the input, which it would replace: name another file")
    bad_file = bad_rows_file(output)
    if bad_file.resolve() == source.resolve():
        raise InputError(f"input={source} is the file of the invalid rows of output={output}: name another output")
    members = load_members([run] if isinstance(run, Path) else run)
    spec, raw = members[0].spec, _raw_files(members, source)
    scorer = _Scorer(members, heads, bad_rows == "skip")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        partial, complete = Path(scratch) / output.name, raw
        try:
            if bad_rows == "skip" and raw.reader == "csv":
                complete, bad_lines = complete_lines(raw, source, Path(scratch) / "complete.csv")
                scorer.bad.append(bad_lines)
            _write(_opened(members, complete), scorer, partial)
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            _refuse(spec, raw, scorer, error)
        bad = scorer.bad_rows()
        bad_file.unlink(missing_ok=True)  # of an earlier prediction
        if len(bad):
            bad.write_csv(Path(scratch) / "bad.csv")
            (Path(scratch) / "bad.csv").replace(bad_file)
        partial.replace(output)
    return scorer.result()


def bad_rows_file(output: Path) -> Path:
    """Where the invalid rows of a prediction are: scores.csv.bad.csv beside scores.csv."""
    return output.with_name(f"{output.name}.bad.csv")


def predict_frame(
    members: Sequence[Member], frame: pl.DataFrame, heads: bool = False, logits: bool = False
) -> tuple[pl.DataFrame, Prediction]:
    """The probabilities of a frame's rows, scored as `predict` scores a file with these rows.

    Args:
        members: the run, or those of an ensemble; their networks are on the CPU.
        frame: rows with the raw columns; it may have others too.
        heads: see `predict`.
        logits: logits instead of probabilities, in the same columns.

    Returns:
        A row for each row of `frame`, with `p` and those of the heads; and what is unknown.

    Raises:
        InputError: a column is missing or has a type that its fields do not take, or a row is
            invalid; it names the first such row, counted from 1.
    """
    scorer = _Scorer(members, heads, False, logits)
    opened = [frame_rows(member.spec, frame, member.encoder) for member in members]  # each checks the types
    try:
        scored = _scored(opened[0], scorer).collect(engine="streaming")
    except (pl.exceptions.PolarsError, ValueError):
        if not scorer.bad:
            raise
        number, reason, _ = scorer.bad_rows().row(0)
        raise InputError(f"frame, row {number} (counted from 1): {reason}") from None
    return scored.select(list(scorer.names)), scorer.result()


def _check_options(output: Path, bad_rows: str) -> None:
    if output.suffix not in (".parquet", ".csv"):
        raise InputError(f"output={output}: name a .parquet or a .csv file")
    if bad_rows not in BAD_ROWS:
        raise InputError(f"bad_rows={bad_rows}: {did_you_mean(bad_rows, BAD_ROWS)}")


def _raw_files(members: Sequence[Member], source: Path) -> RawFiles:
    """How to read the input, which is the same for all runs.

    Raises:
        InputError: the file does not exist, or the runs do not read it in the same way.
    """
    first, *others = members
    raw = raw_files(first.spec, source)
    for other in others:
        by_place = raw.reader == "libsvm"  # its columns have no names
        if raw_files(other.spec, source) != raw or (by_place and other.spec.columns != first.spec.columns):
            raise InputError(
                f"input={source}: {first.folder} and {other.folder} read this file in different ways (dataset.layouts"
                " in their config.yaml): give a .parquet file with the raw columns"
            )
    return raw


def _opened(members: Sequence[Member], raw: RawFiles) -> pl.LazyFrame:
    """The rows of the input, whose columns fit the fields of all runs."""
    first, *others = members
    rows = open_rows(first.spec, raw, first.encoder)
    for other in others:
        check_types(other.spec, raw, other.encoder, rows)
    return rows


def _refuse(spec: DatasetSpec, raw: RawFiles, scorer: "_Scorer", error: Exception) -> NoReturn:
    """Raise for the first bad row, or for a file that cannot be read."""
    if scorer.skip or not scorer.bad:
        faults.refuse_unreadable(spec, raw, ALL, error)
    faults.refuse_short_rows(spec, raw, ALL)
    (source,) = raw.files[ALL]
    number, reason, _ = scorer.bad_rows().row(0)
    line = raw.line_of(source, number - raw.first_line)  # blank lines are lines, but no rows
    raise InputError(f"{source}, {raw.unit} {line}: {reason}") from None


def _write(rows: pl.LazyFrame, scorer: "_Scorer", path: Path) -> None:
    """Score all rows into a .parquet or .csv file."""
    for name in scorer.names:
        if name in rows.collect_schema():
            raise InputError(f"the input has a column '{name}', as the output has for the probability: rename it")
    if path.suffix == ".csv":
        _check_csv(_own_types(rows))
    with Progress(
        TextColumn("score"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()
    ) as bar:
        task = bar.add_task("score", total=None)
        scorer.advance = lambda count: bar.advance(task, count)
        scored = _scored(rows, scorer)
        (scored.sink_parquet if path.suffix == ".parquet" else scored.sink_csv)(path, engine="streaming")


def _scored(rows: pl.LazyFrame, scorer: "_Scorer") -> pl.LazyFrame:
    """The rows with their probabilities, batch by batch, once they are collected or written."""
    schema = pl.Schema({**_own_types(rows), **dict.fromkeys(scorer.names, pl.Float32())})
    return rows.map_batches(scorer, schema=schema, validate_output_schema=False, streamable=True)


def _own_types(rows: pl.LazyFrame) -> dict[str, pl.DataType]:
    dtypes = rows.collect_schema()
    return {name: dtypes[name] for name in own_columns(dtypes)}


def _check_csv(columns: Mapping[str, pl.DataType]) -> None:
    for name, dtype in columns.items():
        if dtype.is_nested() or dtype == pl.Binary:
            raise InputError(
                f"input column '{name}' is {dtype}, which a csv file cannot contain: name a .parquet file as output="
            )


class _Scorer:
    """A frame of raw rows -> the same rows with probabilities.

    Counts rows, and what each run does not know. Several threads call it.
    """

    def __init__(self, members: Sequence[Member], heads: bool, skip: bool, logits: bool = False) -> None:
        self.members, self.skip = members, skip
        self.output = torch.nn.Identity() if logits else torch.sigmoid
        self.names = {"p": "fused", **({f"p_{name}": name for name in head_names(members)} if heads else {})}
        self.lock = threading.Lock()
        self.rows, self.sum = 0, 0.0
        self.counters = [FindingsCounter(member.encoder) for member in members]
        self.bad: list[pl.DataFrame] = []  # line, reason, row
        self.advance: Callable[[int], None] = lambda count: None

    @torch.inference_mode()
    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        parts = [_values(member, frame) for member in self.members]
        frame, *parts = self._valid(_reason(self.members, parts), frame, *parts)
        inputs = [_inputs(member.encoder, rows) for member, rows in zip(self.members, parts, strict=True)]
        outputs = [
            member.network(torch.from_numpy(ids_NW), None if numbers_NM is None else torch.from_numpy(numbers_NM))
            for member, (ids_NW, numbers_NM) in zip(self.members, inputs, strict=True)
        ]
        of_head = fused_and_heads(outputs)
        probability = pl.DataFrame({name: self.output(of_head[head]).numpy() for name, head in self.names.items()})
        reason = _not_finite(probability)
        if reason.null_count() < len(reason):
            inputs = [
                (ids_NW[reason.is_null()], None if numbers_NM is None else numbers_NM[reason.is_null()])
                for ids_NW, numbers_NM in inputs
            ]
        frame, probability, *parts = self._valid(reason, frame, probability, *parts)
        with self.lock:
            self.rows, self.sum = self.rows + len(frame), self.sum + float(probability["p"].sum())
            for counter, rows, (ids_NW, numbers_NM) in zip(self.counters, parts, inputs, strict=True):
                counter.add(rows, ids_NW, numbers_NM)
        self.advance(len(frame))
        return frame.select(own_columns(frame.columns)).with_columns(probability)

    def _valid(self, reason: pl.Series, frame: pl.DataFrame, *others: pl.DataFrame) -> list[pl.DataFrame]:
        """The rows of each frame without a reason to set them aside; the others become bad rows.

        Raises:
            ValueError: there is a bad row, and bad rows are not skipped.
        """
        if reason.null_count() == len(reason):
            return [frame, *others]
        self.bad.append(faulty_rows(frame, reason))
        if not self.skip:
            raise ValueError("bad rows")
        return [rows.filter(reason.is_null()) for rows in (frame, *others)]

    def bad_rows(self) -> pl.DataFrame:
        """The bad rows of all frames, by line: `line`, `reason` and `row`."""
        return pl.concat(self.bad).sort("line") if self.bad else pl.DataFrame()

    def result(self) -> Prediction:
        """The counts of all frames."""
        return Prediction(
            self.rows,
            self.sum / max(1, self.rows),
            sum(map(len, self.bad)),
            [counter.findings() for counter in self.counters],
        )


def _values(member: Member, frame: pl.DataFrame) -> pl.DataFrame:
    """The raw columns of a run as its preparation had them, and `__short`."""
    names = raw_columns(member.encoder, frame.schema)
    return frame.select(SHORT, *prepared_values(member.spec, frame.schema, names))


def _reason(members: Sequence[Member], parts: Sequence[pl.DataFrame]) -> pl.Series:
    """Why a row is invalid for one of the runs; null for a valid row."""
    short = pl.when(SHORT).then(pl.lit("cut short or too long"))
    reasons = [
        rows.select(reason=short.otherwise(member.encoder.fault(rows.schema))).to_series().alias(f"{number}")
        for number, (member, rows) in enumerate(zip(members, parts, strict=True))
    ]
    return pl.DataFrame(reasons).select(reason=pl.coalesce(pl.all())).to_series()


def _not_finite(probability: pl.DataFrame) -> pl.Series:
    """Why a row has no probability, null if it has one: numbers can be too large for a network."""
    is_finite = pl.all_horizontal(pl.all().is_finite())
    return probability.select(reason=pl.when(~is_finite).then(pl.lit("the network's output is not finite"))).to_series()


def _inputs(encoder: RowEncoder, rows: pl.DataFrame) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """ids [N, W] and scaled numbers [N, numbers] of rows; None for a dataset without numbers."""
    return encoder.ids(rows), encoder.numbers(rows) if encoder.schema.number_columns else None
