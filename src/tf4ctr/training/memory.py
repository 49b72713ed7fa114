"""The memory of the embedding tables in training, and whether the device has it.

For each number of a table the device holds the weight, the two moments of Adam, and the gradient,
in float32. With embedding=rowwise or sharded the gradient has the rows of a batch only, and is not
counted. With embedding=sharded each rank holds its share of the rows.
"""

import math
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from tf4ctr.errors import InputError
from tf4ctr.files import size_text
from tf4ctr.models.network import Network

NUMBER = 4  # bytes of a float32
MOMENTS = 2  # of Adam


class TableMemory(NamedTuple):
    """Bytes of all embedding tables of one rank."""

    weight: int
    gradient: int
    moments: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def table_memory(network: Network, ranks: int = 1, rows: int | None = None) -> TableMemory:
    """The memory of a network's tables in training.

    Args:
        network: it may have been built for a stand-in vocabulary.
        ranks: processes that share sharded tables.
        rows: of each table; None for those that they have.
    """
    weight = gradient = 0
    for table in network.embeddings():
        own = table.schema.num_ids if rows is None else rows
        own = math.ceil(own / ranks) if table.sharded else own
        size = own * table.dim * NUMBER
        weight += size
        gradient += 0 if table.sparse else size
    return TableMemory(weight, gradient, MOMENTS * weight)


def check_memory(memory: TableMemory, accelerator: str, ranks: int = 1) -> None:
    """Check that the tables fit the device of a training.

    On a CPU all ranks of this machine share its memory.

    Args:
        memory: of one rank.
        accelerator: `trainer.accelerator`.
        ranks: of this machine.

    Raises:
        InputError: they do not fit; says how large they are and what makes them smaller.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        device, limit, needed = "a GPU", torch.cuda.mem_get_info()[1], memory.total
    else:
        device, limit, needed = "this machine", machine_memory(), memory.total * ranks
    if needed > limit:
        parts = ", ".join(f"{name} {size_text(size)}" for name, size in memory._asdict().items() if size)
        each = f", {ranks} times" if needed > memory.total else ""
        raise InputError(
            f"the embedding tables need {size_text(needed)} in training ({parts}{each}), and {device} has"
            f" {size_text(limit)}. Make them smaller with embedding.dim, dataset.min_count, or max_values or hash of"
            " the largest fields; or use embedding=rowwise, whose gradient is small, or embedding=sharded on several"
            " devices"
        )


def peak_memory() -> str:
    """The most memory that this process has used so far, and of its GPU if it has one."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = size_text(peak if sys.platform == "darwin" else peak * 1024)  # bytes on macOS, else KiB
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return f"{text}, {size_text(on_gpu)} on the GPU" if on_gpu else text


def machine_memory(root: Path = Path("/")) -> int:
    """The memory in bytes that this process can have: the machine's, or a control group's limit.

    Args:
        root: where /proc and /sys are.
    """
    limits = [psutil.virtual_memory().total]
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # version 2 has one tree, version 1 one per controller; a container may see only the top
        top, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        top_folder = root / "sys/fs/cgroup" / top
        group = top_folder / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top_folder) and (folder / name).is_file():
                text = (folder / name).read_text().strip()
                limits += [int(text)] if text.isdigit() else []  # `max` is no limit
    return min(limits)
