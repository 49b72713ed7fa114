"""Raw files -> a prepared dataset (parquet of table rows, schema, vocabulary, manifest, report), out of core and atomic."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tf4ctr.data import faults, report, synthetic, vocabulary
from tf4ctr.data.faults import label
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import ALL, SPLITS, DatasetSpec, RawFiles
from tf4ctr.data.vocabulary import Counts
from tf4ctr.errors import InputError, did_you_mean

log = logging.getLogger(__name__)

FORMAT = 3  # of the prepared folder; a change of it makes older folders be prepared again
ROW_GROUP_SIZE = 100_000
# numbers take the bits that they need: lz4 would save another thirtieth of the room and stream a fifteenth slower
PARQUET: dict[str, Any] = {"row_group_size": ROW_GROUP_SIZE, "compression": "uncompressed"}
BATCH_ROWS = 100_000  # rows counted at a time
TOP_VALUES = 3  # of each field in the report
LABEL, GROUP, SPLIT = "__label", "__group", "__split"
BYTES_PER_RAW_BYTE = 0.5  # prepared rows take less than this, whatever the raw layout


ENGINES = ("polars", "ray")


def prepare(spec: DatasetSpec, engine: str = "polars") -> Path:
    """Make the prepared dataset of `spec` unless it is there already, and return its folder.

    The folder appears whole or not at all: it is written beside and renamed. Two processes that prepare the same folder take turns.

    Args:
        engine: `polars` on this machine; `ray` on the machines of a Ray cluster, with the same outcome, see `tf4ctr.data.cluster`.

    Raises:
        InputError: raw files missing, cut short or with bad rows; an engine that there isn't.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is '{engine}': {did_you_mean(engine, ENGINES)}")
    target = spec.prepared_dir
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        for leftover in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(leftover)  # of a process that was killed: we hold the lock, so nobody is writing there
        if _is_current(spec, target):
            return target
        staging = target.parent / f".{target.name}.partial-{os.getpid()}"
        try:
            _write(spec, staging, engine)
            old = target.parent / f".{target.name}.partial-old"
            if target.exists():
                target.rename(old)
            staging.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `folder/manifest.json`: settings, raw files, rows, click rate and unknown values a split, vocabulary sizes, and the best
    possible AUC where it is known."""
    return json.loads((folder / "manifest.json").read_text())


def _is_current(spec: DatasetSpec, target: Path) -> bool:
    """Whether `target` was made from these raw files with these settings; says in the log why not."""
    if not target.exists():
        return False
    if not (target / "manifest.json").exists():
        raise InputError(
            f"{target} exists and is not a prepared dataset (no manifest.json):"
            " name another folder with dataset.prepared_dir=FOLDER, or remove it"
        )
    manifest = read_manifest(target)
    if manifest["format"] != FORMAT:
        log.info("%s was prepared by another version: preparing again", target)
        return False
    # through JSON, so that what was read back and what is asked for are of the same types
    wanted = json.loads(json.dumps(spec.settings()))
    changed = [
        f"{key}: {manifest['settings'].get(key)} -> {wanted[key]}"
        for key in wanted
        if manifest["settings"].get(key) != wanted[key]
    ]
    if changed:
        log.info("%s was prepared with other settings (%s): preparing again", target, "; ".join(changed))
        return False
    if spec.generator is None:
        try:
            raw = spec.raw_files(_raw_dir(spec)).fingerprint()
        except InputError:
            log.info("no raw files in %s: using what was prepared from %s", spec.raw_dir, manifest["raw_dir"])
            return True
        if raw != manifest["raw"]:
            log.info("the raw files of %s have changed: preparing again", spec.name)
            return False
    log.info("using the prepared dataset %s", target)
    return True


def _raw_dir(spec: DatasetSpec) -> Path:
    if spec.raw_dir is None:
        raise InputError(f"dataset.raw_dir is not set: name the folder of {spec.name}'s raw files")
    return spec.raw_dir


def _write(spec: DatasetSpec, folder: Path, engine: str) -> None:
    open_sources, count, encode = (_open, _count, _encode) if engine == "polars" else _on_a_cluster()
    started = time.perf_counter()
    folder.mkdir(parents=True)
    with _progress(spec.name) as step:
        if spec.generator is not None:
            with step("draw", sum(spec.generator[split] for split in SPLITS)) as tick:
                synthetic.generate(folder / "raw", tick=tick, **spec.generator)
        raw = spec.raw_files(folder / "raw" if spec.generator is not None else _raw_dir(spec))
        fingerprint = raw.fingerprint()  # before reading: a file that changes meanwhile is then seen as changed
        _check_space(spec, raw, folder)
        sources = open_sources(spec, raw, step)

        summary, seen, groups = _read(spec, raw, sources, count, step)
        values = {name: frame.get_column(name) for name, frame in seen.items()}
        fields = tuple(Field(field.name, vocabulary.size(values[field.name]), field.width) for field in spec.fields)
        schema = Schema(spec.name, fields, spec.label, spec.group)
        if schema.num_ids >= 2**31:
            raise InputError(
                f"{spec.name}: {schema.num_ids:,} table rows do not fit int32 ids: raise dataset.min_count (now {spec.min_count})"
            )
        encode(
            spec,
            raw,
            sources,
            (schema, values, groups),
            {split: summary[split]["rows"] for split in SPLITS},
            folder,
            step,
        )
    for field in spec.fields:
        vocabulary.save(values[field.name], folder / "vocabulary")
    schema.save(folder)
    for split, found in summary.items():
        found["out_of_vocabulary"] = report.out_of_vocabulary(folder, schema, split)
    report.write(folder, schema, summary, {name: frame.top_k(TOP_VALUES, by="count") for name, frame in seen.items()})
    manifest = {
        "format": FORMAT,
        "dataset": spec.name,
        "settings": spec.settings(),
        "raw_dir": None if spec.generator is not None else str(spec.raw_dir),
        "raw": None if spec.generator is not None else fingerprint,
        "splits": summary,
        "vocabulary_sizes": {field.name: field.vocabulary_size for field in schema.fields},
        "best_auc": {split: _best_auc(spec, open_rows(spec, raw, split)) for split in SPLITS}
        if spec.click_probability
        else None,
        "seconds": round(time.perf_counter() - started, 2),
    }
    shutil.rmtree(folder / "raw", ignore_errors=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    total = sum(split["rows"] for split in summary.values())
    log.info("prepared %s: %s rows in %.1f s -> %s", spec.name, f"{total:,}", manifest["seconds"], spec.prepared_dir)


def _on_a_cluster() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    try:
        from tf4ctr.data import cluster  # not at the top: an extra, and it needs this module
    except ImportError as error:
        raise InputError(f'engine=ray needs Ray ({error}): pip install -e ".[ray]"') from error
    return cluster.open_blocks, cluster.count, cluster.encode


def _open(spec: DatasetSpec, raw: RawFiles, step: Callable[..., Any]) -> dict[str, pl.LazyFrame]:
    return {split: open_rows(spec, raw, split) for split in raw.files}


def _read(
    spec: DatasetSpec,
    raw: RawFiles,
    sources: dict[str, Any],
    count: Callable[..., pl.DataFrame],
    step: Callable[..., Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, pl.DataFrame], pl.Series | None]:
    """First pass over all raw rows: rows and click rate a split, each field's known values with their counts, all groups."""
    summary: dict[str, dict[str, Any]] = {}
    counts = {field.name: Counts(field.name) for field in spec.fields}
    groups = Counts(spec.group) if spec.group else None
    for split, source in sources.items():
        with step(f"read {split}", None) as tick:
            checks = count(spec, raw, split, source, counts if split in ("train", ALL) else {}, groups, tick)
        summary |= _checked(spec, raw, split, checks)
    faults.refuse_counts(spec, raw, {split: summary[split]["rows"] for split in SPLITS})
    seen = {name: counter.seen(spec.min_count) for name, counter in counts.items()}
    return summary, seen, groups.seen(1).get_column(groups.name) if groups else None


def _count(
    spec: DatasetSpec,
    raw: RawFiles,
    split: str,
    rows: pl.LazyFrame,
    counts: dict[str, Counts],
    groups: Counts | None,
    tick: Callable[[int], None],
) -> pl.DataFrame:
    """Count a source of the first pass; return the checks, a row a split."""
    try:
        return count_batches(spec, rows, counts, groups, tick)
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError, OSError) as error:
        faults.refuse_unreadable(spec, raw, split, error)


def _encode(
    spec: DatasetSpec,
    raw: RawFiles,
    sources: dict[str, pl.LazyFrame],
    known: tuple[Schema, dict[str, pl.Series], pl.Series | None],
    counts: dict[str, int],
    folder: Path,
    step: Callable[..., Any],
) -> None:
    """Second pass: a parquet file a split. `known` are the schema, the values of each field and the groups."""
    encoders = make_encoders(spec, *known)
    for source, rows in sources.items():
        with step(f"write {source}", counts.get(source, sum(counts.values()))) as tick:
            write_parts(_ticking(rows, tick), encoders, folder / "parts")
    for number, split in enumerate(SPLITS):
        (part,) = (folder / "parts" / f"{SPLIT}={number}").iterdir()
        part.rename(folder / f"{split}.parquet")
    shutil.rmtree(folder / "parts")


def write_parts(rows: pl.LazyFrame, encoders: list[pl.Expr], folder: Path) -> None:
    """Encode rows into `folder/__split=N/FILE.parquet`, one file a split that has rows."""
    # one file, however large: left to itself polars begins another at some gigabytes
    by_split = pl.PartitionBy(folder, key=SPLIT, include_key=False, approximate_bytes_per_file=None)
    rows.select(SPLIT, *encoders).sink_parquet(by_split, mkdir=True, engine="streaming", **PARQUET)


def _check_space(spec: DatasetSpec, raw: RawFiles, folder: Path) -> None:
    needed, free = raw.bytes * BYTES_PER_RAW_BYTE, shutil.disk_usage(folder).free
    log.info(
        "preparing %s: %s of raw files, at most %s to write, %s free",
        spec.name,
        *(_size(x) for x in (raw.bytes, needed, free)),
    )
    if needed > free:
        raise InputError(
            f"{spec.name} may need {_size(needed)} in {spec.prepared_dir.parent}, {_size(free)} are free:"
            " make room, or name another disk with dataset.prepared_dir=FOLDER"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def open_rows(
    spec: DatasetSpec,
    raw: RawFiles,
    split: str,
    paths: list[Path] | None = None,
    first: int = 0,
    limit: int | None = None,
) -> pl.LazyFrame:
    """Raw columns, `__short` and `__split` (a number of SPLITS) of a split's files, or of all files.

    Args:
        paths: some of the files; None for all.
        first: number of their first row among the split's.
        limit: rows to take; None for what `spec` says of all.
    """
    limit = spec.limit_rows if limit is None else limit
    rows = raw.rows(paths or raw.files[split], spec.columns)
    rows = rows if limit is None else rows.head(limit)
    if split != ALL:
        return rows.with_columns(pl.lit(SPLITS.index(split), pl.Int8).alias(SPLIT))
    return (
        rows.with_row_index("__row", first)
        .with_columns(split_of(pl.col("__row"), spec.split_seed).alias(SPLIT))
        .drop("__row")
    )


def split_of(row: pl.Expr, seed: int) -> pl.Expr:
    """Row number -> 0 train, 1 valid, 2 test, 8:1:1 by a hash of (seed, row number): the same on every machine.

    The hash is the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), on 64-bit numbers that wrap around.
    """
    mixed = row.cast(pl.UInt64) + pl.lit(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]), pl.UInt64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed // 2**shift)) * pl.lit(factor, pl.UInt64)
    tenth = (mixed ^ (mixed // 2**31)) % 10
    return pl.when(tenth < 8).then(0).otherwise(tenth.cast(pl.Int8) - 7).cast(pl.Int8)


def count_batches(
    spec: DatasetSpec, rows: pl.LazyFrame, counts: dict[str, Counts], groups: Counts | None, tick: Callable[[int], None]
) -> pl.DataFrame:
    """One pass over `rows`: add to `counts` what the training rows hold and to `groups` all groups; return the checks, a row a split.

    Batch by batch rather than as one query: polars' streaming engine holds rows back when many queries share a scan, without bound.
    """
    found = []
    for batch in rows.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        lazy = batch.lazy()
        train = lazy.filter(pl.col(SPLIT) == 0)
        queries = [
            lazy.group_by(SPLIT).agg(pl.len().alias("rows"), label(spec).sum().alias("clicks"), *faults.checks(spec))
        ]
        queries += [
            counts[field.name].query(train.select(field.value())) for field in spec.fields if field.name in counts
        ]
        queries += [groups.query(lazy.select(groups.name))] if groups else []
        checks, *results = pl.collect_all(queries)
        found.append(checks)
        for counter, result in zip([*counts.values(), *([groups] if groups else [])], results, strict=True):
            counter.add(result)
        tick(len(batch))
    return pl.concat(found).group_by(SPLIT).sum() if found else pl.DataFrame()


def _checked(spec: DatasetSpec, raw: RawFiles, source: str, checks: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return rows and click rate of each split in a source, or raise with the first bad line."""
    counted = {row[SPLIT]: row for row in checks.rows(named=True)}
    for found in counted.values():
        faults.refuse_found(spec, raw, source, found)
    wanted = SPLITS if source == ALL else (source,)
    empty = {"rows": 0, "clicks": 0}
    by_split = {split: counted.get(SPLITS.index(split), empty) for split in wanted}
    return {
        split: {"rows": row["rows"], "click_rate": row["clicks"] / max(1, row["rows"])}
        for split, row in by_split.items()
    }


def make_encoders(
    spec: DatasetSpec, schema: Schema, values: dict[str, pl.Series], groups: pl.Series | None
) -> list[pl.Expr]:
    """Raw columns -> the prepared ones: a row of ids, the label, the group."""
    made = {field.name: field.value() for field in spec.fields}
    encoders = [
        column
        for field, offset in zip(schema.fields, schema.offsets, strict=True)
        for column in vocabulary.encode(field, made[field.name], values[field.name], offset)
    ]
    encoders.append(pl.col(spec.label).cast(pl.Int32).alias(LABEL))
    if groups is not None:
        # a group code is an index into all groups of all splits: a user unseen in training is still one user
        encoders.append(
            pl.col(str(spec.group))
            .cast(pl.Enum(groups))
            .to_physical()
            .cast(pl.Int64)
            .fill_null(len(groups))
            .alias(GROUP)
        )
    return encoders


def _best_auc(spec: DatasetSpec, rows: pl.LazyFrame) -> float:
    """AUC of the true click probability itself: no model can be expected to do better on these rows."""
    from tf4ctr.metrics import (
        auc,  # not at the top: torch is a third of a gigabyte that reading raw files does not need
    )

    name = str(spec.click_probability)
    drawn = rows.select(pl.col(name).cast(pl.Float64), label(spec)).collect(engine="streaming")
    return float(auc(drawn[name].to_torch(), drawn[spec.label].to_torch()))


def _ticking(rows: pl.LazyFrame, tick: Callable[[int], None]) -> pl.LazyFrame:
    """Pass `rows` through unchanged, telling `tick` how many went by."""

    def count(frame: pl.DataFrame) -> pl.DataFrame:
        tick(frame.height)
        return frame

    return rows.map_batches(count, schema=rows.collect_schema(), validate_output_schema=False, streamable=True)


@contextmanager
def _progress(name: str) -> Iterator[Callable[..., Any]]:
    """A progress bar; yields `step(description, total)`, a context that yields `tick(rows)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as bar:

        @contextmanager
        def step(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
            task: TaskID = bar.add_task(f"{name}: {what}", total=total)
            yield lambda rows: bar.advance(task, rows)
            done = bar.tasks[task].completed
            bar.update(task, total=done, completed=done)

        yield step
