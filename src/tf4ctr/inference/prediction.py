"""Raw rows -> the same rows with probabilities, streamed.

Memory does not grow with the number of rows. The output is complete or absent.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tf4ctr.assembly import load_run
from tf4ctr.data import faults
from tf4ctr.data.encoding import RowEncoder, given_rows
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import SHORT
from tf4ctr.data.schema import IDS, SEQUENCES
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.inference.input_rows import (
    LINE,
    complete_lines,
    faulty_rows,
    frame_rows,
    open_rows,
    own_columns,
    prepared_values,
    raw_columns,
    raw_files,
)
from tf4ctr.models.network import Network

BAD_ROWS = ("refuse", "skip")
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


class AllMissing(NamedTuple):
    """A number that is missing in all rows.

    Attributes:
        field: its name.
        column: its raw column.
        values: examples of the input's values, none of which is a number.
    """

    field: str
    column: str
    values: list[str]


class EmptyHistory(NamedTuple):
    """A history that is empty in all rows where it is joined by the user.

    Attributes:
        history: its name.
        column: the raw column of users.
        users: examples of the input's users.
        known: examples of users who have a history.
    """

    history: str
    column: str
    users: list[str]
    known: list[str]


class UnknownTimes(NamedTuple):
    """A field of times that are all unknown.

    Attributes:
        field: its name.
        column: the raw column of moments.
    """

    field: str
    column: str


class Prediction(NamedTuple):
    """The result of a prediction.

    Attributes:
        rows: number of rows written.
        mean: their mean probability.
        out_of_vocabulary: share of unknown values of each column of ids, and of each sequence.
        set_aside: number of bad rows that were skipped.
        all_unknown: the fields without one known value, although at least one row has a value.
        missing: share of missing values of each number.
        all_missing: the numbers without one value.
        empty_histories: the histories without one value in the rows where they are joined.
        unknown_times: the times of histories that are all unknown.
    """

    rows: int
    mean: float
    out_of_vocabulary: dict[str, float]
    set_aside: int
    all_unknown: list[AllUnknown]
    missing: Mapping[str, float] = MappingProxyType({})
    all_missing: Sequence[AllMissing] = ()
    empty_histories: Sequence[EmptyHistory] = ()
    unknown_times: Sequence[UnknownTimes] = ()


def predict(run: Path, source: Path, output: Path, heads: bool = False, bad_rows: str = "refuse") -> Prediction:
    """Add the column `p` to the rows of `source` and write them to `output`, in the same order.

    A history of the log is joined by the user, unless a row has its own in the column of its name.
    A row with a moment gets the events before it.

    Args:
        run: folder of a trained run; its best weights are used.
        source: parquet, Arrow, ndjson, or a file in the dataset's raw layout. The label may be
            absent if the columns have names.
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
    raw = raw_files(spec, source)
    scorer = _Scorer(network, encoder, heads, bad_rows == "skip", spec)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        partial, complete = Path(scratch) / output.name, raw
        try:
            if bad_rows == "skip" and raw.reader == "csv":
                complete, bad_lines = complete_lines(raw, source, Path(scratch) / "complete.csv")
                scorer.bad.append(bad_lines)
            _write(open_rows(spec, complete, encoder), scorer, partial)
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            _refuse(spec, raw, scorer, error)
        bad = scorer.bad_rows()
        if len(bad):
            bad.write_csv(Path(scratch) / "bad.csv")
            (Path(scratch) / "bad.csv").replace(output.with_suffix(".bad.csv"))
        partial.replace(output)
    return scorer.result()


def predict_frame(
    network: Network,
    encoder: RowEncoder,
    spec: DatasetSpec,
    frame: pl.DataFrame,
    heads: bool = False,
    logits: bool = False,
) -> tuple[pl.DataFrame, Prediction]:
    """The probabilities of a frame's rows, scored as `predict` scores a file with these rows.

    Args:
        network: of the run, on the CPU.
        encoder: of the run.
        spec: of its dataset.
        frame: rows with the raw columns; it may have others too.
        heads: whether to add the probability of each head too, as `p_simple`, ...
        logits: logits instead of probabilities, in the same columns.

    Returns:
        A row for each row of `frame`, with `p` and those of the heads; and what is unknown.

    Raises:
        InputError: a column is missing or has a type that its fields do not take, or a row is
            invalid; it names the first such row, counted from 1.
    """
    scorer = _Scorer(network, encoder, heads, False, spec, logits)
    try:
        scored = _scored(frame_rows(spec, frame, encoder), scorer).collect(engine="streaming")
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

    Counts rows, unknown values and missing numbers. Several threads call it.
    """

    def __init__(
        self, network: Network, encoder: RowEncoder, heads: bool, skip: bool, spec: DatasetSpec, logits: bool = False
    ) -> None:
        self.network, self.encoder, self.skip, self.spec = network, encoder, skip, spec
        self.output = torch.nn.Identity() if logits else torch.sigmoid
        self.names = {"p": "fused", **({f"p_{name}": name for name in network.heads} if heads else {})}
        self.schema, self.fields = encoder.schema, {field.name: field for field in encoder.fields}
        self.lock = threading.Lock()
        self.rows, self.sum = 0, 0.0
        self.counts = np.zeros((2, len(encoder.counted)), np.int64)  # unknown values, all values
        self.missing_N = np.zeros(len(self.schema.number_columns), np.int64)
        self.bad: list[pl.DataFrame] = []  # line, reason, row
        self.advance: Callable[[int], None] = lambda count: None
        # the fields without a known value so far, with examples of their values; every text is
        # known to a hashed field
        self._unmatched: dict[str, list[str]] = {
            field.name: [] for field in self.schema.fields if field.columns and not field.hashed and not field.gaps
        }
        # the histories that were empty so far wherever they were joined, with examples of users
        self._empty: dict[str, list[str]] = {state.leader.name: [] for state in encoder.histories}

    @torch.inference_mode()
    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        names = raw_columns(self.encoder, frame.schema)
        rows = frame.select(LINE, SHORT, *prepared_values(self.spec, frame.schema, names))
        fault = pl.when(SHORT).then(pl.lit("cut short or too long")).otherwise(self.encoder.fault(rows.schema))
        reason = rows.select(fault.alias("reason")).to_series()
        if reason.null_count() < len(reason):
            self.bad.append(faulty_rows(frame, reason))
            if not self.skip:
                raise ValueError("bad rows")
            frame, rows = frame.filter(reason.is_null()), rows.filter(reason.is_null())
        ids_NW = self.encoder.ids(rows)
        numbers_NM = self.encoder.numbers(rows) if self.schema.number_columns else None
        logits = self.network(torch.from_numpy(ids_NW), None if numbers_NM is None else torch.from_numpy(numbers_NM))
        of_head = {"fused": logits.fused, **logits.heads()}
        probability = {name: self.output(of_head[head]).numpy() for name, head in self.names.items()}
        with self.lock:
            self.rows, self.sum = self.rows + len(frame), self.sum + float(probability["p"].sum())
            self.counts += self.encoder.count(ids_NW)
            if numbers_NM is not None:
                self.missing_N += np.isnan(numbers_NM).sum(0)
            self._match(rows, ids_NW, numbers_NM)
            self._match_users(rows, ids_NW)
        self.advance(len(frame))
        return frame.select(own_columns(frame.columns)).with_columns(
            **{name: pl.Series(p_N) for name, p_N in probability.items()}
        )

    def _match(self, rows: pl.DataFrame, ids_NW: NDArray[np.int32], numbers_NM: NDArray[np.float32] | None) -> None:
        """Remove the fields with a known value from `_unmatched`: mostly all in the first frame."""
        for name, examples in list(self._unmatched.items()):
            field = self.fields[name]
            if field.has_ids:
                ids = ids_NW[:, self.schema.ids_of(name)]
                if field.from_log:  # the joined values are those of the log
                    ids = ids[given_rows(field, rows)]
                known = (ids != self.schema.unknown_of(name)) & (ids != self.schema.offset_of(name))
            else:
                assert numbers_NM is not None
                known = ~np.isnan(numbers_NM[:, self.schema.numbers_of(name)])
            if known.any():
                del self._unmatched[name]
            elif len(examples) < EXAMPLES:
                values = [*examples, *self._examples(field, rows)]
                self._unmatched[name] = list(dict.fromkeys(values))[:EXAMPLES]

    def _match_users(self, rows: pl.DataFrame, ids_NW: NDArray[np.int32]) -> None:
        """Remove the histories from `_empty` that were joined to a row and are not empty in it."""
        for leader in (state.leader for state in self.encoder.histories):
            examples = self._empty.get(leader.name)
            if examples is None or leader.by not in rows.columns:
                continue
            joined_N = ~given_rows(leader, rows)
            first_N = ids_NW[joined_N, self.schema.ids_of(leader.name).start]
            if (first_N != self.schema.offset_of(leader.name)).any():
                del self._empty[leader.name]
            elif len(examples) < EXAMPLES:
                users = rows.filter(joined_N)[str(leader.by)].drop_nulls().unique(maintain_order=True)
                self._empty[leader.name] = list(dict.fromkeys([*examples, *users.head(EXAMPLES)]))[:EXAMPLES]

    def _examples(self, field: FieldSpec, rows: pl.DataFrame) -> list[str]:
        """Some values of a field; for a number, of its raw column."""
        if field.raw not in rows.columns:
            return []
        if not field.has_ids:
            return [str(value) for value in rows[field.raw].drop_nulls().head(EXAMPLES)]
        values = rows.select(field.value(rows.schema[field.raw])).to_series()
        values = (values.explode() if field.width > 1 else values).drop_nulls()
        return values.unique(maintain_order=True).head(EXAMPLES).to_list()

    def bad_rows(self) -> pl.DataFrame:
        """The bad rows of all frames, by line: `line`, `reason` and `row`."""
        return pl.concat(self.bad).sort("line") if self.bad else pl.DataFrame()

    def result(self) -> Prediction:
        """The counts of all frames."""
        rows = max(1, self.rows)
        shares = (unknown / max(1, values) for unknown, values in self.counts.T.tolist())
        missing = {
            field.name: int(self.missing_N[self.schema.numbers_of(field.name).start]) / rows
            for field in self.schema.fields
            if field.kind not in (IDS, SEQUENCES) and field.columns
        }
        return Prediction(
            self.rows,
            self.sum / rows,
            dict(zip(self.encoder.counted, shares, strict=True)),
            sum(map(len, self.bad)),
            [
                AllUnknown(name, values, self._known_values(name))
                for name, values in self._unmatched.items()
                if values and name not in missing
            ],
            missing,
            [
                AllMissing(name, self.fields[name].raw, values)
                for name, values in self._unmatched.items()
                if self.rows and name in missing
            ],
            self._empty_histories(),
            self._unknown_times(),
        )

    def _empty_histories(self) -> list[EmptyHistory]:
        return [
            EmptyHistory(state.leader.name, str(state.leader.by), users, state.users.head(EXAMPLES).to_list())
            for state in self.encoder.histories
            if (users := self._empty.get(state.leader.name))
        ]

    def _unknown_times(self) -> list[UnknownTimes]:
        counts = dict(zip(self.encoder.counted, self.counts.T.tolist(), strict=True))
        fields = [field for field in self.encoder.fields if field.gaps]
        return [UnknownTimes(field.name, str(field.order)) for field in fields if _all(*counts[field.name])]

    def _known_values(self, name: str) -> list[str]:
        """Some values of a field's vocabulary."""
        return self.encoder.values[self.schema[name].of or name].head(EXAMPLES).to_list()


def _all(unknown: int, values: int) -> bool:
    return 0 < values == unknown


def unknown_table(result: Prediction) -> Table:
    """The shares of unknown values (of columns of ids, of sequences) and of missing numbers.

    The largest are first.
    """
    table = Table()
    table.add_column("field")
    table.add_column("out of vocabulary", justify="right")
    if result.missing:
        table.add_column("missing", justify="right")
    for name, share in _largest_first(result.out_of_vocabulary):
        table.add_row(name, f"{share:.2%}")
    for name, share in _largest_first(result.missing):
        table.add_row(name, "", f"{share:.2%}")
    return table


def _largest_first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def unknown_warnings(result: Prediction) -> list[str]:
    """A warning for each field whose values are all out of vocabulary, or all missing.

    Also for each history that is empty in all rows, and for times that are all unknown.
    """

    def shown(values: list[str]) -> str:
        return ", ".join(repr(value[:SHOWN_CHARACTERS]) for value in values) or "no values"

    unknown = [
        f"field '{field}': all its values are out of vocabulary. The input has {shown(values)}; the vocabulary has"
        f" {shown(known)}. Check that both write the values in the same form"
        for field, values, known in result.all_unknown
    ]
    missing = [
        f"field '{field}': it is missing in all rows. The input has {shown(values)} in column '{column}'. Check that"
        " the column is the right one, and that its values are numbers"
        for field, column, values in result.all_missing
    ]
    empty = [
        f"history '{history}': it is empty in all rows that have a user. The input has {shown(users)} in column"
        f" '{column}'; histories are kept of {shown(known)}. Check that both write the users in the same form, and that"
        " the rows are not before all events"
        for history, column, users, known in result.empty_histories
    ]
    times = [
        f"field '{field}': all its times are unknown, and training has seen few of these or none. Give the rows their"
        f" moments in column '{column}', or times in column '{field}'"
        for field, column in result.unknown_times
    ]
    return unknown + missing + empty + times
