"""What both sides of sharded.py share: ranks, batches, network and clock. Needs torch only.

Two gloo ranks of one thread each. A batch of BATCH rows is divided between them: FIELDS ids each,
uniform over the values of its field, other ids in every step. The embeddings, DIM numbers per
field, go through an MLP that DistributedDataParallel trains with Adam.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, distributed, multiprocessing, nn

RANKS, FIELDS, DIM, BATCH = 2, 22, 16, 10_000
WARM, STEPS = 3, 15  # the first WARM steps are not timed

# values of a field -> the embeddings [B, F, D] of ids [B, F]; and the update after a backward
Build = Callable[[int], tuple[Callable[[Tensor], Tensor], Callable[[], None]]]


def measure(build: Build, values: int) -> None:
    """Print the median seconds of a step over so many values of all fields."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train, (build, values // FIELDS, folder), RANKS)


def _train(rank: int, build: Build, values: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    embed, update = build(values)
    sizes = [FIELDS * DIM, 400, 400, 400]
    hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    network = nn.parallel.DistributedDataParallel(nn.Sequential(*hidden, nn.Linear(sizes[-1], 1)))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    torch.manual_seed(1 + rank)
    seconds = []
    for _ in range(WARM + STEPS):
        ids_BF = torch.randint(1, values, (BATCH // RANKS, FIELDS))
        label_B = torch.randint(0, 2, (BATCH // RANKS,)).float()
        distributed.barrier()
        start = time.perf_counter()
        logit_B = network(embed(ids_BF).flatten(1)).squeeze(1)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logit_B, label_B).backward()
        optimizer.step()
        update()
        distributed.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        print(median(seconds[WARM:]))
        sys.stdout.flush()
    distributed.destroy_process_group()
