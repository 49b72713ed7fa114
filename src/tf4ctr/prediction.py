"""Raw rows -> the same rows with probabilities, streamed: memory does not grow with the rows, and the output is whole or absent."""

import threading
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tf4ctr.assembly import load_run
from tf4ctr.data import faults, vocabulary
from tf4ctr.data.spec import ALL, DatasetSpec, RawFiles
from tf4ctr.data.transforms import TRANSFORMS
from tf4ctr.errors import InputError

ROW = "__row"


class Prediction(NamedTuple):
    """What came of it: rows written, their mean probability, and the share of unknown values of each field."""

    rows: int
    mean: float
    out_of_vocabulary: dict[str, float]


def predict(run: Path, source: Path, output: Path, heads: bool = False, prepared_dir: Path | None = None) -> Prediction:
    """Add `p`, and with `heads` the probability of each head as `p_simple`, ..., to the rows of `source`, in its order.

    Args:
        run: folder of a trained run; its best weights are taken.
        source: parquet, or a file in the dataset's raw layout; the label may be absent where the columns have names.
        output: a .parquet or .csv file to write.
        prepared_dir: the prepared dataset with the vocabulary, if not where the run found it.

    Raises:
        InputError: a file that cannot be read or has rows that are none, or an output of another kind.
    """
    if output.suffix not in (".parquet", ".csv"):
        raise InputError(f"output={output}: name a .parquet or a .csv file")
    network, schema, config = load_run(run)
    spec = DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))  # type: ignore[arg-type]
    values = {field.name: vocabulary.load(field.name, (prepared_dir or spec.prepared_dir) / "vocabulary") for field in spec.fields}
    if any(vocabulary.size(values[field.name]) != field.vocabulary_size for field in schema.fields):
        raise InputError(
            f"{prepared_dir or spec.prepared_dir} has other vocabularies than the run was trained on: prepare it as for the run"
        )
    encoders = [
        column
        for field, made, offset in zip(schema.fields, spec.fields, schema.offsets, strict=True)
        for column in vocabulary.encode(field, made.value(), values[field.name], offset)
    ]
    last = [offset + field.vocabulary_size - 1 for field, offset in zip(schema.fields, schema.offsets, strict=True) for _ in field.columns]
    raw = _raw(spec, source)
    rows, texts = _rows(spec, raw, source)
    bad = pl.any_horizontal(pl.col("__short"), *(faults.bad_value(each.raw, each.transform) for each in spec.fields if each.transform))
    names = {"p": "fused", **({f"p_{name}": name for name in network.heads} if heads else {})}
    lock, total, mass = threading.Lock(), 0, 0.0
    unknown, refused = torch.zeros(len(last), dtype=torch.int64), []

    @torch.inference_mode()
    def score(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal total, mass
        text = frame.select(texts)
        if len(wrong := text.filter(bad)):
            refused.append(wrong)
            raise ValueError("bad rows")
        ids = torch.from_numpy(text.select(encoders).to_numpy(order="c", writable=True))
        logits = network(ids)
        of_head = {"fused": logits.fused, **logits.heads()}
        probability = {name: torch.sigmoid(of_head[head]).numpy() for name, head in names.items()}
        with lock:
            total, mass = total + len(frame), mass + float(probability["p"].sum())
            unknown.add_((ids == torch.tensor(last)).sum(0))
        bar.advance(task, len(frame))
        return frame.drop(ROW, "__short").with_columns(**{name: pl.Series(each) for name, each in probability.items()})

    columns = [name for name in rows.collect_schema() if name not in (ROW, "__short")]
    made = pl.Schema({**{name: rows.collect_schema()[name] for name in columns}, **dict.fromkeys(names, pl.Float32())})
    scored = rows.map_batches(score, schema=made, validate_output_schema=False, streamable=True)
    partial = output.with_name(f".{output.name}.partial")
    with Progress(TextColumn("score"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()) as bar:
        task = bar.add_task("score", total=None)
        try:
            (scored.sink_parquet if output.suffix == ".parquet" else scored.sink_csv)(partial, engine="streaming")
            partial.replace(output)
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            if refused:
                _refuse(spec, raw, source, pl.concat(refused).sort(ROW))
            faults.refuse_unreadable(spec, raw, ALL, error)
        finally:
            partial.unlink(missing_ok=True)
    shares = {column: int(count) / max(1, total) for column, count in zip(schema.columns, unknown, strict=True)}
    return Prediction(total, mass / max(1, total), shares)


def _raw(spec: DatasetSpec, source: Path) -> RawFiles:
    """How `source` is to be read: parquet by its name, else as the dataset's first layout that is text (libsvm by its name)."""
    if not source.is_file():
        raise InputError(f"input={source}: there is no such file")
    if source.suffix == ".parquet":
        return RawFiles("parquet", {}, {ALL: [source]})
    kinds = [layout for layout in spec.layouts if (layout["reader"] == "libsvm") == (source.suffix in (".libsvm", ".svm"))]
    for layout in kinds:
        if layout["reader"] in ("csv", "libsvm"):
            return RawFiles(layout["reader"], {key: layout[key] for key in ("separator", "header") if key in layout}, {ALL: [source]})
    if source.suffix in (".csv", ".gz"):
        return RawFiles("csv", {}, {ALL: [source]})
    raise InputError(f"input={source}: no layout of {spec.name} reads it; give a .parquet or a .csv file with the raw columns")


def _rows(spec: DatasetSpec, raw: RawFiles, source: Path) -> tuple[pl.LazyFrame, list[pl.Expr]]:
    """All columns of `source` as they are, with a row number and `__short`; and the raw columns of the fields, as text."""
    wanted = list(dict.fromkeys(field.raw for field in spec.fields))
    if raw.reader == "libsvm":
        rows = raw.rows([source], [spec.label, *wanted])
    elif raw.reader == "parquet":
        raw.rows([source], wanted)  # tells what is missing
        rows = pl.scan_parquet(source).with_columns(pl.lit(False).alias("__short"))
    else:
        header = raw.options.get("header")
        every = list(header) if header else pl.scan_csv(source, separator=raw.options.get("separator", ",")).collect_schema().names()
        raw.rows([source], wanted)
        rows = raw.rows([source], every)
        # an empty last cell looks like a row cut short: the reader says which are
        rows = rows.with_columns(pl.lit(False).alias("__short")) if not raw.bad_rows(source, every) else rows
    texts = [pl.col(ROW), pl.col("__short"), *(pl.col(name).cast(pl.String) for name in wanted)]
    return rows.with_row_index(ROW), texts


def _refuse(spec: DatasetSpec, raw: RawFiles, source: Path, wrong: pl.DataFrame) -> None:
    """Raise for rows that are none: those cut short by their line, else the first value that its field's transform cannot take."""
    faults.refuse_short_rows(spec, raw, ALL)
    for field in spec.fields:
        if field.transform:
            found = wrong.filter(faults.bad_value(field.raw, field.transform))
            for row, value in found.select(ROW, field.raw).head(1).rows():
                expected = TRANSFORMS[field.transform].expected
                raise InputError(f"{source}, line {row + raw.first_line}: column '{field.raw}' is {value!r}, expected {expected}")


def unknown_table(done: Prediction) -> Table:
    """The share of unknown values of each field, the largest first."""
    table = Table()
    table.add_column("field")
    table.add_column("out of vocabulary", justify="right")
    for name, share in sorted(done.out_of_vocabulary.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{share:.2%}")
    return table
