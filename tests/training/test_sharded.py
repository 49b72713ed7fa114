"""embedding=sharded: tables sharded over two gloo ranks compute the same as whole tables."""

import json
from itertools import product

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from conftest import run_script, without_times
from tf4ctr.data.schema import Field, Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.training.optim import RowwiseAdam, clip_grad_norm

SCHEMA = Schema("toy", (Field("user", 7), Field("tags", 6, 3), Field("hour", 4)), "click", "user")
OPTIONS = {"lr": 0.1, "weight_decay": 0.05, "fused": True}


def task(emb, weight):
    return ((emb.flatten(1) - 1) ** 2 @ weight).mean()


def step(embedding, ids, weight, clip):
    """One step of Adam on the mean over `ids`; returns output, gradient and new weight, whole."""
    optimizer = RowwiseAdam(embedding.parameters(), **OPTIONS)
    emb = embedding(ids)
    task(emb, weight).backward()
    clip_grad_norm(embedding.parameters(), clip)
    optimizer.step()
    tensors = emb.detach(), embedding.weight.grad, embedding.weight.detach()
    return [tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def rank_of_two(rank, folder, ids, weight):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for per_rank in (True, False):
        torch.manual_seed(5)
        embedding = FieldEmbedding(SCHEMA, 4, init_std=0.3, sharded=True)
        embedding.shard(init_device_mesh("cpu", (2,)))
        mine = ids.chunk(2)[rank] if per_rank else ids
        with torch.no_grad():  # evaluation batches of different sizes, one of them empty
            looked_up = [embedding(mine[: 3 - 2 * rank]), embedding(mine[: 2 * rank])]
        saved = [embedding.weight.to_local().shape[0], *step(embedding, mine, weight, 0.3), *looked_up]
        torch.save(saved, folder / f"{rank}-{per_rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_half_a_table_each_take_the_step_of_one_with_the_whole(tmp_path):
    """Each rank with its own batch, and both with the same batch."""
    ids, weight = draw_lists(8), torch.randn(12)
    torch.manual_seed(5)
    whole = FieldEmbedding(SCHEMA, 4, init_std=0.3)
    evaluated = whole(ids).detach()
    emb, gradient, new = step(whole, ids, weight, 0.3)
    multiprocessing.spawn(rank_of_two, (tmp_path, ids, weight), 2, join=True)
    for rank, per_rank in product(range(2), (True, False)):
        rows, *tensors, some, others = torch.load(tmp_path / f"{rank}-{per_rank}.pt")
        assert rows in (8, 9)  # of 17
        first = 4 * rank if per_rank else 0
        torch.testing.assert_close(tensors, [emb[first : first + 4 if per_rank else None], gradient, new])
        torch.testing.assert_close(
            [some, others], [evaluated[first : first + 3 - 2 * rank], evaluated[first : first + 2 * rank]]
        )


def draw_lists(rows):
    """Ids with lists of one to three values."""
    ids = torch.stack(
        [torch.randint(1, 7, (rows,)), *(7 + torch.randint(0, 6, (3, rows))), 13 + torch.randint(1, 4, (rows,))], 1
    )
    return ids.int()


def test_sharded_runs_end_as_dense_ones_and_resume_with_another_number_of_ranks(toy, tmp_path):
    """Rank 1 has 49 rows to evaluate, and its last batch of seven is empty.

    Without batch norm: a bias before it has a gradient of rounding noise, and Adam scales it up.
    """
    toy += [
        "logger=csv",
        "dataset.limit_rows=99",
        "stream.eval_batch_size=7",
        "backbone.complex.batch_norm=false",
        "backbone.complex.dropout=0",
    ]
    results = {}
    for embedding in ("dense", "sharded"):
        folder = tmp_path / embedding
        for number, trainer in enumerate(("ddp_cpu", "cpu")):
            ckpt = [f"ckpt={folder}/checkpoints/last.ckpt"] if number else []
            options = [
                f"embedding={embedding}",
                f"trainer={trainer}",
                f"trainer.max_epochs={number + 1}",
                f"hydra.run.dir={folder}",
            ]
            result = run_script("train.py", *toy, *options, *ckpt)
            assert result.returncode == 0, result.stdout + result.stderr
            results[embedding, trainer] = without_times(json.loads((folder / "metrics.json").read_text()))
    for trainer in ("ddp_cpu", "cpu"):
        assert results["sharded", trainer] == {
            key: pytest.approx(value, abs=1e-5) for key, value in results["dense", trainer].items()
        }
    checkpoint = torch.load(tmp_path / "sharded" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (
        checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].shape
        == checkpoint["state_dict"]["network.ssem.tables.0.weight"].shape
    )


def test_lists_are_summed_without_padding():
    ids, whole = draw_lists(4), FieldEmbedding(SCHEMA, 4, init_std=0.3)
    expected = torch.stack([sum(whole.weight[i] for i in row[1:4] if i != 7) * torch.ones(4) for row in ids.long()])
    torch.testing.assert_close(whole(ids)[:, 1], expected)
