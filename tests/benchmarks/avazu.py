"""Random csv files of Avazu's shape: its column names, and the lengths and frequencies of values.

    python tests/benchmarks/avazu.py FOLDER ROWS

writes FOLDER/train-00.csv, ..., two million rows per file (about 300 MB). They contain nothing of
the real data.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from criteo import hashed
from rich.progress import track

FILE_ROWS = 2_000_000
# column: number of values n, and the exponent in value = n * u ** exponent, u uniform in [0, 1).
# A larger exponent makes frequencies more uneven. A value is written as eight hex digits.
HASHED = {
    "site_id": (4_737, 6),
    "site_domain": (7_745, 7),
    "site_category": (26, 2),
    "app_id": (8_552, 8),
    "app_domain": (559, 6),
    "app_category": (36, 3),
    "device_id": (2_686_408, 9),
    "device_ip": (6_729_486, 2.5),
    "device_model": (8_251, 4),
}
# the same, and the smallest value; a value is written as a number
NUMBERED = {
    "C1": (7, 3, 1001),
    "banner_pos": (7, 3, 0),
    "device_type": (5, 4, 0),
    "device_conn_type": (4, 3, 0),
    "C14": (2_626, 2, 20_000),
    "C15": (8, 5, 300),
    "C16": (9, 5, 36),
    "C17": (435, 2, 1_800),
    "C18": (4, 1.5, 0),
    "C19": (68, 3, 35),
    "C20": (172, 2, 100_000),
    "C21": (60, 2, 15),
}
COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model"),
    *("device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22))),
)


def write(folder: Path, rows: int) -> list[Path]:
    """Write `rows` rows and return the files.

    The last file can be shorter. The others are the same for every number of rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: hashed(np.arange(count), seed) for seed, (name, (count, _)) in enumerate(HASHED.items())}
    effect = np.random.default_rng(0).normal(size=2**16)
    paths = []
    for part in track(range((rows + FILE_ROWS - 1) // FILE_ROWS), f"writing {rows:,} rows of Avazu's shape"):
        path = folder / f"train-{part:02}.csv"
        _part(np.random.default_rng([1, part]), names, effect).head(rows - part * FILE_ROWS).write_csv(path)
        paths.append(path)
    return paths


def _part(rng: np.random.Generator, names: dict[str, pl.Series], effect: np.ndarray) -> pl.DataFrame:
    drawn = {
        name: (count * rng.random(FILE_ROWS) ** skew).astype(np.int64)
        for name, (count, skew, *_) in {**HASHED, **NUMBERED}.items()
    }
    score = sum(
        0.5 * effect[(drawn[name] * 31 + number) % 2**16]
        for number, name in enumerate(("site_id", "app_id", "C14", "banner_pos"))
    )
    columns = {
        "id": pl.Series(rng.integers(10**18, 2 * 10**18, FILE_ROWS)),
        "click": pl.Series((rng.random(FILE_ROWS) < 1 / (1 + np.exp(1.7 - score))).astype(np.int8)),
        "hour": pl.Series(14_102_100 + rng.integers(0, 10, FILE_ROWS) * 100 + rng.integers(0, 24, FILE_ROWS)),
    }
    columns |= {name: names[name].gather(drawn[name]) for name in HASHED}
    columns |= {name: pl.Series(drawn[name] + first) for name, (_, _, first) in NUMBERED.items()}
    return pl.DataFrame(columns).select(COLUMNS)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), int(sys.argv[2]))
