from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tf4ctr.data import datamodule
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.preparation import prepare
from tf4ctr.data.stream import DiskStream, MemoryStream
from tf4ctr.errors import InputError


def test_splits_and_batch_sizes(prepared):
    data = CTRDataModule(prepared, batch_size=100, eval_batch_size=40, seed=5)
    assert [len(batch.label) for batch in data.train_dataloader()] == [100] * 4
    assert [len(batch.label) for batch in data.val_dataloader()] == [40, 40, 20]
    assert [len(batch.label) for batch in data.test_dataloader()] == [40, 40, 20]
    assert data.schema.num_fields == 3


def test_the_seed_makes_the_order(prepared):
    first, again, other = (
        next(iter(CTRDataModule(prepared, 100, seed=seed).train_dataloader())).ids for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("available", "kind"), [(10**9, MemoryStream), (20_000, DiskStream)])
def test_auto_takes_the_tier_that_fits(prepared, monkeypatch, available, kind):
    monkeypatch.setattr(datamodule.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    data = CTRDataModule(prepared, 100)
    data.setup("fit")
    assert data.bytes == 600 * (3 * 4 + 4 + 8)
    assert isinstance(data.train_dataloader(), kind)


@pytest.mark.parametrize(
    ("free", "to_come", "of_others", "tier"),
    [(40_000, 0, 1, "device"), (40_000, 20_000, 1, "memory"), (40_000, 0, 3, "disk"), (10_000, 0, 1, "memory")],
)
def test_auto_counts_gradients_and_moments_and_is_the_same_on_all_ranks(
    prepared, monkeypatch, free, to_come, of_others, tier
):
    """The rows have 14,400 bytes. Other ranks can afford tier number `of_others`."""
    monkeypatch.setattr(datamodule.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    monkeypatch.setattr(datamodule.torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(datamodule.torch, "tensor", lambda number, device: number)
    data = CTRDataModule(prepared, 100)
    strategy = SimpleNamespace(
        root_device=torch.device("cuda"), reduce=lambda number, reduce_op: {"max": max}[reduce_op](number, of_others)
    )
    module = SimpleNamespace(bytes_to_come=lambda: to_come)
    data.trainer = SimpleNamespace(
        world_size=2, num_devices=2, strategy=strategy, state=SimpleNamespace(fn="fit"), lightning_module=module
    )
    assert data._choose_tier() == tier
    data.trainer.state.fn = "test"
    assert data._choose_tier() == ("device" if (free, of_others) == (40_000, 1) else tier)


def test_a_tier_can_be_named(prepared):
    data = CTRDataModule(prepared, 100, tier="disk", shuffle_rows=250)
    data.setup("fit")
    assert data.train_dataloader().pool_batches == 2


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_dataset_that_is_prepared_again_during_a_run_is_refused(spec, prepared, tier):
    data = CTRDataModule(prepared, batch_size=64, tier=tier)
    train = data.train_dataloader()
    prepare(replace(spec, min_count=3))
    with pytest.raises(InputError, match="was prepared again while this run used it"):
        data.test_dataloader()
    if tier == "disk":
        with pytest.raises(InputError, match="was prepared again while this run used it"):
            list(train)
    else:
        assert len(list(train)) == len(train)  # it has the earlier rows


def test_ranks_that_cannot_share_a_step_are_refused(prepared):
    data = CTRDataModule(prepared, 101)
    data.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(InputError, match="batch_size is 101, shared by 2 ranks"):
        data.setup("fit")


@pytest.mark.parametrize("eval_batch_size", [0, -5, 1e4])
def test_an_invalid_batch_of_evaluation_is_refused(prepared, eval_batch_size):
    with pytest.raises(InputError, match=f"stream.eval_batch_size is {eval_batch_size}: expected an integer"):
        CTRDataModule(prepared, 100, eval_batch_size)


@pytest.mark.parametrize(("eval_batch_size", "sizes"), [(None, [40, 10]), (25, [25, 25])])
def test_a_batch_of_evaluation_is_of_each_rank_and_not_shared(prepared, eval_batch_size, sizes):
    data = CTRDataModule(prepared, 40, eval_batch_size, tier="memory")
    data.trainer = trainer_of(rank=1, world_size=2)
    assert [len(batch.label) for batch in data.val_dataloader()] == sizes  # of 100 rows
    assert [len(batch.label) for batch in data.test_dataloader()] == sizes
    assert {len(batch.label) for batch in data.train_dataloader()} == {20}


def test_ranks_take_the_rows_of_one_step_together(prepared):
    def batches(rank, world_size):
        data = CTRDataModule(prepared, 100, seed=5, tier="memory")
        data.trainer = trainer_of(rank, world_size)
        return [{tuple(row) for row in batch.ids.tolist()} for batch in data.train_dataloader()]

    assert batches(0, 1) == [a | b for a, b in zip(batches(0, 2), batches(1, 2), strict=True)]


def trainer_of(rank=0, world_size=1, device="cpu"):
    strategy = SimpleNamespace(root_device=torch.device(device))
    options = {"overfit_batches": 0, "val_check_interval": 1.0}
    return SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy, **options)


@pytest.mark.parametrize("tier", ["memory", "disk"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_pinned_where_they_come_from_the_host(prepared, tier, device):
    data = CTRDataModule(prepared, batch_size=60, tier=tier)
    data.trainer = trainer_of(device=device)
    assert [stream.pin for stream in (data.train_dataloader(), data.test_dataloader())] == [device == "cuda"] * 2
