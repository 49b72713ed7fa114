"""Random csv files of Criteo's shape: its columns, gaps, and the frequencies of values.

    python tests/benchmarks/criteo.py FOLDER ROWS

writes FOLDER/train.csv, valid.csv and test.csv (8:1:1), about 250 MB per million rows. They contain
nothing of the real data, and the label depends on nothing.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from rich.progress import track

PART_ROWS = 250_000  # drawn at a time
# Column: center c, spread s, largest value, and share of gaps. A value is floor(c * exp(s * z)),
# z normal.
NUMBERS = {
    "I1": (2, 1.0, 5_775, 0.45),
    "I2": (6, 2.4, 257_675, 0),
    "I3": (7, 1.5, 65_535, 0.21),
    "I4": (5, 1.1, 969, 0.22),
    "I5": (2_811, 1.9, 23_159_456, 0.03),
    "I6": (33, 1.7, 431_037, 0.22),
    "I7": (4, 1.6, 56_311, 0.04),
    "I8": (8, 1.2, 6_047, 0.0005),
    "I9": (39, 1.5, 29_019, 0.04),
    "I10": (1.1, 0.5, 11, 0.45),
    "I11": (2, 1.0, 231, 0.04),
    "I12": (0.6, 1.3, 4_008, 0.77),
    "I13": (5, 1.2, 7_393, 0.22),
}
LOWEST = {"I2": -2}  # added to the values
# Columns with more gaps than this have a decimal point, as pandas writes whole numbers with gaps.
DECIMAL_GAPS = 0.2
# Column: number of values, number n of frequent ones, skew, and share of gaps. A value is
# n * u ** skew, u uniform in [0, 1), or rare. A larger skew makes frequencies more uneven. 37
# million training rows have Criteo's vocabulary sizes at min_count 10.
IDS = {
    "C1": (1_460, 1_444, 9, 0),
    "C2": (583, 552, 3, 0),
    "C3": (10_131_227, 157_337, 4.6, 0.035),
    "C4": (2_202_608, 117_820, 4, 0.035),
    "C5": (305, 304, 14, 0),
    "C6": (24, 16, 4.3, 0.12),
    "C7": (12_517, 11_880, 2.4, 0),
    "C8": (633, 628, 12.6, 0),
    "C9": (3, 3, 9.4, 0),
    "C10": (93_145, 39_528, 7.9, 0),
    "C11": (5_683, 5_129, 2.2, 0),
    "C12": (8_351_593, 156_654, 4.3, 0.035),
    "C13": (3_194, 3_174, 2.1, 0),
    "C14": (27, 26, 3.2, 0),
    "C15": (14_992, 11_041, 2.4, 0),
    "C16": (5_461_306, 148_911, 4, 0.035),
    "C17": (10, 10, 3, 0),
    "C18": (5_652, 4_558, 3, 0),
    "C19": (2_173, 2_001, 12.7, 0.44),
    "C20": (4, 3, 1.2, 0.44),
    "C21": (7_046_547, 154_562, 4.1, 0.035),
    "C22": (18, 16, 3.4, 0.76),
    "C23": (15, 15, 3.9, 0),
    "C24": (286_181, 53_029, 4.5, 0.035),
    "C25": (105, 80, 4, 0.44),
    "C26": (142_572, 40_953, 4.8, 0.44),
}
RARE = 20_000_000  # rows in which a rare value occurs once, on average
HEX = pl.Series([f"{number:04x}" for number in range(2**16)])


def write(folder: Path, rows: int) -> Path:
    """Write `rows` rows and return the folder.

    The rows of a split are the first ones of the same split of a larger dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": rows - rows // 10 * 2, "valid": rows // 10, "test": rows // 10}
    parts = [(split, first) for split, size in sizes.items() for first in range(0, size, PART_ROWS)]
    for split, first in track(parts, f"writing {rows:,} rows of Criteo's shape"):
        part = _part(np.random.default_rng([list(sizes).index(split), first]))
        with (folder / f"{split}.csv").open("ab" if first else "wb") as file:
            part.head(sizes[split] - first).write_csv(file, include_header=first == 0)
    return folder


def hashed(values: np.ndarray | pl.Series, seed: int) -> pl.Series:
    """Numbers below 2^32 -> texts of eight hex digits; a gap stays one.

    Different numbers give different texts, because an odd factor permutes the 32-bit numbers.
    """
    numbers = (pl.Series(values).cast(pl.UInt64) * 2_654_435_761 + seed * 97_531) % 2**32
    return pl.select(pl.concat_str(HEX.gather(numbers // 2**16), HEX.gather(numbers % 2**16))).to_series()


def _part(rng: np.random.Generator) -> pl.DataFrame:
    columns = {"label": pl.Series((rng.random(PART_ROWS) < 0.256).astype(np.int8))}
    for name, (center, spread, largest, gaps) in NUMBERS.items():
        values = np.minimum(np.floor(center * np.exp(spread * rng.normal(size=PART_ROWS))), largest)
        dtype = pl.Float64 if gaps > DECIMAL_GAPS else pl.Int64
        columns[name] = _with_gaps(rng, values + LOWEST.get(name, 0), gaps).cast(dtype)
    for seed, (name, (count, frequent, skew, gaps)) in enumerate(IDS.items()):
        u, rare = rng.random(PART_ROWS), count / RARE
        values = np.where(u < rare, u * RARE, frequent * ((u - rare) / (1 - rare)).clip(0) ** skew)
        columns[name] = hashed(_with_gaps(rng, values.astype(np.int64), gaps), seed)
    return pl.DataFrame(columns)


def _with_gaps(rng: np.random.Generator, values: np.ndarray, share: float) -> pl.Series:
    return pl.select(pl.when(pl.Series(rng.random(len(values)) >= share)).then(pl.Series(values))).to_series()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), int(sys.argv[2]))
