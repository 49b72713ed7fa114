"""Raw files -> a prepared dataset (parquet of table rows, schema, vocabulary, manifest), out of core and atomic."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tf4ctr.data import synthetic, vocabulary
from tf4ctr.data.readers import READERS, Reader
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import SPLITS, DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.metrics import auc

log = logging.getLogger(__name__)

FORMAT = 1  # of the prepared folder; a change of it makes older folders be prepared again
ROW_GROUP_SIZE = 100_000
LABEL, GROUP = "__label", "__group"


def prepare(spec: DatasetSpec) -> Path:
    """Make the prepared dataset of `spec` unless it is there already, and return its folder.

    The folder appears whole or not at all: it is written beside and renamed. Two processes that prepare the same folder take turns.

    Raises:
        InputError: raw files missing, cut short or with bad rows.
    """
    target = spec.prepared_dir
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        for leftover in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(leftover)  # of a process that was killed: we hold the lock, so nobody is writing there
        if _is_current(spec, target):
            return target
        staging = target.parent / f".{target.name}.partial-{os.getpid()}"
        try:
            _write(spec, staging)
            old = target.parent / f".{target.name}.partial-old"
            if target.exists():
                target.rename(old)
            staging.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `folder/manifest.json`: settings, raw files, rows and click rate a split, vocabulary sizes, best possible AUC where known."""
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
    changed = [f"{key}: {manifest['settings'].get(key)} -> {wanted[key]}" for key in wanted if manifest["settings"].get(key) != wanted[key]]
    if changed:
        log.info("%s was prepared with other settings (%s): preparing again", target, "; ".join(changed))
        return False
    if spec.generator is None:
        try:
            raw = _fingerprint(*spec.raw_files(_raw_dir(spec)))
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


def _fingerprint(reader: str, files: dict[str, Path]) -> dict[str, Any]:
    def stat(path: Path) -> list[list[Any]]:
        parts = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        return [[part.name, part.stat().st_size, part.stat().st_mtime_ns] for part in parts]

    return {"reader": reader, **{split: stat(path) for split, path in files.items()}}


def _write(spec: DatasetSpec, folder: Path) -> None:
    started = time.perf_counter()
    drawn = spec.generator is not None
    raw_dir = folder / "raw" if drawn else _raw_dir(spec)
    reader_name, files = ("parquet", {}) if drawn else spec.raw_files(raw_dir)
    raw = None if drawn else _fingerprint(reader_name, files)  # before reading: a file that changes meanwhile is then seen as changed
    folder.mkdir(parents=True)
    with _progress(spec.name) as step:
        if drawn:
            with step("draw", None) as tick:
                synthetic.generate(raw_dir, tick=tick, **(spec.generator or {}))
            reader_name, files = spec.raw_files(raw_dir)
        reader = READERS[reader_name]
        splits = {split: _open(spec, reader, files[split]) for split in SPLITS}

        summary: dict[str, dict[str, Any]] = {}
        values: dict[str, pl.Series] = {}
        groups: list[pl.DataFrame] = []
        for split, rows in splits.items():
            with step(f"read {split}", None) as tick:
                queries = _vocabulary_queries(spec) if split == "train" else []
                checks, group, *found = _collect(_ticking(rows, tick), [_checks(spec), _groups(spec), *queries])
            summary[split] = _checked(spec, reader, split, files[split], checks)
            groups.append(group)
            values |= {frame.columns[0]: frame.to_series() for frame in found}

        schema = Schema(spec.name, tuple(Field(name, vocabulary.size(values[name])) for name in spec.fields), spec.label, spec.group)
        if schema.num_ids >= 2**31:
            raise InputError(
                f"{spec.name}: {schema.num_ids:,} table rows do not fit int32 ids: raise dataset.min_count (now {spec.min_count})"
            )
        encoders = [vocabulary.encode(name, values[name], offset) for name, offset in zip(spec.fields, schema.offsets, strict=True)]
        encoders.append(pl.col(spec.label).cast(pl.Float32).alias(LABEL))
        if spec.group:
            known = pl.concat(groups).unique().drop_nulls().sort(spec.group).to_series()
            # a group code is an index into all groups of all splits: a user unseen in training is still one user
            encoders.append(pl.col(spec.group).cast(pl.Enum(known)).to_physical().cast(pl.Int64).fill_null(len(known)).alias(GROUP))
        for split, rows in splits.items():
            with step(f"write {split}", summary[split]["rows"]) as tick:
                encoded = _ticking(rows, tick).select(encoders)
                encoded.sink_parquet(folder / f"{split}.parquet", row_group_size=ROW_GROUP_SIZE, engine="streaming")
    for name in spec.fields:
        vocabulary.save(values[name], folder / "vocabulary")
    schema.save(folder)
    manifest = {
        "format": FORMAT,
        "dataset": spec.name,
        "settings": spec.settings(),
        "raw_dir": None if drawn else str(raw_dir),
        "raw": raw,
        "splits": summary,
        "vocabulary_sizes": {field.name: field.vocabulary_size for field in schema.fields},
        "best_auc": {split: _best_auc(spec, rows) for split, rows in splits.items()} if spec.click_probability else None,
        "seconds": round(time.perf_counter() - started, 2),
    }
    shutil.rmtree(folder / "raw", ignore_errors=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    total = sum(split["rows"] for split in summary.values())
    log.info("prepared %s: %s rows in %.1f s -> %s", spec.name, f"{total:,}", manifest["seconds"], spec.prepared_dir)


def _open(spec: DatasetSpec, reader: Reader, path: Path) -> pl.LazyFrame:
    rows = reader.rows(path, spec.columns)
    return rows.head(spec.limit_rows) if spec.limit_rows else rows


def _collect(rows: pl.LazyFrame, queries: list[Callable[[pl.LazyFrame], pl.LazyFrame]]) -> list[pl.DataFrame]:
    """Run all queries over one pass of `rows`."""
    try:
        return pl.collect_all([query(rows) for query in queries], engine="streaming")
    except pl.exceptions.ComputeError as error:
        # the reader met something that is no row of this layout: `_checked` looks for the line and says it
        return [pl.DataFrame({"error": [str(error)]}), pl.DataFrame()]


def _checks(spec: DatasetSpec) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    return lambda rows: rows.select(
        rows=pl.len(),
        clicks=_label(spec).sum(),
        bad_labels=(~_label(spec).is_in([0.0, 1.0])).fill_null(True).sum(),
        short=pl.col("__short").sum(),
    )


def _label(spec: DatasetSpec) -> pl.Expr:
    return pl.col(spec.label).cast(pl.Float64, strict=False)


def _groups(spec: DatasetSpec) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    return lambda rows: rows.group_by(spec.group).len().select(spec.group) if spec.group else rows.select(pl.lit(0)).head(0)


def _vocabulary_queries(spec: DatasetSpec) -> list[Callable[[pl.LazyFrame], pl.LazyFrame]]:
    return [lambda rows, name=name: vocabulary.fit(rows, name, spec.min_count) for name in spec.fields]  # type: ignore[misc]


def _checked(spec: DatasetSpec, reader: Reader, split: str, path: Path, checks: pl.DataFrame) -> dict[str, Any]:
    """Return rows and click rate of a split, or raise with the first bad line."""
    found = checks.row(0, named=True)
    if "error" in found or found["short"]:
        if bad := reader.bad_rows(path, [spec.label, *spec.fields]):
            lines = "\n".join(f"  line {line}: {reason}" for line, reason in bad)
            raise InputError(f"{path} has rows that are cut short or too long:\n{lines}\nMend or remove them, or download the file again")
        if "error" in found:
            raise InputError(f"{path} cannot be read: {found['error'].splitlines()[0]}")
    if not found["rows"]:
        raise InputError(f"{path} has no rows: the {split} split needs at least one")
    if found["bad_labels"]:
        bad_label = ~_label(spec).is_in([0.0, 1.0]).fill_null(False)
        first = _open(spec, reader, path).with_row_index("row").filter(bad_label).select("row", spec.label).head(1).collect().row(0)
        raise InputError(
            f"{path}, line {first[0] + reader.first_line}: column '{spec.label}' is {first[1]!r}, expected 0 or 1"
            f" ({found['bad_labels']:,} such rows)"
        )
    expected = (spec.rows or {}).get(split)
    if expected and not spec.limit_rows and found["rows"] != expected:
        raise InputError(
            f"{path} has {found['rows']:,} rows, {spec.name} has {expected:,} in its {split} split: the file is not whole, or another one."
            f" Download it again, or set dataset.rows=null to take it as it is"
        )
    return {"rows": found["rows"], "click_rate": found["clicks"] / found["rows"]}


def _best_auc(spec: DatasetSpec, rows: pl.LazyFrame) -> float:
    """AUC of the true click probability itself: no model can be expected to do better on these rows."""
    name = str(spec.click_probability)
    drawn = rows.select(pl.col(name).cast(pl.Float64), _label(spec)).collect(engine="streaming")
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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns) as bar:

        @contextmanager
        def step(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
            task: TaskID = bar.add_task(f"{name}: {what}", total=total)
            yield lambda rows: bar.advance(task, rows)
            done = bar.tasks[task].completed
            bar.update(task, total=done, completed=done)

        yield step
