"""The rows of a raw log, cut into consecutive periods: days, weeks, or values of a column."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.data import faults
from tf4ctr.data.manifest import raw_dir
from tf4ctr.data.passes import PARQUET, split_of
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import SHORT, alike
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.transforms import moment
from tf4ctr.errors import InputError, check_whole, did_you_mean
from tf4ctr.files import write_whole

log = logging.getLogger(__name__)

DAY = 86_400.0  # seconds
MONDAY = 4 * DAY  # 5 January 1970
YEAR_9999 = 253_370_764_800.0  # in seconds since 1970
FEWEST = 100  # rows of a period at least: a tenth of them validates
START, NUMBER, PART = "__start", "__period", "__part"


class Period(NamedTuple):
    """Consecutive rows of a log.

    Attributes:
        label: where it begins: a date, or a number of the column.
        rows: of both parts.
        train, valid: folders of parquet files; a tenth of the rows is in `valid`, by the hash of
            their number.
    """

    label: str
    rows: int
    train: Path
    valid: Path


EVERY: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "day": lambda moment: (moment / DAY).floor() * DAY,
    "week": lambda moment: ((moment - MONDAY) / (7 * DAY)).floor() * (7 * DAY) + MONDAY,
    "month": lambda moment: pl.from_epoch(moment.cast(pl.Int64)).dt.truncate("1mo").dt.epoch("s").cast(pl.Float64),
    "value": lambda moment: moment,
}
DATED = ("day", "week", "month")


def check_options(by: Any, every: Any, min_rows: Any) -> None:
    """Check the options of `cut`.

    Raises:
        InputError: one of them is invalid.
    """
    if not isinstance(by, str):
        raise InputError("by= is missing: name the raw column of the moments, as in by=timestamp")
    if every not in EVERY and (isinstance(every, bool | str) or not isinstance(every, int | float) or every <= 0):
        hint = did_you_mean(str(every), EVERY)
        raise InputError(f"every is {every!r}: {hint} Or give the width of a period, a positive number")
    check_whole("min_rows", min_rows, FEWEST)


def cut(spec: DatasetSpec, by: str, every: str | float, min_rows: int, folder: Path) -> list[Period]:
    """Write the rows of a log as parquet files, period by period; what is there is not read again.

    The folder appears whole or not at all.

    Args:
        spec: the dataset; its split is not used.
        by: the raw column of the moments: numbers, or ISO dates, which count in seconds since 1970.
        every: a period: day, week or month (of moments in seconds since 1970, UTC), each value of
            the column, or intervals of the column of so much width.
        min_rows: a period with fewer rows is joined with the next one, the last one with the one
            before.
        folder: where to write.

    Returns:
        the periods in their order.

    Raises:
        InputError: no raw files, no such column, invalid rows, rows without a moment; other raw
            files or options than those that the folder was written from.
    """
    if spec.generator is not None:
        raise InputError(f"{spec.name} is drawn, not read from a log: it has no periods")
    raw = spec.raw_files(raw_dir(spec))
    options = {"by": by, "every": every, "min_rows": min_rows, "settings": spec.settings(), "raw": raw.fingerprint()}
    options = json.loads(json.dumps(options))
    if not (folder / "periods.json").exists():
        _write(spec, raw, by, every, min_rows, options, folder)
    kept = json.loads((folder / "periods.json").read_text())
    if differing := [name for name in options if kept["options"][name] != options[name]]:
        raise InputError(
            f"{folder} was cut with another {', '.join(differing)}: repeat the options of that replay, with its raw"
            " files, or name another folder"
        )
    numbers = range(len(kept["rows"]))
    parts = [[folder / f"{NUMBER}={number}" / f"{PART}={part}" for part in (0, 1)] for number in numbers]
    return [Period(*period) for period in zip(kept["labels"], kept["rows"], *zip(*parts, strict=True), strict=True)]


def _write(
    spec: DatasetSpec, raw: RawFiles, by: str, every: str | float, min_rows: int, options: Any, folder: Path
) -> None:
    rows = _rows(spec, raw, by)
    value = moment(pl.col(by))
    start = EVERY[every](value) if isinstance(every, str) else (value / every).floor() * every
    if every in DATED:
        _check_seconds(rows, by)
    counted = rows.group_by(start.alias(START)).agg(rows=pl.len().cast(pl.Int64)).collect(engine="streaming")
    if missing := counted.filter(pl.col(START).is_null())["rows"].sum():
        raise InputError(
            f"by={by}: {missing:,} rows of {spec.name} have no moment there: expected {faults.EXPECTED_MOMENT} in each"
        )
    counted = counted.sort(START)
    numbers = joined(counted["rows"].to_list(), min_rows)
    periods = counted.with_columns(pl.Series(NUMBER, numbers, pl.Int32))
    summary = periods.group_by(NUMBER, maintain_order=True).agg(pl.col(START).first(), pl.col("rows").sum())
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    number = start.replace_strict(periods[START], periods[NUMBER], return_dtype=pl.Int32)
    is_valid = split_of(pl.col("__row"), spec.split_seed) == 1
    numbered = rows.with_row_index("__row").with_columns(number.alias(NUMBER), is_valid.cast(pl.Int8).alias(PART))
    files = pl.PartitionBy(partial, key=[NUMBER, PART], include_key=False, approximate_bytes_per_file=None)
    numbered.drop("__row").sink_parquet(files, mkdir=True, engine="streaming", **PARQUET)
    labels = [_label(value, every in DATED) for value in summary[START]]
    contents = {"options": options, "labels": labels, "rows": summary["rows"].to_list()}
    write_whole(partial / "periods.json", json.dumps(contents, indent=2) + "\n")
    partial.rename(folder)
    log.info(
        "%s: %s rows in %d periods from %s to %s", spec.name, f"{sum(contents['rows']):,}", len(labels), *_ends(labels)
    )


def _rows(spec: DatasetSpec, raw: RawFiles, by: str) -> pl.LazyFrame:
    """The raw columns that the dataset needs, and `by`, of all files, each file once.

    Raises:
        InputError: invalid rows; a column that is a list in some of the splits only.
    """
    columns = [*dict.fromkeys([*spec.columns, by])]
    frames, firsts, read = [], [], set[Path]()
    for split, files in raw.files.items():
        paths = [path for path in files if path not in read]  # valid and test may be the same file
        read.update(paths)
        if not paths:
            continue
        rows = raw.rows(paths, columns, spec.numbers)
        if rows.select(pl.col(SHORT).any()).collect(engine="streaming").item():
            faults.refuse_short_rows(spec, raw, split)
        frames.append(rows.drop(SHORT))
        firsts.append(paths[0])
    rows = alike(frames, firsts)
    return rows if spec.limit_rows is None else rows.head(spec.limit_rows)


def _check_seconds(rows: pl.LazyFrame, by: str) -> None:
    latest = rows.select(moment(pl.col(by)).abs().max()).collect(engine="streaming").item()
    if latest is not None and latest > YEAR_9999:
        raise InputError(
            f"by={by}: {latest:.0f} is not in seconds since 1970; give the width of a period in the column's own unit,"
            " as every=86400000 for days in milliseconds"
        )


def joined(rows: Iterable[int], min_rows: int) -> list[int]:
    """The number of the period of each interval, so that each period has enough rows.

    Args:
        rows: of each interval, in order.
        min_rows: an interval is joined with the next ones until they have so many; what is left at
            the end belongs to the last period.
    """
    numbers, number, collected = [], 0, 0
    for count in rows:
        numbers.append(number)
        collected += count
        if collected >= min_rows:
            number, collected = number + 1, 0
    return [min(place, max(0, number - 1)) for place in numbers]


def _label(start: float, is_date: bool) -> str:
    if is_date:
        return f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}"
    return str(int(start)) if start == int(start) else str(start)


def _ends(labels: list[str]) -> tuple[str, str]:
    return labels[0], labels[-1]
