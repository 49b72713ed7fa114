"""Tables over two gloo ranks, sharded or copied, compute the same as one table in one process."""

import json

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import WARM, draw_ids, run_script, without_times
from tf4ctr.assembly import load_run
from tf4ctr.data.schema import Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models import sharding
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.sharding import BlockwiseNormal
from tf4ctr.training import table_files
from tf4ctr.training.optim import RowwiseAdam, clip_grad_norm
from tf4ctr.training.table_files import SavedTables, load_tables, save_tables

SCHEMA = Schema("toy", (Field("user", 7), Field("tags", 6, 3), Field("hour", 4)), "click", "user")
OPTIONS = {"lr": 0.1, "weight_decay": 0.05, "fused": True}


def on_ranks(number, function, folder, *arguments):
    """Run `function(rank, folder, ...)` on so many gloo ranks."""
    folder.mkdir()
    processes = [
        WARM.Process(target=run_rank, args=(function, rank, number, folder, *arguments)) for rank in range(number)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * number


def run_rank(function, rank, number, folder, *arguments):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=number)
    function(rank, folder, *arguments)
    distributed.destroy_process_group()


def make(**options):
    torch.manual_seed(5)
    embedding = FieldEmbedding(SCHEMA, 4, init_std=0.3, **options)
    embedding.place()
    return embedding


def step(embedding, ids, weight, clip):
    """One step of Adam on the mean over `ids`; returns output, gradient and new weight."""
    optimizer = RowwiseAdam(embedding.parameters(), **OPTIONS)
    emb = embedding(ids)
    ((emb.flatten(1) - 1) ** 2 @ weight).mean().backward()
    clip_grad_norm(embedding.parameters(), clip, [embedding.weight] if embedding.shards else [])
    gradient = embedding.weight.grad
    assert gradient.is_sparse
    assert gradient.is_coalesced()
    assert gradient.shape == embedding.weight.shape
    optimizer.step()
    return emb.detach(), gradient.to_dense(), embedding.weight.detach(), optimizer


def steps_of_two(rank, folder, ids, weight):
    for sharded in (True, False):
        for per_rank in (True, False):
            embedding = make(sharded=sharded, sparse=not sharded)
            mine = ids.chunk(2)[rank] if per_rank else ids
            with torch.no_grad():  # evaluation batches of different sizes, one of them empty
                looked_up = [embedding(mine[: 3 - 2 * rank]), embedding(mine[: 2 * rank])]
            if not sharded:
                embedding.replicate()
            saved = [*step(embedding, mine, weight, 0.3)[:3], *looked_up]
            torch.save(saved, folder / f"{rank}-{sharded}-{per_rank}.pt")


@pytest.mark.parametrize("rows", [8, 60])
def test_two_ranks_take_the_step_of_one_with_the_whole_table(tmp_path, rows):
    """Each rank with its own batch, and both with the same batch; rows that no batch has stay."""
    ids, weight = draw_lists(rows), torch.rand(12)
    whole = make(sparse=True)
    evaluated = whole(ids).detach()
    emb, gradient, new, _ = step(whole, ids, weight, 0.3)
    on_ranks(2, steps_of_two, tmp_path / "ranks", ids, weight)
    for sharded in (True, False):
        for per_rank in (True, False):
            parts = []
            for rank in range(2):
                own = slice(rank * rows // 2, (rank + 1) * rows // 2) if per_rank else slice(None)
                out, *part, some, others = torch.load(tmp_path / "ranks" / f"{rank}-{sharded}-{per_rank}.pt")
                torch.testing.assert_close(out, emb[own])
                torch.testing.assert_close([some, others], [evaluated[own][: 3 - 2 * rank], evaluated[own][: 2 * rank]])
                parts.append(part)
            if sharded:
                assert [len(part[1]) for part in parts] == [9, 8]
                parts = [[torch.cat(part) for part in zip(*parts, strict=True)]]
            else:
                assert torch.equal(parts[0][1], parts[1][1])  # to the last bit, so that copies stay copies
            for part in parts:
                torch.testing.assert_close(part, [gradient, new])
                assert not part[0][[0, 7, 13]].any()  # padding


def draw_lists(rows):
    """Ids with lists of one to three values."""
    ids = torch.stack(
        [torch.randint(1, 7, (rows,)), *(7 + torch.randint(0, 6, (3, rows))), 13 + torch.randint(1, 4, (rows,))], 1
    )
    return ids.int()


@pytest.mark.parametrize(("rows", "dim"), [(64, 4), (70, 3), (17, 1), (15, 1), (7, 5), (100, 1), (1, 1), (33, 16)])
def test_rows_drawn_in_blocks_are_those_of_one_draw(monkeypatch, rows, dim):
    monkeypatch.setattr(sharding, "BLOCK", 16)
    torch.manual_seed(3)
    expected, following = torch.empty(rows, dim).normal_(std=0.7), torch.rand(3)
    torch.manual_seed(3)
    blocks = BlockwiseNormal(rows, dim, 0.7)
    assert torch.equal(torch.rand(3), following)
    for own in (range(rows), range(rows // 3, rows - rows // 4)):
        drawn = torch.full((len(own), dim), torch.nan)
        blocks.fill(drawn, own)
        assert torch.equal(drawn, expected[own.start : own.stop])


def test_rows_are_drawn_in_the_type_of_the_constructor():
    """With trainer.precision=64-true the default is float64 when tables are placed."""
    torch.manual_seed(3)
    blocks, expected, drawn = BlockwiseNormal(40, 2, 1.0), torch.empty(40, 2), torch.empty(40, 2, dtype=torch.float64)
    blocks.fill(expected, range(40))
    torch.set_default_dtype(torch.float64)
    try:
        blocks.fill(drawn, range(40))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(drawn.float(), expected)


class Largest(TorchDispatchMode):
    """Keeps the number of bytes of the largest tensor that was made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # a DTensor has the shape of the whole, and the memory of its part
            if isinstance(leaf, torch.Tensor) and not (leaf.is_meta or leaf.is_sparse or isinstance(leaf, DTensor)):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return out


BIG = Schema("big", (Field("user", 900), Field("item", 100)), "click", "user")


def big_table(steps=2):
    """A table of 1000 rows [4], sharded over the ranks there are, after some steps."""
    torch.manual_seed(5)
    network = nn.ModuleDict({"table": FieldEmbedding(BIG, 4, sharded=True)})
    network["table"].place()
    optimizer = RowwiseAdam(network.parameters(), lr=0.1)
    for number in range(steps):
        torch.manual_seed(number)
        ids = torch.stack([torch.randint(1, 900, (64,)), 900 + torch.randint(1, 100, (64,))], 1).int()
        (network["table"](ids) - 1).square().mean().backward()
        optimizer.step()
    return network, optimizer


def checkpoint_of(network, optimizer):
    return {
        "state_dict": {"network.table.weight": network["table"].weight},
        "optimizer_states": [optimizer.state_dict()],
    }


def save(rank, folder, checkpoints):
    sharding.BLOCK = 16
    with Largest() as largest:
        network, optimizer = big_table()
        checkpoint = checkpoint_of(network, optimizer)
        saved = save_tables(checkpoints, network, checkpoint, 2, None)
        assert save_tables(checkpoints, network, checkpoint_of(network, optimizer), 2, saved) == saved
    assert "moments" in optimizer.state[network["table"].weight]
    assert largest.bytes <= len(network["table"].weight) * 2 * 4 * 4  # the moments of the rank's own rows
    if rank == 0:
        torch.save(checkpoint, checkpoints / "last.ckpt")


def load(path):
    """Read a checkpoint on the ranks there are: the rows of the table and its moments."""
    network, optimizer = big_table(0)
    checkpoint = torch.load(path)
    load_tables(path, network, checkpoint, moments=True)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    weight = network["table"].weight
    with torch.no_grad():
        weight.copy_(checkpoint["state_dict"]["network.table.weight"])
    return weight.detach(), optimizer.state[weight]["moments"], optimizer.state[weight]["step"]


def load_and_save(rank, folder, paths):
    sharding.BLOCK = 16
    for path in paths:
        with Largest() as largest:
            torch.save(load(path), folder / f"{rank}-{path.name}.pt")
        if path.name == "last.ckpt":
            assert largest.bytes <= 500 * 2 * 4 * 4


def test_ranks_hold_their_rows_only_and_read_what_others_wrote(tmp_path):
    """Three ranks write; one reads, and two do. Two also read what one wrote, whole in its file."""
    network, optimizer = big_table()
    state = optimizer.state[network["table"].weight]
    expected = network["table"].weight.detach(), state["moments"]
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    on_ranks(3, save, tmp_path / "three", checkpoints)
    checkpoint = torch.load(checkpoints / "last.ckpt")
    assert checkpoint["state_dict"] == {}
    assert [path.name for path in (checkpoints / "tables").iterdir()] == [checkpoint["tables"]]
    torch.testing.assert_close(load(checkpoints / "last.ckpt")[:2], expected)
    torch.save(checkpoint_of(network, optimizer), checkpoints / "whole.ckpt")
    on_ranks(2, load_and_save, tmp_path / "two", [checkpoints / "last.ckpt", checkpoints / "whole.ckpt"])
    for name in ("last.ckpt", "whole.ckpt"):
        ranks = [torch.load(tmp_path / "two" / f"{rank}-{name}.pt") for rank in range(2)]
        assert [len(weight) for weight, _, _ in ranks] == [500, 500]
        assert all(steps == 2 for _, _, steps in ranks)
        torch.testing.assert_close(tuple(map(torch.cat, list(zip(*ranks, strict=True))[:2])), expected)
    (checkpoints / "tables" / checkpoint["tables"] / ".metadata").unlink()
    with pytest.raises(InputError, match=r"last.ckpt: its tables in .* cannot be read"):
        load(checkpoints / "last.ckpt")


def test_only_tables_that_a_checkpoint_names_are_kept(tmp_path):
    """Also those of the latest save, whose file may not be in place yet."""
    for name in ("of-best", "of-last", "latest", "old", "of-a-partial-file"):
        (tmp_path / "tables" / name).mkdir(parents=True)
    for name in ("best", "last"):
        torch.save({"tables": f"of-{name}"}, tmp_path / f"{name}.ckpt")
    (tmp_path / "last.partial").write_bytes(b"PK of-a-partial-file")
    table_files.remove_unnamed(tmp_path, SavedTables("latest", 3, True))
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"of-best", "of-last", "latest"}


def test_runs_on_ranks_end_alike_and_resume_with_another_number_of_ranks(toy, tmp_path):
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
    results, outputs = {}, {}
    for embedding in ("rowwise", "sharded"):
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
            network, schema, _ = load_run(folder)
            torch.manual_seed(0)
            outputs[embedding, trainer] = network(draw_ids(schema, 50)).fused.detach()
            if (embedding, trainer) == ("sharded", "ddp_cpu"):
                files = {name: torch.load(folder / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")}
                assert not [name for name in files["best"]["state_dict"] if "table" in name]
                # both are of the same step, and only the last one has moments
                tables = {path.name for path in (folder / "checkpoints" / "tables").iterdir()}
                assert files["best"]["tables"] != files["last"]["tables"]
                assert tables == {files["best"]["tables"], files["last"]["tables"]}
    for trainer in ("ddp_cpu", "cpu"):
        assert results["sharded", trainer] == {
            key: pytest.approx(value, abs=1e-5) for key, value in results["rowwise", trainer].items()
        }
        torch.testing.assert_close(outputs["sharded", trainer], outputs["rowwise", trainer])


def test_lists_are_summed_without_padding():
    ids, whole = draw_lists(4), FieldEmbedding(SCHEMA, 4, init_std=0.3)
    expected = torch.stack([sum(whole.weight[i] for i in row[1:4] if i != 7) * torch.ones(4) for row in ids.long()])
    torch.testing.assert_close(whole(ids)[:, 1], expected)
