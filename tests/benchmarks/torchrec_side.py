"""TorchRec's part of sharded.py: a table per field on one of the ranks, and rowwise Adagrad.

    python torchrec_side.py VALUES

It runs in its own environment, and prints the seconds of a step. An EmbeddingCollection, whose
tables are divided between the ranks as they are (table-wise), updates its rows in the backward.
"""

import sys
from collections.abc import Callable

import torch
import two_ranks
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, distributed, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

NAMES = [f"field{number}" for number in range(two_ranks.FIELDS)]


class Tables(nn.Module):
    """The tables under a name, which the plan needs."""

    def __init__(self, values: int) -> None:
        super().__init__()
        configs = [EmbeddingConfig(values, two_ranks.DIM, name, feature_names=[name]) for name in NAMES]
        self.tables = EmbeddingCollection(configs, device=torch.device("meta"))

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        """-> [B, F, D]"""
        found = self.tables(ids)
        return torch.stack([found[name].values() for name in NAMES], 1)


def build(values: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """See two_ranks.Build."""
    module, cpu = Tables(values), torch.device("cpu")
    options = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 1e-2}
    sharder = EmbeddingCollectionSharder(fused_params=options)
    owners = {name: table_wise(number % two_ranks.RANKS, compute_kernel="fused") for number, name in enumerate(NAMES)}
    plan = construct_module_sharding_plan(module.tables, owners, sharder, two_ranks.RANKS, two_ranks.RANKS, "cpu")
    env = ShardingEnv.from_process_group(distributed.group.WORLD)
    model = DistributedModelParallel(module, env, cpu, ShardingPlan({"tables": plan}), [sharder])

    def embed(ids_BF: Tensor) -> Tensor:
        lengths = torch.ones(ids_BF.numel(), dtype=torch.int32)
        return model(KeyedJaggedTensor(NAMES, ids_BF.t().flatten(), lengths=lengths))

    return embed, lambda: None


if __name__ == "__main__":
    two_ranks.measure(build, int(sys.argv[1]))
