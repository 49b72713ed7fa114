"""Random rows of the shape of Taobao's display advertising: 14 ids, a price, and two histories.

    python tests/benchmarks/taobao.py FOLDER ROWS

writes FOLDER/train.csv, valid.csv and test.csv (8:1:1), about 320 MB per million rows. They contain
nothing of the real data, and the label depends on nothing.

A history has 0 to 50 ads, and a second one has their categories. The ads of a training row's
history are those of other training rows: values that only occur in histories have table rows in
FuxiCTR and not here, and the tables of both would differ.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.progress import track

PART_ROWS = 100_000  # drawn at a time
WIDTH = 50  # the longest history
# Column: number of values n, and skew. A value is n * u ** skew, u uniform in [0, 1). A larger skew
# makes frequencies more uneven.
USER, AD = ("userid", 200_000, 1.5), ("adgroup_id", 500_000, 2.0)
OF_USER = {  # each user has one value
    "cms_segid": (97, 2.0),
    "cms_group_id": (13, 1.5),
    "final_gender_code": (2, 0.6),
    "age_level": (7, 1.0),
    "pvalue_level": (4, 1.5),
    "shopping_level": (3, 0.3),
    "occupation": (2, 4.0),
    "new_user_class_level": (5, 1.5),
}
OF_AD = {"cate_id": (10_000, 3.0), "campaign_id": (300_000, 1.5), "customer": (200_000, 1.5), "brand": (80_000, 2.5)}
IDS = [USER[0], *OF_USER, AD[0], *OF_AD]
HISTORIES = {"adgroup_his": "adgroup_id", "cate_his": "cate_id"}  # and the field whose values they have
SEPARATOR = "^"
# How these rows are declared as a dataset, without its folders and files.
ROWS = {
    "name": "taobao",
    "fields": [
        *IDS,
        {"name": "price", "kind": "number"},
        *(
            {"name": name, "kind": "sequence", "of": field, "separator": SEPARATOR, "width": WIDTH}
            | ({} if name == "adgroup_his" else {"aligned_with": "adgroup_his"})
            for name, field in HISTORIES.items()
        ),
    ],
    "label": "clk",
}
# The same of a log: the last 50 clicks of a user as items, categories, and times before the row.
EVENTS = {
    "name": "events",
    "fields": ["user", "item", "category"],
    "label": "click",
    "group": "user",
    "layouts": [{"reader": "parquet", "all": "events-*.parquet"}],
    "split": {"by": "time", "valid": 0.1, "test": 0.1},
    "histories": [
        {"name": "clicked", "of": "item", "by": "user", "order": "time", "where": {"label": 1}, "width": WIDTH},
        {"name": "clicked_category", "of": "category", "aligned_with": "clicked"},
        {"name": "since", "gaps": True, "aligned_with": "clicked"},
    ],
}
EVENT_ROWS = 5_000_000  # of a file of events
SPAN = 10_000_000  # seconds from the first event to the last one


def write(folder: Path, rows: int) -> Path:
    """Write `rows` rows and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": rows - rows // 10 * 2, "valid": rows // 10, "test": rows // 10}
    parts = [(split, first) for split, size in sizes.items() for first in range(0, size, PART_ROWS)]
    for split, first in track(parts, f"writing {rows:,} rows of Taobao's shape"):
        part = _part(np.random.default_rng([list(sizes).index(split), first]), min(PART_ROWS, sizes[split] - first))
        with (folder / f"{split}.csv").open("ab" if first else "wb") as file:
            part.write_csv(file, include_header=first == 0)
    return folder


def write_events(folder: Path, rows: int) -> Path:
    """Write a log of `rows` events in no order, 40 per user, as parquet, and return the folder.

    Its columns are click, user, item, category and time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, rows, EVENT_ROWS)):
        rng, size = np.random.default_rng(number), min(EVENT_ROWS, rows - first)
        item = _skewed(rng.random(size), 100_000, 3.0)
        columns = {
            "click": rng.integers(0, 2, size),
            "user": rng.integers(0, max(1, rows // 40), size),
            "item": item,
            "category": _skewed(_fixed(item, 0), 300, 1.0),
            "time": 1_500_000_000 + rng.integers(0, SPAN, size),
        }
        pl.DataFrame(columns).write_parquet(folder / f"events-{number}.parquet")
    return folder


def _part(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    user, ad = (_skewed(rng.random(rows), count, skew) for _, count, skew in (USER, AD))
    lengths = rng.integers(0, WIDTH + 1, rows)
    past = _columns(AD[0], ad[rng.integers(0, rows, lengths.sum())], OF_AD)
    return pl.DataFrame(
        {
            "clk": (rng.random(rows) < 0.05).astype(np.int8),
            **_columns(USER[0], user, OF_USER),
            **_columns(AD[0], ad, OF_AD),
            "price": np.round(10 * 200 ** _fixed(ad, len(OF_AD)), 2),
            **{name: _joined(past[field], lengths) for name, field in HISTORIES.items()},
        }
    )


def _columns(
    name: str, values: NDArray[np.int64], others: dict[str, tuple[int, float]]
) -> dict[str, NDArray[np.int64]]:
    """The column `name`, and those whose values depend on its values alone."""
    sizes = enumerate(others.items())
    return {name: values, **{other: _skewed(_fixed(values, seed), *size) for seed, (other, size) in sizes}}


def _skewed(u: NDArray[np.float64], count: int, skew: float) -> NDArray[np.int64]:
    return (count * u**skew).astype(np.int64)


def _fixed(values: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A number of [0, 1) for each value, always the same one."""
    mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0x632BE5AB)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)) / 2.0**53


def _joined(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> pl.Series:
    """The values of each row, as one text."""
    row = pl.Series(np.repeat(np.arange(len(lengths)), lengths))
    texts = pl.DataFrame({"row": row, "value": pl.Series(values).cast(pl.String)})
    joined = texts.group_by("row", maintain_order=True).agg(pl.col("value").str.join(SEPARATOR))
    rows = pl.DataFrame({"row": np.arange(len(lengths))})
    return rows.join(joined, "row", how="left", maintain_order="left")["value"]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), int(sys.argv[2]))
