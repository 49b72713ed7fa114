"""Raw files -> a prepared dataset: parquet of ids, schema, vocabulary, manifest, report.

Here is the order of the steps. Memory does not grow with the rows, and the folder appears whole or
not at all.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tf4ctr.data import earlier_events, faults, histories, history_state, leaks, report, synthetic, vectors, vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.histories import Histories
from tf4ctr.data.local import LocalEngine
from tf4ctr.data.manifest import digest_of, is_current, raw_dir, write_manifest
from tf4ctr.data.numbers import Distribution
from tf4ctr.data.passes import SPLIT, Engine, Known, Moments, Step, Tally, Tick, open_rows
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.schema import GROUP, NUMBERS, Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import ALL, SPLITS, moment_text
from tf4ctr.data.vocabulary import Counts
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.files import size_text

log = logging.getLogger(__name__)

ENGINES = ("polars", "ray")
WORK = ".histories"  # folder of intermediate files, while histories are linked and rows are encoded
TOP_VALUES = 3  # values of each field that the report shows
MERGES = 2  # fields whose counts are added up at a time: each takes memory of its own
BYTES_PER_RAW_BYTE = 0.5  # prepared rows take less than this, for every raw layout
MAX_IDS = 2**31  # ids are int32


class Counted(NamedTuple):
    """The result of the first pass.

    `splits` has `rows` and `click_rate` of each split, `values` the known values of each field with
    their counts, `numbers` the distribution of each number, `groups` all groups.
    """

    splits: dict[str, dict[str, Any]]
    values: dict[str, pl.DataFrame]
    numbers: dict[str, Distribution]
    groups: pl.Series | None

    def known(self, spec: DatasetSpec) -> Known:
        """Schema, values and groups.

        Raises:
            InputError: more table rows than an id can number.
        """
        values = {name: frame.get_column(name) for name, frame in self.values.items()}
        fields = tuple(self._field(spec, field, values) for field in spec.fields)
        schema = Schema(spec.name, fields, spec.label, spec.group, spec.weight)
        if schema.num_ids >= MAX_IDS:
            raise InputError(
                f"{spec.name}: {schema.num_ids:,} table rows are too many for int32 ids:"
                f" raise dataset.min_count (now {spec.min_count})"
            )
        return Known(schema, values, self.groups, self._mean_weight(spec))

    def _field(self, spec: DatasetSpec, field: FieldSpec, values: dict[str, pl.Series]) -> Field:
        scaling = spec.scaling(field, self.numbers[field.name].scaling(field.scale)) if field.kind == NUMBERS else None
        own = values.get(field.of or field.name)
        return spec.encoded(field, 0 if own is None else vocabulary.size(own), scaling)

    def _mean_weight(self, spec: DatasetSpec) -> float:
        """Mean weight of the training rows.

        Raises:
            InputError: it is zero.
        """
        if spec.weight is None:
            return 1.0
        mean = self.splits["train"]["weight_total"] / self.rows["train"]
        if mean == 0:
            raise InputError(
                f"dataset.weight: column '{spec.weight}' is 0 in all training rows: nothing would be learned"
            )
        return mean

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: self.splits[split]["rows"] for split in SPLITS}


def prepare(spec: DatasetSpec, engine: str = "polars") -> Path:
    """Create the prepared dataset of `spec` unless it is there already, and return its folder.

    The folder appears whole or not at all: it is written beside and renamed. Two processes that
    prepare the same folder take turns.

    Args:
        spec: the dataset.
        engine: `polars` on this machine; `ray` on the machines of a Ray cluster, with the same
            result, see `tf4ctr.data.cluster`.

    Raises:
        InputError: raw files are missing, cut short or have invalid rows; an unknown engine.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is '{engine}': {did_you_mean(engine, ENGINES)}")
    target = spec.prepared_dir
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        for leftover in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(leftover)  # of a process that was killed: we hold the lock, so nobody writes there
        if is_current(spec, target):
            return target
        staging = target.parent / f".{target.name}.partial-{os.getpid()}"
        try:
            _write(spec, staging, engine)
            _publish(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _publish(staging: Path, target: Path) -> None:
    old = target.parent / f".{target.name}.partial-old"
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write(spec: DatasetSpec, folder: Path, engine_name: str) -> None:
    started = time.perf_counter()
    folder.mkdir(parents=True)
    with _progress(spec.name) as step:
        raw = _raw_files(spec, folder, step)
        if spec.logs:
            _check_once(spec, raw)
        fingerprint = raw.fingerprint()  # before reading, so that a change during the reading is noticed
        _check_space(spec, raw, folder)
        open_engine = _open_engine(engine_name)
        if spec.split and not spec.split.ready:
            spec = _cut(spec, raw, open_engine(spec, raw, step), step)
        engine = open_engine(spec, raw, step)
        counted = _count(spec, raw, engine, step)
        known = counted.known(spec)
        schema = replace(known.schema, digest=digest_of(spec, counted.splits, known.values))
        known = known._replace(schema=schema)
        vectors.prepare(spec, known, raw, folder / "vectors")  # before the rows, which take longest
        _check_sequence_space(spec, known.schema, sum(counted.rows.values()), folder)
        known = _link(spec, raw, engine, known, counted.rows, folder, step)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(report.load_matplotlib)  # a third of a second, which the last step would wait for
            engine.encode(known, counted.rows, folder, step)
    best_auc = (
        {split: _best_auc(spec, open_rows(spec, raw, split)) for split in SPLITS} if spec.click_probability else None
    )
    for name in ("raw", WORK):
        shutil.rmtree(folder / name, ignore_errors=True)
    warnings = _describe(folder, known, counted)
    contents = {
        "raw_dir": None if spec.generator is not None else str(spec.raw_dir),
        "raw": None if spec.generator is not None else fingerprint,
        "splits": counted.splits,
        "vocabulary_sizes": {field.name: field.vocabulary_size for field in known.schema.id_fields},
        "best_auc": best_auc,
        **({"moments": spec.split.moments} if spec.split and spec.split.moments else {}),
        "warnings": warnings,
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_manifest(folder, spec, contents)
    total = sum(counted.rows.values())
    log.info("prepared %s: %s rows in %.1f s -> %s", spec.name, f"{total:,}", contents["seconds"], spec.prepared_dir)


def _raw_files(spec: DatasetSpec, folder: Path, step: Step) -> RawFiles:
    """Find the raw files, or draw them into `folder/raw`."""
    if spec.generator is None:
        return spec.raw_files(raw_dir(spec))
    with step("draw", sum(spec.generator[split] for split in SPLITS)) as tick:
        synthetic.generate(folder / "raw", tick=tick, **spec.generator)
    return spec.raw_files(folder / "raw")


def _open_engine(name: str) -> Callable[[DatasetSpec, RawFiles, Step], Engine]:
    if name == "polars":
        return LocalEngine
    try:
        from tf4ctr.data.cluster import RayEngine
    except ImportError as error:
        raise InputError(f'engine=ray needs Ray ({error}): pip install -e ".[ray]"') from error
    return RayEngine


def _cut(spec: DatasetSpec, raw: RawFiles, engine: Engine, step: Step) -> DatasetSpec:
    """Find the moments at which the rows are split, and log them; files with splits have none."""
    if ALL not in raw.files:
        return spec
    moments = Moments(spec, ALL)
    with step("order", None) as tick:
        engine.count(ALL, moments, tick)
    spec = spec.cut(moments.distribution)
    assert spec.split is not None
    begins = map(moment_text, spec.split.moments or ())
    log.info("%s: validation begins at %s = %s, test at %s", spec.name, spec.split.by, *begins)
    return spec


def _count(spec: DatasetSpec, raw: RawFiles, engine: Engine, step: Step) -> Counted:
    """First pass over all raw rows."""
    splits: dict[str, dict[str, Any]] = {}
    values: dict[str, pl.DataFrame] = {}
    numbers: dict[str, Distribution] = {}
    limits = {field.name: spec.limits(field) for field in spec.fields}
    groups = Counts(spec.group) if spec.group else None
    known = spec.base.values if spec.base else {}
    for split in raw.files:
        tally = Tally(spec, split)
        with step(f"read {split}", None) as tick:
            engine.count(split, tally, tick)

        def seen(name: str, tally: Tally = tally) -> pl.DataFrame:
            return tally.fields[name].seen(*limits[name], known.get(name))

        with ThreadPoolExecutor(MERGES) as threads:
            found = threads.map(seen, tally.fields)  # polars adds up one field with one core
            splits |= _checked(spec, raw, split, tally.checks)
            values |= dict(zip(tally.fields, found, strict=True))
        numbers |= tally.numbers
        if groups is not None and tally.groups is not None:
            groups.join(tally.groups)
    faults.refuse_counts(spec, raw, {split: splits[split]["rows"] for split in SPLITS})
    return Counted(splits, values, numbers, groups.seen(1).get_column(groups.name) if groups else None)


def _link(
    spec: DatasetSpec, raw: RawFiles, engine: Engine, known: Known, rows: dict[str, int], folder: Path, step: Step
) -> Known:
    """Link the histories of the log, see histories.py; they are read while rows are encoded."""
    if not spec.logs:
        return known
    sources = {ALL: sum(rows.values())} if ALL in raw.files else rows
    work = folder / WORK
    earlier = earlier_events.of_base(spec, known)
    if earlier:
        sources = {**sources, histories.EARLIER: sum(map(len, earlier.values()))}
    engine.events(known, sources, work / "events", step)
    earlier_events.write(earlier, sum(sources.values()), work / "events")
    (folder / history_state.FOLDER).mkdir()
    for leader in spec.logs:
        state = history_state.path_of(leader.name, folder)
        with step(f"link {leader.name}", sum(sources.values())) as tick:
            histories.link(spec, leader, sources, work / "events", work / "linked" / leader.name, state, tick)
    shutil.rmtree(work / "events", ignore_errors=True)  # there are none if no row has a user
    return known._replace(histories=Histories(known.schema, work / "linked"))


def _check_once(spec: DatasetSpec, raw: RawFiles) -> None:
    """Check that no file is in two splits: its events would be in a history twice.

    Raises:
        InputError: a file is.
    """
    splits: dict[Path, str] = {}
    for split, paths in raw.files.items():
        for path in paths:
            if path in splits:
                raise InputError(
                    f"{path} is both {splits[path]} and {split} of {spec.name}: with histories of the log its events"
                    " would count twice. Give each split files of its own, or all files as `all` and a `split` by time"
                )
            splits[path] = split


def _checked(spec: DatasetSpec, raw: RawFiles, source: str, checks: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Rows and click rate of the splits in a source's files; raises for the first invalid line."""
    if len(checks):
        faults.refuse_invalid(spec, raw, source, checks.drop(SPLIT).sum().row(0, named=True))
    by_number = {row[SPLIT]: row for row in checks.rows(named=True)}
    summary = {}
    for split in SPLITS if source == ALL else (source,):
        row = by_number.get(SPLITS.index(split), {"rows": 0, "clicks": 0})
        summary[split] = {"rows": row["rows"], "click_rate": row["clicks"] / max(1, row["rows"])}
        if spec.weight:
            summary[split]["weight_total"] = row.get("weight_total", 0.0)
    return summary


def _describe(folder: Path, known: Known, counted: Counted) -> list[str]:
    """Write vocabulary, schema and report, and complete the splits; return and log the warnings."""
    for values in known.values.values():
        vocabulary.save(values, folder / "vocabulary")
    known.schema.save(folder)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(leaks.find, folder, known.schema)  # one core draws the report in the meantime
        for split, summary in counted.splits.items():
            summary["out_of_vocabulary"] = report.out_of_vocabulary(folder, known.schema, split)
            if known.schema.number_fields:
                summary["missing"] = report.missing(folder, known.schema, split)
        top = {name: frame.top_k(TOP_VALUES, by="count") for name, frame in counted.values.items()}
        report.write(folder, known.schema, counted.splits, top)
        warnings = [*_of_rows(folder, known, counted.splits), *found.result()]
    for warning in warnings:
        log.warning("%s: %s", known.schema.dataset, warning)
    return warnings


def _of_rows(folder: Path, known: Known, splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Warnings for rows of one label, fields without known values, and rows without a group."""
    warnings = []
    rate = splits["train"]["click_rate"]
    if rate in (0, 1):
        warnings.append(
            f"all training rows have the label {rate:.0f}, so there is nothing to learn: check label and positive"
        )
    for name, share in splits["train"]["out_of_vocabulary"].items():
        if share == 1:
            warnings.append(
                f"no value of '{name}' is frequent enough to be known, so the field says nothing: take a smaller"
                " min_count, hash it, or leave it out"
            )
            continue
        others = [split for split in SPLITS if splits[split]["out_of_vocabulary"][name] == 1]
        if others:
            warnings.append(
                f"no value of '{name}' in {' and in '.join(others)} is known from training, so the field says nothing"
                " there: check that the column is not empty there and has its values in the same form; leave the field"
                " out if every split has values of its own, as dates"
            )
    if known.groups is not None:
        is_without = pl.col(GROUP) == len(known.groups)
        counts = [pl.scan_parquet(folder / f"{split}.parquet").select(is_without.sum()) for split in splits]
        without = sum(frame.item() for frame in pl.collect_all(counts))
        if without:
            rows = sum(facts["rows"] for facts in splits.values())
            warnings.append(
                f"{without:,} of {rows:,} rows have no '{known.schema.group}': gAUC takes them as the rows of one group"
            )
    return warnings


def _check_space(spec: DatasetSpec, raw: RawFiles, folder: Path) -> None:
    needed, free = raw.bytes * BYTES_PER_RAW_BYTE, shutil.disk_usage(folder).free
    sizes = (size_text(raw.bytes), size_text(needed), size_text(free))
    log.info("preparing %s: %s of raw files, at most %s to write, %s free", spec.name, *sizes)
    if needed > free:
        raise InputError(
            f"{spec.name} may need {size_text(needed)} in {spec.prepared_dir.parent}, {size_text(free)} are free:"
            " make room, or name another disk with dataset.prepared_dir=FOLDER"
        )


def _check_sequence_space(spec: DatasetSpec, schema: Schema, rows: int, folder: Path) -> None:
    """Raises InputError if the columns of sequences, which can be wide, may not fit the disk."""
    columns = sum(field.width for field in schema.sequence_fields)
    needed, free = 4 * columns * rows, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{spec.name}: {columns} columns of sequences for {rows:,} rows may need {size_text(needed)} in"
            f" {spec.prepared_dir.parent}, {size_text(free)} are free: make room, lower their width, or name another"
            " disk with dataset.prepared_dir=FOLDER"
        )


def _best_auc(spec: DatasetSpec, rows: pl.LazyFrame) -> float:
    """AUC of the true click probability: no model can be expected to do better on these rows."""
    from tf4ctr.metrics import auc  # not at the top: torch takes 300 MB that reading raw files does not need

    name = str(spec.click_probability)
    drawn = rows.select(pl.col(name).cast(pl.Float64), faults.label(spec)).collect(engine="streaming")
    return float(auc(drawn[name].to_torch(), drawn[spec.label].to_torch()))


@contextmanager
def _progress(name: str) -> Iterator[Step]:
    """A progress bar, as a `Step`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as bar:

        @contextmanager
        def step(description: str, total: int | None) -> Iterator[Tick]:
            task: TaskID = bar.add_task(f"{name}: {description}", total=total)
            yield lambda rows: bar.advance(task, rows)
            completed = bar.tasks[task].completed
            bar.update(task, total=completed, completed=completed)

        yield step
