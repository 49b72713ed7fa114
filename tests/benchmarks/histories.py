"""make bench, histories: DIN on Taobao-shaped rows, compared with FuxiCTR and DeepCTR-Torch.

    python tests/benchmarks/histories.py [ROWS] [PAIRS] [EVENTS] [MANY_EVENTS]

- ROWS (1000000 by default) are prepared once, and streamed PAIRS (3) times, with us and with
  FuxiCTR 2.3.10 in turn.
- DIN takes STEPS steps on them with us, FuxiCTR and DeepCTR-Torch 0.3.0 in turn, PAIRS times:
  "alone" on batches that are in memory, and "in its loop", with the library's own loop and loader.
- EVENTS (1000000) events of a log are prepared with us, their histories included, PAIRS times.
  MANY_EVENTS (0: none) are prepared once.
- Our steps with sequence=mean and sequence=attention are timed in this process, for histories of up
  to 50, 200 and 1,000 positions.

It needs about 1 GB in data/bench, and 2 GB more for 20 million events. data.py describes how rows
and memory are measured. All sides of DIN have the same rows, sizes, batch size, optimiser and
number of threads. The benchmark stops if their numbers of parameters differ by more than 1%.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import taobao
import tf4ctr_side
import torch
from bench import step
from rich.console import Console
from rich.table import Table

import data
import training
from data import WORK, fresh, spread, table_of
from tf4ctr.cli import keep_memory

BATCH, WARM, STEPS = 4_096, 4, 16  # the first WARM steps are not timed
WIDTHS = (50, 200, 1_000)
SIDES = {name: Path(__file__).with_name(f"{name}_side.py") for name in ("tf4ctr", *training.PEERS)}
OURS = ("ours", "ours, embedding=rowwise")  # rowwise updates the rows of the batch only


def written(name: str, rows: int, write: Callable[[Path, int], Path]) -> Path:
    """The folder of `rows` rows, written unless it exists."""
    folder = WORK / f"{name}-{rows}"
    return folder if folder.exists() else write(fresh(f"{name}-unfinished"), rows).rename(folder)


def streams(rows: int, pairs: int) -> dict[str, data.Measurements]:
    """Prepare the rows with us and with FuxiCTR, then read the training rows in turn."""
    raw, ours, theirs = written("taobao", rows, taobao.write), fresh("taobao-ours"), fresh("taobao-fuxictr")
    side = (data.THEIRS, SIDES["fuxictr"])
    histories = ",".join(f"{name}={field}" for name, field in taobao.HISTORIES.items())
    columns = (",".join(taobao.IDS), taobao.ROWS["label"], min(100_000, rows // 10), "price", histories)
    prepare: dict[str, Sequence[object]] = {
        "prepare, ours": data.preparation(taobao.ROWS, raw, ours, data.SPLIT_FILES),
        "prepare, FuxiCTR": (*side, "prepare", raw, theirs, *columns),
    }
    results = {name: [data.measure(*command)] for name, command in prepare.items()}
    for _ in range(pairs):
        for name, command in {
            "stream, ours": data.streaming(ours),
            "stream, FuxiCTR": (*side, "stream", theirs),
            "decode, pyarrow": (*side, "decode", ours / "train.parquet"),
        }.items():
            results.setdefault(name, []).append(data.measure(*command))
    return results


def din(pairs: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Train DIN on what `streams` prepared.

    Returns:
        for each side the seconds of a step alone and in its loop, and its parameters: [PAIRS, 3].
    """
    sizes, ours, theirs = (BATCH, WARM, steps), WORK / "taobao-ours", WORK / "taobao-fuxictr"
    us = (sys.executable, SIDES["tf4ctr"], "din", ours, *sizes)
    commands: dict[str, Sequence[object]] = {
        OURS[0]: us,
        "FuxiCTR": (training.PEERS["fuxictr"], SIDES["fuxictr"], "din", theirs, *sizes),
        OURS[1]: (*us, "embedding=rowwise"),
        "DeepCTR-Torch": (training.PEERS["deepctr"], SIDES["deepctr"], "din", ours, *sizes),
    }
    results: dict[str, list[list[float]]] = {name: [] for name in commands}
    for pair in range(pairs):
        for name, command in commands.items():
            results[name].append(training.measure(*command))
            alone, loop, parameters = results[name][-1]
            print(f"pair {pair + 1}, {name}: {alone:.4g} and {loop:.4g} s, {parameters:,.0f} parameters")
            assert abs(parameters / results[OURS[0]][0][2] - 1) < 0.01
    return {name: np.array(measurements) for name, measurements in results.items()}


def din_tables(results: dict[str, np.ndarray]) -> list[Table]:
    """The tables of `din`: steps per second, and their ratios."""
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    title = f"DIN, batch {BATCH:,}, {threads}; medians (smallest to largest)"
    rates = table_of(title, "side", "steps/s alone", "steps/s in its loop")
    for name, measured in results.items():
        rates.add_row(name, *map(spread, 1 / measured[:, :2].T))
    ratios = table_of("ratios, pair by pair: median (smallest to largest)", "ratio", "alone", "in its loop")
    for peer in ("FuxiCTR", "DeepCTR-Torch"):
        for name in OURS:
            ratios.add_row(f"steps/s: {name} / {peer}", *map(spread, (results[peer] / results[name])[:, :2].T))
    return [rates, ratios]


def log(events: int, many: int, pairs: int) -> Table:
    """Prepare logs: the table of their rates and memory."""
    table = table_of(f"histories of {taobao.WIDTH} from a log", "events", "seconds", "million events/s", "peak PSS, GB")
    rates = []
    for size, times in {events: pairs, many: 1}.items() if many else {events: pairs}.items():
        raw = written("events", size, taobao.write_events)
        measured = []
        for _ in range(times):
            folders = {"raw_dir": str(raw), "prepared_dir": str(fresh("events-ours"))}
            config = json.dumps(taobao.EVENTS | folders)
            measured.append(data.measure(sys.executable, "-c", data.PREPARE, config, "polars"))
        rate, memory, _ = np.array(measured).T
        table.add_row(f"{size:,}", *map(spread, (size / rate, rate / 1e6, memory)))
        rates.append(rate)
    if many:
        table.add_row(f"rate of {many:,} / {events:,}", "", spread(rates[1] / rates[0]), "")
    return table


def widths() -> Table:
    """The table of the seconds of our step by encoder and width."""
    counts = {taobao.USER[0]: taobao.USER[1], taobao.AD[0]: taobao.AD[1]}
    counts |= {name: count for name, (count, _) in {**taobao.OF_USER, **taobao.OF_AD}.items()}
    title = f"seconds of our step, batch {BATCH:,}, two aligned histories of 0 to L positions"
    table = table_of(title, "L", "sequence=mean", "sequence=attention", "attention / mean")
    for width in WIDTHS:
        schema, batch = tf4ctr_side.random_rows(counts, taobao.HISTORIES, width, BATCH)
        ways = {"mean": ("sequence=mean",), "attention": tf4ctr_side.DIN}
        seconds = training.in_turn({name: step(tf4ctr_side.build(schema, *way), batch) for name, way in ways.items()})
        ratio = seconds["attention"] / seconds["mean"]
        table.add_row(f"{width:,}", *map(spread, (seconds["mean"], seconds["attention"], ratio)))
    return table


def main(rows: int = 1_000_000, pairs: int = 3, events: int = 1_000_000, many: int = 0) -> None:
    """Measure all, print the figures and their ratios."""
    if missing := [str(path) for path in training.PEERS.values() if not path.exists()]:
        raise SystemExit(f"{', '.join(missing)} missing: run make bench, which builds the environments")
    console = Console(width=140)
    results = streams(rows, pairs)
    console.print(data.figures(results))
    console.print(data.against_fuxictr(results))
    for table in din_tables(din(pairs, min(STEPS, rows // BATCH // 2))):
        console.print(table)
    console.print(log(events, many, pairs))
    keep_memory()
    console.print(widths())


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
