import threading
import time

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf4ctr.data import stream as stream_module
from tf4ctr.data.schema import GROUP, LABEL
from tf4ctr.data.stream import Batch, DiskStream, MemoryStream
from tf4ctr.errors import InputError


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch):
    monkeypatch.setattr(stream_module, "ROW_GROUP_SIZE", 37)  # several groups in a split of 400 rows


def on_disk(*args, **options):
    return DiskStream(*args, shuffle_rows=150, **options)


tiers = pytest.mark.parametrize("make", [MemoryStream, on_disk])


def ids(batches):
    return torch.cat([batch.ids for batch in batches])


def rows(batches):
    """The rows of all batches, sorted."""
    return sorted(
        (*batch.ids[i].tolist(), batch.label[i].item(), batch.group[i].item())
        for batch in batches
        for i in range(len(batch.label))
    )


@tiers
def test_evaluation_yields_every_row_in_order(prepared, make):
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
def test_the_training_order_depends_on_seed_and_epoch_only(prepared, make):
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
def test_a_restored_stream_yields_the_remaining_batches(prepared, make, batch_size, epoch, share):
    stream = make(prepared, "train", batch_size, shuffle=True, seed=3)
    stream.start_epoch(epoch)
    whole = list(stream)
    stream.position = round(share * len(whole))
    other = make(prepared, "train", batch_size, shuffle=True, seed=3)
    other.load_state_dict(stream.state_dict())
    other.start_epoch(epoch)  # the epoch that the stream is in: this must not reset its position
    remaining = list(other)
    assert len(remaining) == len(whole) - stream.position
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(remaining, whole[stream.position :], strict=True))


@tiers
def test_iterating_does_not_change_the_state(prepared, make):
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
    sizes = {tuple(len(batch.label) for batch in batches) for batches in training}
    assert len(sizes) == 1  # the same on all ranks, so no rank waits for another
    all_rows = rows(list(make(prepared, "train", 64)))
    rank_rows = rows([batch for batches in training for batch in batches])
    assert len(rank_rows) == 400 // world_size * world_size
    assert all(row in all_rows for row in rank_rows)
    evaluation = [batch for stream in streams("valid", False) for batch in stream]
    assert rows(evaluation) == rows(list(make(prepared, "valid", 64)))
    # all ranks have equally many batches for their collective operations; the last one can be empty
    uneven = [
        list(make(prepared, "valid", (100 - 1) // world_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in uneven}) == 1
    assert rows([batch for batches in uneven for batch in batches]) == rows(evaluation)


@tiers
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(399, [400]), (57, [57] * 6 + [58]), (133, [133, 133, 134]), (150, [150, 150, 100])]
)
def test_a_single_remaining_row_joins_the_batch_before_it(prepared, make, batch_size, sizes):
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
    """1, 2, 4 and 5 ranks divide 400 rows, so no row is skipped in any tier."""
    for make in (MemoryStream, on_disk):
        for world_size in (1, 2, 4, 5):
            shares = [
                make(prepared, "train", 30, shuffle=True, seed=2, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            assert rows([batch for share in shares for batch in share]) == rows(list(make(prepared, "train", 30)))


def test_disk_rows_of_a_pool_are_shuffled_across_row_groups(prepared):
    stream = on_disk(prepared, "train", 30, shuffle=True)
    place_of = {row: i for i, row in enumerate(map(tuple, ids(list(on_disk(prepared, "train", 30))).tolist()))}
    row_groups = {place_of[tuple(row)] // 37 for row in ids([next(iter(stream))]).tolist()}
    assert len(row_groups) > 2


def test_disk_ends_its_thread_if_iteration_stops_early(prepared):
    before = threading.active_count()
    batches = iter(on_disk(prepared, "train", 30, shuffle=True))
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_the_device_tier_stores_and_shuffles_on_the_device(prepared):
    host = MemoryStream(prepared, "train", 64, shuffle=True)
    device = MemoryStream(prepared, "train", 64, shuffle=True, device=torch.device("meta"))
    assert all(batch.ids.device.type == "meta" for batch in device)
    assert [batch.ids.shape for batch in device] == [batch.ids.shape for batch in host]


def test_a_state_of_another_order_is_refused(prepared):
    state = on_disk(prepared, "train", 64, shuffle=True).state_dict()
    with pytest.raises(
        InputError, match=r"saved with rows in the order 'pools of 2 batches of 64'.*order 'full'.*stream=disk"
    ):
        MemoryStream(prepared, "train", 64, shuffle=True).load_state_dict(state)


@tiers
def test_a_thread_pins_the_next_batch_while_the_current_one_is_in_use(prepared, make, monkeypatch):
    threads = []  # of the calls; without an accelerator there is no page-locked memory
    monkeypatch.setattr(Batch, "pin", lambda batch: threads.append(threading.current_thread()) or batch)
    stream = make(prepared, "train", 64, shuffle=True, seed=3, pin=True)
    expected = list(make(prepared, "train", 64, shuffle=True, seed=3))
    batches = iter(stream)
    pinned = [next(batches)]
    deadline = time.monotonic() + 10
    while len(threads) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(threads) == 2
    pinned += batches
    assert rows(pinned) == rows(expected)
    assert [len(batch.label) for batch in pinned] == [len(batch.label) for batch in expected]
    assert threading.main_thread() not in threads


def test_a_rank_whose_last_pool_on_disk_has_no_rows(prepared):
    """100 rows on 3 ranks: the first one has a row more, which is alone in its last pool."""
    ranks = [list(DiskStream(prepared, "valid", 11, shuffle_rows=33, rank=rank, world_size=3)) for rank in range(3)]
    assert [[len(batch.label) for batch in batches] for batches in ranks] == [[11, 11, 11, 1], *[[11, 11, 11, 0]] * 2]
    assert torch.equal(torch.cat([ids(batches) for batches in ranks]), ids(MemoryStream(prepared, "valid", 100)))
