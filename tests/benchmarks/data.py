"""make bench, the data engine: Avazu-shaped rows, compared with FuxiCTR 2.3.10 and pyarrow alone.

    python tests/benchmarks/data.py [ROWS] [PAIRS]

ROWS is 40400000 and PAIRS is 3 by default. It needs about 10 GB in data/bench.

Every measurement runs in its own process. Both sides of a ratio run in turn, ours first. Rows are
those of all splits. Memory is the largest sum over the process and its children, measured ten times
per second: PSS counts shared pages once, RSS once for each process.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from avazu import COLUMNS, FILE_ROWS, write
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "data" / "bench"
FILES = 4  # of the first two million rows, to compare the engines: ray reads one file per task
FIELDS = [name for name in COLUMNS if name not in ("id", "click")]
AVAZU = {"name": "avazu", "fields": FIELDS, "label": "click", "min_count": 2}
SPLIT_FILES = {split: f"{split}.csv" for split in ("train", "valid", "test")}
THEIRS = ROOT / ".venv-fuxictr" / "bin" / "python"
SIDE = str(Path(__file__).with_name("fuxictr_side.py"))
Measurements = list[tuple[float, float, float]]  # rows per second, and the largest PSS and RSS in GB

PREPARE = """
import json, sys, time
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.spec import DatasetSpec
spec = DatasetSpec.from_config(json.loads(sys.argv[1]))
started = time.perf_counter()
folder = prepare(spec, sys.argv[2])
seconds = time.perf_counter() - started
print(sum(split["rows"] for split in read_manifest(folder)["splits"].values()), seconds)
"""
STREAM = """
import sys, time
from pathlib import Path
from tf4ctr.data.stream import DiskStream
stream = DiskStream(Path(sys.argv[1]), "train", 10_000, shuffle=True, shuffle_rows=500_000)
for epoch in range(2):  # the first is a warm-up
    stream.start_epoch(epoch)
    started = time.perf_counter()
    rows = sum(len(batch.label) for batch in stream)
print(rows, time.perf_counter() - started)
"""


def measure(*command: object) -> tuple[float, float, float]:
    """Run a process that prints `rows seconds`.

    Returns:
        rows per second, and its largest PSS and RSS in GB.
    """
    environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    root, peak = psutil.Process(process.pid), np.zeros(2)
    output = None
    while output is None:
        peak = np.maximum(peak, np.sum([_memory(member) for member in _tree(root)], axis=0))
        try:
            output, errors = process.communicate(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{errors}")
    rows, seconds = printed(output)
    return rows / seconds, *peak / 1e9


def printed(output: str) -> list[float]:
    """The last line that contains only numbers: Ray's processes may print after it."""
    for line in reversed(output.splitlines()):
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError:
            continue
        if numbers:
            return numbers
    raise SystemExit(f"no line of numbers in\n{output}")


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> tuple[int, int]:
    """PSS and RSS in bytes; 0 if the process has ended."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0, 0
    return memory.pss, memory.rss


def check_equal(one: Path, other: Path) -> None:
    """Stop if two prepared folders differ in the bytes of the vocabularies, or in the rows."""
    for path in sorted((one / "vocabulary").iterdir()):
        assert path.read_bytes() == (other / "vocabulary" / path.name).read_bytes(), path
    for split in ("train", "valid", "test"):
        assert pl.read_parquet(one / f"{split}.parquet").equals(pl.read_parquet(other / f"{split}.parquet")), split


def fresh(name: str) -> Path:
    """The path of a folder in WORK that does not exist; an existing one is removed."""
    subprocess.run(["rm", "-rf", WORK / name], check=True)
    return WORK / name


def preparation(config: dict, raw: Path, folder: Path, files: dict[str, str], engine: str = "polars") -> list[str]:
    """Our command that prepares `files` of `raw`: of each split, or of all."""
    folders = {"raw_dir": str(raw), "prepared_dir": str(folder)}
    layouts = {"layouts": [{"reader": "csv", **files}]}
    return [sys.executable, "-c", PREPARE, json.dumps({**config, **folders, **layouts}), engine]


def streaming(folder: Path) -> list[object]:
    """Our command that reads the training rows of a prepared dataset."""
    return [sys.executable, "-c", STREAM, folder]


def require_fuxictr() -> None:
    """Stop if FuxiCTR's environment does not exist."""
    if not THEIRS.exists():
        raise SystemExit(f"{THEIRS} does not exist: run make bench, which builds it")


def compare(config: dict, raw: Path, pairs: int, block: int = 100_000) -> dict[str, Measurements]:
    """Prepare the splits in `raw` and read the training rows, with us and with FuxiCTR in turn.

    Args:
        config: of the dataset, without its folders and files.
        block: rows of FuxiCTR's parquet files. It refuses a split with fewer rows.
    """
    results: dict[str, Measurements] = {}
    ids = [field for field in config["fields"] if isinstance(field, str)]
    numbers = [field["name"] for field in config["fields"] if not isinstance(field, str)]
    columns = (",".join(ids), config["label"], block, ",".join(numbers))
    for _ in range(pairs):
        for name, command in {
            "prepare, ours": preparation(config, raw, fresh("ours"), SPLIT_FILES),
            "prepare, FuxiCTR": (THEIRS, SIDE, "prepare", raw, fresh("fuxictr"), *columns),
            "stream, ours": streaming(WORK / "ours"),
            "stream, FuxiCTR": (THEIRS, SIDE, "stream", WORK / "fuxictr"),
            "decode, pyarrow": (THEIRS, SIDE, "decode", WORK / "ours" / "train.parquet"),
        }.items():
            results.setdefault(name, []).append(measure(*command))
    return results


def main(rows: int = 40_400_000, pairs: int = 3) -> None:
    """Measure all, print the figures and their ratios."""
    require_fuxictr()
    files = write(WORK / "raw", rows) if len(list((WORK / "raw").glob("*.csv"))) != -(-rows // FILE_ROWS) else []
    small = WORK / "small"
    small.mkdir(exist_ok=True)
    first = pl.read_csv(WORK / "raw" / "train-00.csv", infer_schema=False)
    bounds = [0, *(int(share * len(first)) for share in (0.8, 0.9, 1))]
    for split, (start, end) in zip(("train", "valid", "test"), pairwise(bounds), strict=True):
        first[start:end].write_csv(small / f"{split}.csv")
    results = compare(AVAZU, small, pairs)
    parts = WORK / "parts"
    parts.mkdir(exist_ok=True)
    for number in range(FILES):
        first[len(first) * number // FILES : len(first) * (number + 1) // FILES].write_csv(parts / f"part-{number}.csv")
    for _ in range(pairs):
        for engine in ("polars", "ray"):
            command = preparation(AVAZU, parts, fresh(engine), {"all": "part-*.csv"}, engine)
            results.setdefault(f"prepare {FILES} files, engine={engine}", []).append(measure(*command))
    check_equal(WORK / "polars", WORK / "ray")
    started = time.perf_counter()
    command = preparation(AVAZU, WORK / "raw", fresh("all"), {"all": "train-*.csv"})
    results["prepare, ours, all"] = [measure(*command)]
    all_seconds = time.perf_counter() - started
    results["stream, ours, all"] = [measure(*streaming(WORK / "all")) for _ in range(pairs)]

    console = Console(width=140)
    console.print(figures(results))
    ratios = against_fuxictr(results)
    engines = (f"prepare {FILES} files, engine={engine}" for engine in ("ray", "polars"))
    for what, above, below, column in (
        (f"preparation, rows per second: {rows:,} / {FILE_ROWS:,} rows", "prepare, ours, all", "prepare, ours", 0),
        ("preparation, rows per second: engine=ray / polars, one machine", *engines, 0),
        (f"streaming, memory (RSS): {rows:,} / {FILE_ROWS:,} rows", "stream, ours, all", "stream, ours", 2),
    ):
        ratios.add_row(what, ratio(results, above, below, column))
    console.print(ratios)
    console.print(f"{rows:,} rows in {len(files) or 'no'} new files, prepared in {all_seconds:.0f} s")


def figures(results: dict[str, Measurements]) -> Table:
    """The table of all measurements."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("polars", "torch"))
    machine = f"{os.cpu_count()} cores {platform.machine()}"
    title = f"{versions}, FuxiCTR 2.3.10, {machine}; medians (smallest to largest)"
    table = table_of(title, "work", "million rows/s", "peak PSS, GB", "peak RSS, GB")
    for name, measurements in results.items():
        table.add_row(name, *(spread(values) for values in (np.array(measurements) / [1e6, 1, 1]).T))
    return table


def against_fuxictr(results: dict[str, Measurements]) -> Table:
    """The table of the ratios of `compare`."""
    table = table_of("ratios, pair by pair: median (smallest to largest)", "ratio", "measured")
    for what, work, theirs, column in (
        ("preparation, rows per second: ours / FuxiCTR", "prepare", "prepare, FuxiCTR", 0),
        ("preparation, memory (PSS): ours / FuxiCTR", "prepare", "prepare, FuxiCTR", 1),
        ("preparation, memory (RSS): ours / FuxiCTR", "prepare", "prepare, FuxiCTR", 2),
        ("streaming, rows per second: ours / FuxiCTR", "stream", "stream, FuxiCTR", 0),
        ("streaming, rows per second: ours / pyarrow's bare decode", "stream", "decode, pyarrow", 0),
    ):
        table.add_row(what, ratio(results, f"{work}, ours", theirs, column))
    return table


def ratio(results: dict[str, Measurements], above: str, below: str, column: int) -> str:
    """The spread of a ratio, pair by pair; a single measurement belongs to every pair."""
    both = zip(results[above], results[below] * len(results[above]), strict=False)
    return spread(np.array([one[column] / other[column] for one, other in both]))


def table_of(title: str, first: str, *others: str) -> Table:
    """A table with numbers in its other columns."""
    table = Table(title=title)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def spread(values: np.ndarray) -> str:
    """The text `median (smallest to largest)`."""
    return f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
