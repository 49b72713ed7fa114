"""make bench, numbers beside ids: Criteo-shaped rows, compared with FuxiCTR and bare products.

    python tests/benchmarks/criteo_data.py [ROWS] [PAIRS] [SMALL_ROWS]

SMALL_ROWS (2000000 by default) are prepared and streamed, with us and with FuxiCTR 2.3.10 in turn,
PAIRS (3) times. ROWS (20000000) are prepared and streamed with us alone, if they are more. At the
end our training step and its matrix products alone are timed in this process. It needs about 9 GB
in data/bench.

The fields are those of conf/dataset/criteo_numbers.yaml. FuxiCTR has them as numeric (standardised,
0 for a gap) and categorical. data.py describes how rows and memory are measured.
"""

import sys
from pathlib import Path
from typing import Any

import criteo
import torch
from bench import make_module, step
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

import data
import training
from data import WORK, fresh
from tf4ctr.cli import keep_memory
from tf4ctr.data.stream import DiskStream

PRODUCTS = "its products by oneDNN"


def config() -> dict[str, Any]:
    """The dataset, without its folders and files."""
    fields = OmegaConf.load(data.ROOT / "conf" / "dataset" / "criteo_numbers.yaml").fields
    return {"name": "criteo", "fields": OmegaConf.to_container(fields), "label": "label", "min_count": 2}


def raw_files(rows: int) -> Path:
    """The folder of `rows` rows, written unless it exists."""
    folder = WORK / f"criteo-{rows}"
    return folder if folder.exists() else criteo.write(fresh("criteo-unfinished"), rows).rename(folder)


def steps(prepared: Path) -> Table:
    """The seconds of a training step in fp32 on a batch of `prepared`, and of its products.

    `embedding=dense` updates the whole table, `embedding=rowwise` the rows of the batch.
    """
    stream = DiskStream(prepared, "train", training.BATCH, shuffle=True, shuffle_rows=training.BATCH)
    batch, schema = next(iter(stream)), stream.schema
    works = {
        f"a training step, embedding={name}": step(make_module(schema, sparse=name == "rowwise"), batch)
        for name in ("dense", "rowwise")
    }
    seconds = training.in_turn({**works, **training.products(schema.num_fields)})
    title = f"{len(batch.label):,} rows, a table of {schema.num_ids:,} values, {torch.get_num_threads()} threads, fp32"
    table = data.table_of(title, "work", "seconds, and ratios")
    for name, values in seconds.items():
        table.add_row(name, data.spread(values))
    for name in works:
        table.add_row(f"{name} / {PRODUCTS}", data.spread(seconds[name] / seconds[PRODUCTS]))
    return table


def main(rows: int = 20_000_000, pairs: int = 3, small: int = 2_000_000) -> None:
    """Measure all, print the figures and their ratios."""
    data.require_fuxictr()
    results = data.compare(config(), raw_files(small), pairs, block=min(100_000, small // 10))
    ratios = data.against_fuxictr(results)
    if rows > small:
        command = data.preparation(config(), raw_files(rows), fresh("all"), data.SPLIT_FILES)
        results["prepare, ours, all"] = [data.measure(*command)]
        results["stream, ours, all"] = [data.measure(*data.streaming(WORK / "all")) for _ in range(pairs)]
        for what, work, column in (
            ("preparation, rows per second", "prepare, ours", 0),
            ("preparation, memory (PSS)", "prepare, ours", 1),
            ("streaming, memory (RSS)", "stream, ours", 2),
        ):
            ratios.add_row(f"{what}: {rows:,} / {small:,} rows", data.ratio(results, f"{work}, all", work, column))
    console = Console(width=140)
    console.print(data.figures(results))
    console.print(ratios)
    keep_memory()
    console.print(steps(WORK / "ours"))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
