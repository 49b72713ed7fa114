"""make bench, the data engine: Avazu-shaped rows, compared with FuxiCTR 2.3.10 and pyarrow alone.

    python tests/benchmarks/data.py [ROWS] [PAIRS]

ROWS is 40400000 and PAIRS is 3 by default. It needs about 10 GB in data/bench.

Every measurement runs in its own process. Both sides of a ratio run in turn, ours first. Rows are
those of all splits. Memory is the largest sum over the process and its children, measured ten times
per second: PSS counts shared pages once, RSS once for each process.
"""

import importlib.metadata
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
THEIRS = ROOT / ".venv-fuxictr" / "bin" / "python"
SIDE = str(Path(__file__).with_name("fuxictr_side.py"))

PREPARE = """
import sys, time
from pathlib import Path
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.spec import DatasetSpec
raw, folder, fields, layout, engine = [*sys.argv[1:], "polars"][:5]
files = {"all": layout} if layout != "splits" else {split: f"{split}.csv" for split in ("train", "valid", "test")}
spec = DatasetSpec.from_config({"name": "avazu", "raw_dir": raw, "prepared_dir": folder, "fields": fields.split(","),
    "label": "click", "min_count": 2, "layouts": [{"reader": "csv", **files}]})
started = time.perf_counter()
prepare(spec, engine)
seconds = time.perf_counter() - started
print(sum(split["rows"] for split in read_manifest(Path(folder))["splits"].values()), seconds)
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


def main(rows: int = 40_400_000, pairs: int = 3) -> None:
    """Measure all, print the figures and their ratios."""
    if not THEIRS.exists():
        raise SystemExit(f"{THEIRS} does not exist: run make bench, which builds it")
    files = write(WORK / "raw", rows) if len(list((WORK / "raw").glob("*.csv"))) != -(-rows // FILE_ROWS) else []
    small = WORK / "small"
    small.mkdir(exist_ok=True)
    first = pl.read_csv(WORK / "raw" / "train-00.csv", infer_schema=False)
    bounds = [0, *(int(share * len(first)) for share in (0.8, 0.9, 1))]
    for split, (start, end) in zip(("train", "valid", "test"), pairwise(bounds), strict=True):
        first[start:end].write_csv(small / f"{split}.csv")
    fields, ours = ",".join(FIELDS), [sys.executable, "-c"]

    results: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(pairs):
        for name, command in {
            "prepare, ours": (*ours, PREPARE, small, fresh("ours"), fields, "splits"),
            "prepare, FuxiCTR": (THEIRS, SIDE, "prepare", small, fresh("fuxictr"), fields),
            "stream, ours": (*ours, STREAM, WORK / "ours"),
            "stream, FuxiCTR": (THEIRS, SIDE, "stream", WORK / "fuxictr", fields),
            "decode, pyarrow": (THEIRS, SIDE, "decode", WORK / "ours" / "train.parquet"),
        }.items():
            results.setdefault(name, []).append(measure(*command))
    parts = WORK / "parts"
    parts.mkdir(exist_ok=True)
    for number in range(FILES):
        first[len(first) * number // FILES : len(first) * (number + 1) // FILES].write_csv(parts / f"part-{number}.csv")
    for _ in range(pairs):
        for engine in ("polars", "ray"):
            command = (*ours, PREPARE, parts, fresh(engine), fields, "part-*.csv", engine)
            results.setdefault(f"prepare {FILES} files, engine={engine}", []).append(measure(*command))
    check_equal(WORK / "polars", WORK / "ray")
    started = time.perf_counter()
    results["prepare, ours, all"] = [measure(*ours, PREPARE, WORK / "raw", fresh("all"), fields, "train-*.csv")]
    all_seconds = time.perf_counter() - started
    results["stream, ours, all"] = [measure(*ours, STREAM, WORK / "all") for _ in range(pairs)]

    console = Console(width=140)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("polars", "torch"))
    table = Table(
        title=f"{versions}, FuxiCTR 2.3.10, {os.cpu_count()} cores {platform.machine()}; medians (smallest to largest)"
    )
    for column in ("work", "million rows/s", "peak PSS, GB", "peak RSS, GB"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, measurements in results.items():
        table.add_row(name, *(spread(values) for values in (np.array(measurements) / [1e6, 1, 1]).T))
    console.print(table)

    ratios = Table(title="ratios, pair by pair: median (smallest to largest)")
    for column in ("ratio", "measured"):
        ratios.add_column(column, justify="left" if column == "ratio" else "right")

    def ratio(what: str, above: str, below: str, column: int) -> None:
        pairs_ = zip(results[above], results[below] * len(results[above]), strict=False)
        ratios.add_row(what, spread(np.array([a[column] / b[column] for a, b in pairs_])))

    ratio("preparation, rows per second: ours / FuxiCTR", "prepare, ours", "prepare, FuxiCTR", 0)
    ratio("preparation, memory (PSS): ours / FuxiCTR", "prepare, ours", "prepare, FuxiCTR", 1)
    ratio("preparation, memory (RSS): ours / FuxiCTR", "prepare, ours", "prepare, FuxiCTR", 2)
    ratio(f"preparation, rows per second: {rows:,} / {FILE_ROWS:,} rows", "prepare, ours, all", "prepare, ours", 0)
    ratio(
        "preparation, rows per second: engine=ray / polars, one machine",
        *(f"prepare {FILES} files, engine={e}" for e in ("ray", "polars")),
        0,
    )
    ratio("streaming, rows per second: ours / FuxiCTR", "stream, ours", "stream, FuxiCTR", 0)
    ratio("streaming, rows per second: ours / pyarrow's bare decode", "stream, ours", "decode, pyarrow", 0)
    ratio(f"streaming, memory (RSS): {rows:,} / {FILE_ROWS:,} rows", "stream, ours, all", "stream, ours", 2)
    console.print(ratios)
    console.print(f"{rows:,} rows in {len(files) or 'no'} new files, prepared in {all_seconds:.0f} s")


def spread(values: np.ndarray) -> str:
    """The text `median (smallest to largest)`."""
    return f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
