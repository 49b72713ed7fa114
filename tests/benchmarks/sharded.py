"""make bench: a step with embedding=sharded on two ranks, by the table's size and beside TorchRec.

    python tests/benchmarks/sharded.py [PAIRS]

- A step over 5 million rows, and over 500 thousand, in turn, PAIRS (3) times.
- A step of TorchRec 1.8.0's table-wise EmbeddingCollection over 5 million rows, with the same ids
  and the same network, and with its rowwise Adagrad. Ours is RowwiseAdam, which reads and writes
  two moments per number of the table; rowwise Adagrad has one moment per row.

two_ranks.py describes batches and network. It needs 2 cores that nothing else uses, and 2 GB.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import two_ranks
from rich.console import Console
from torch import Tensor

from data import spread, table_of
from tf4ctr.data.schema import Field, Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.training.optim import RowwiseAdam

HERE = Path(__file__).parent
TORCHREC = HERE.parents[1] / ".venv-torchrec" / "bin" / "python"
MANY, FEW = 5_000_000, 500_000
# freed memory is kept on both sides, as train.py does (tf4ctr.cli.keep_memory)
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def build(values: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """See two_ranks.Build."""
    schema = Schema("wide", tuple(Field(f"field{number}", values) for number in range(two_ranks.FIELDS)), "click")
    table = FieldEmbedding(schema, two_ranks.DIM, sharded=True)
    table.place()
    optimizer, offset_F = RowwiseAdam(table.parameters(), lr=1e-3), table.weight.new_tensor(schema.offsets).int()
    return lambda ids_BF: table(ids_BF.int() + offset_F), optimizer.step


def seconds(python: Path | str, script: str, values: int) -> float:
    """The seconds of a step that a script prints."""
    command = [str(python), str(HERE / script), str(values), *(["ours"] if script == Path(__file__).name else [])]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | MALLOC).stdout
    return float(printed.split()[-1])


def main(pairs: int = 3) -> None:
    """Measure the sides in turn, print seconds and ratios."""
    if not TORCHREC.exists():
        raise SystemExit(f"{TORCHREC} is missing: run make bench, which builds the environment")
    ours = partial(seconds, sys.executable, Path(__file__).name)
    sides = {
        f"ours, {MANY:,} rows": partial(ours, MANY),
        f"ours, {FEW:,} rows": partial(ours, FEW),
        f"TorchRec, {MANY:,} rows": partial(seconds, TORCHREC, "torchrec_side.py", MANY),
    }
    measured = np.array([[side() for side in sides.values()] for _ in range(pairs)]).T
    title = (
        f"a step of {two_ranks.BATCH:,} rows of {two_ranks.FIELDS} fields on two ranks: median (smallest to largest)"
    )
    table = table_of(title, "side", "seconds")
    for name, times in zip(sides, measured, strict=True):
        table.add_row(name, spread(times))
    table.add_row(f"ratio: {MANY:,} / {FEW:,} rows", spread(measured[0] / measured[1]))
    table.add_row("ratio: ours / TorchRec", spread(measured[0] / measured[2]))
    Console(width=140).print(table)


if __name__ == "__main__":
    if sys.argv[2:] == ["ours"]:
        two_ranks.measure(build, int(sys.argv[1]))
    else:
        main(*map(int, sys.argv[1:]))
