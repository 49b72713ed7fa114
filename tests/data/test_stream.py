import threading
import time

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf4ctr.data import stream as stream_module
from tf4ctr.data.preparation import GROUP, LABEL
from tf4ctr.data.stream import Batch, DiskStream, MemoryStream
from tf4ctr.errors import InputError


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch):
    monkeypatch.setattr(stream_module, "ROW_GROUP_SIZE", 37)  # several in a split of 400 rows


def on_disk(*args, **options):
    return DiskStream(*args, shuffle_rows=150, **options)


tiers = pytest.mark.parametrize("make", [MemoryStream, on_disk])


def ids(batches):
    return torch.cat([batch.ids for batch in batches])


def rows(batches):
    """Batches as a multiset of rows."""
    return sorted(
        (*batch.ids[i].tolist(), batch.label[i].item(), batch.group[i].item())
        for batch in batches
        for i in range(len(batch.label))
    )


@tiers
def test_evaluation_gives_every_row_in_order(prepared, make):
    stream = make(prepared, "valid", batch_size=30)
    batches = list(stream)
    table = pl.read_parquet(prepared / "valid.parquet")
    assert [len(batch.label) for batch in batches] == [30, 30, 30, 10]
    assert len(stream) == 4
    assert ids(batches).tolist() == [list(row) for row in table.select("user", "item", "hour").rows()]
    assert torch.cat([batch.label for batch in batches]).tolist() == table[LABEL].to_list()
    assert torch.cat([batch.group for batch in batches]).tolist() == table[GROUP].to_list()
    assert (batches[0].ids.dtype, batches[0].label.dtype, batches[0].group.dtype) == (
        torch.int32,
        torch.float32,
        torch.int64,
    )


@tiers
def test_training_shuffles_by_seed_and_epoch_alone(prepared, make):
    def epoch(seed, number):
        stream = make(prepared, "train", 64, shuffle=True, seed=seed)
        stream.start_epoch(number)
        return list(stream)

    first = epoch(1, 0)
    assert torch.equal(ids(first), ids(epoch(1, 0)))
    assert not torch.equal(ids(first), ids(epoch(1, 1)))
    assert not torch.equal(ids(epoch(1, 1)), ids(epoch(2, 0)))
    assert rows(first) == rows(epoch(1, 5)) == rows(list(make(prepared, "train", 64)))


@tiers
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(batch_size=st.integers(2, 500), epoch=st.integers(0, 3), share=st.floats(0, 1))
def test_going_on_from_a_saved_position_gives_the_rest(prepared, make, batch_size, epoch, share):
    stream = make(prepared, "train", batch_size, shuffle=True, seed=3)
    stream.start_epoch(epoch)
    whole = list(stream)
    stream.position = round(share * len(whole))
    other = make(prepared, "train", batch_size, shuffle=True, seed=3)
    other.load_state_dict(stream.state_dict())
    other.start_epoch(epoch)  # the epoch it is in: no way back to its start
    rest = list(other)
    assert len(rest) == len(whole) - stream.position
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(rest, whole[stream.position :], strict=True))


@tiers
def test_iterating_does_not_count_as_training(prepared, make):
    stream = make(prepared, "train", 64, shuffle=True)
    next(iter(stream))
    assert stream.state_dict() == {"epoch": 0, "position": 0, "order": stream.order}


@tiers
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows(prepared, make, world_size):
    def streams(split, shuffle):
        return [
            make(prepared, split, 64, shuffle=shuffle, seed=1, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]

    training = [list(stream) for stream in streams("train", True)]
    assert (
        len({tuple(len(batch.label) for batch in batches) for batches in training}) == 1
    )  # equal, so no rank waits for another
    everything = rows(list(make(prepared, "train", 64)))
    together = rows([batch for batches in training for batch in batches])
    assert len(together) == 400 // world_size * world_size
    assert all(row in everything for row in together)
    evaluation = [batch for stream in streams("valid", False) for batch in stream]
    assert rows(evaluation) == rows(list(make(prepared, "valid", 64)))
    # as many batches each, for what ranks do together: the last one empty where the others have a row left
    few = [
        list(make(prepared, "valid", (100 - 1) // world_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in few}) == 1
    assert rows([batch for batches in few for batch in batches]) == rows(evaluation)


@tiers
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(399, [400]), (57, [57] * 6 + [58]), (133, [133, 133, 134]), (150, [150, 150, 100])]
)
def test_a_single_left_over_row_joins_the_batch_before_it(prepared, make, batch_size, sizes):
    stream = make(prepared, "train", batch_size, shuffle=True)
    assert [len(batch.label) for batch in stream] == sizes
    assert len(stream) == len(sizes)


@tiers
def test_without_a_group_batches_have_none(raw_dir, make):
    from conftest import make_spec
    from tf4ctr.data.preparation import prepare

    folder = prepare(make_spec(raw_dir, group=None))
    assert next(iter(make(folder, "test", 10))).group is None


def test_any_number_of_ranks_trains_on_the_same_rows(prepared):
    """400 rows divide by 1, 2, 4 and 5: then nothing is left out, whatever the tier."""
    for make in (MemoryStream, on_disk):
        for world_size in (1, 2, 4, 5):
            shares = [
                make(prepared, "train", 30, shuffle=True, seed=2, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            assert rows([batch for share in shares for batch in share]) == rows(list(make(prepared, "train", 30)))


def test_disk_rows_of_a_pool_are_shuffled_across_row_groups(prepared):
    stream = on_disk(prepared, "train", 30, shuffle=True)
    where = {row: number for number, row in enumerate(map(tuple, ids(list(on_disk(prepared, "train", 30))).tolist()))}
    first = [where[tuple(row)] // 37 for row in ids([next(iter(stream))]).tolist()]
    assert len(set(first)) > 2  # one batch holds rows of several groups


def test_disk_stopped_in_the_middle_leaves_no_thread(prepared):
    before = threading.active_count()
    batches = iter(on_disk(prepared, "train", 30, shuffle=True))
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_the_device_tier_holds_and_shuffles_there(prepared):
    host = MemoryStream(prepared, "train", 64, shuffle=True)
    there = MemoryStream(prepared, "train", 64, shuffle=True, device=torch.device("meta"))
    assert all(batch.ids.device.type == "meta" for batch in there)
    assert [batch.ids.shape for batch in there] == [batch.ids.shape for batch in host]


def test_a_run_does_not_go_on_in_another_order(prepared):
    state = on_disk(prepared, "train", 64, shuffle=True).state_dict()
    with pytest.raises(InputError, match=r"began with rows in the order 'pools of 2 batches of 64'.*stream=disk"):
        MemoryStream(prepared, "train", 64, shuffle=True).load_state_dict(state)


@tiers
def test_pinned_batches_are_the_same_each_made_while_the_one_before_is_in_use(prepared, make, monkeypatch):
    made = []
    monkeypatch.setattr(
        Batch, "pin", lambda batch: made.append(threading.current_thread()) or batch
    )  # a CPU has no page-locked memory
    stream = make(prepared, "train", 64, shuffle=True, seed=3, pin=True)
    expected = list(make(prepared, "train", 64, shuffle=True, seed=3))
    batches = iter(stream)
    found = [next(batches)]
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == 2
    found += batches
    assert rows(found) == rows(expected)
    assert [len(batch.label) for batch in found] == [len(batch.label) for batch in expected]
    assert threading.main_thread() not in made
