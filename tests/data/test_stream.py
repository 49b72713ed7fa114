import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf4ctr.data.preparation import GROUP, LABEL
from tf4ctr.data.stream import MemoryStream


def ids(batches):
    return torch.cat([batch.ids for batch in batches])


def rows(batches):
    """Batches as a multiset of rows."""
    return sorted(
        (*batch.ids[i].tolist(), batch.label[i].item(), batch.group[i].item()) for batch in batches for i in range(len(batch.label))
    )


def test_evaluation_gives_every_row_in_order(prepared):
    stream = MemoryStream(prepared, "valid", batch_size=30)
    batches = list(stream)
    table = pl.read_parquet(prepared / "valid.parquet")
    assert [len(batch.label) for batch in batches] == [30, 30, 30, 10]
    assert len(stream) == 4
    assert ids(batches).tolist() == [list(row) for row in table.select("user", "item", "hour").rows()]
    assert torch.cat([batch.label for batch in batches]).tolist() == table[LABEL].to_list()
    assert torch.cat([batch.group for batch in batches]).tolist() == table[GROUP].to_list()
    assert (batches[0].ids.dtype, batches[0].label.dtype, batches[0].group.dtype) == (torch.int32, torch.float32, torch.int64)


def test_training_shuffles_by_seed_and_epoch_alone(prepared):
    def epoch(seed, number):
        stream = MemoryStream(prepared, "train", 64, shuffle=True, seed=seed)
        stream.start_epoch(number)
        return list(stream)

    first = epoch(1, 0)
    assert torch.equal(ids(first), ids(epoch(1, 0)))
    assert not torch.equal(ids(first), ids(epoch(1, 1)))
    assert not torch.equal(ids(epoch(1, 1)), ids(epoch(2, 0)))
    assert rows(first) == rows(epoch(1, 5)) == rows(list(MemoryStream(prepared, "train", 64)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(batch_size=st.integers(2, 500), epoch=st.integers(0, 3), share=st.floats(0, 1))
def test_going_on_from_a_saved_position_gives_the_rest(prepared, batch_size, epoch, share):
    stream = MemoryStream(prepared, "train", batch_size, shuffle=True, seed=3)
    stream.start_epoch(epoch)
    whole = list(stream)
    stream.position = round(share * len(whole))
    other = MemoryStream(prepared, "train", batch_size, shuffle=True, seed=3)
    other.load_state_dict(stream.state_dict())
    other.start_epoch(epoch)  # the epoch it is in: no way back to its start
    rest = list(other)
    assert len(rest) == len(whole) - stream.position
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(rest, whole[stream.position :], strict=True))


def test_iterating_does_not_count_as_training(prepared):
    stream = MemoryStream(prepared, "train", 64, shuffle=True)
    next(iter(stream))
    assert stream.state_dict() == {"epoch": 0, "position": 0}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows(prepared, world_size):
    def streams(split, shuffle):
        return [MemoryStream(prepared, split, 64, shuffle, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]

    training = [list(stream) for stream in streams("train", True)]
    assert len({tuple(len(batch.label) for batch in batches) for batches in training}) == 1  # equal, so no rank waits for another
    everything = rows(list(MemoryStream(prepared, "train", 64)))
    together = rows([batch for batches in training for batch in batches])
    assert len(together) == 400 // world_size * world_size
    assert all(row in everything for row in together)
    evaluation = [batch for stream in streams("valid", False) for batch in stream]
    assert rows(evaluation) == rows(list(MemoryStream(prepared, "valid", 64)))


@pytest.mark.parametrize(("batch_size", "sizes"), [(399, [400]), (57, [57] * 6 + [58]), (133, [133, 133, 134]), (150, [150, 150, 100])])
def test_a_single_left_over_row_joins_the_batch_before_it(prepared, batch_size, sizes):
    stream = MemoryStream(prepared, "train", batch_size, shuffle=True)
    assert [len(batch.label) for batch in stream] == sizes
    assert len(stream) == len(sizes)


def test_without_a_group_batches_have_none(raw_dir):
    from conftest import make_spec
    from tf4ctr.data.preparation import prepare

    folder = prepare(make_spec(raw_dir, group=None))
    assert next(iter(MemoryStream(folder, "test", 10))).group is None
