from types import SimpleNamespace

import pytest
import torch

from tf4ctr.data import datamodule
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.stream import DiskStream, MemoryStream


def test_splits_and_batch_sizes(prepared):
    data = CTRDataModule(prepared, batch_size=100, eval_batch_size=40, seed=5)
    assert [len(batch.label) for batch in data.train_dataloader()] == [100] * 4
    assert [len(batch.label) for batch in data.val_dataloader()] == [40, 40, 20]
    assert [len(batch.label) for batch in data.test_dataloader()] == [40, 40, 20]
    assert data.schema.num_fields == 3


def test_the_seed_makes_the_order(prepared):
    first, again, other = (next(iter(CTRDataModule(prepared, 100, seed=seed).train_dataloader())).ids for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("available", "kind"), [(10**9, MemoryStream), (20_000, DiskStream)])
def test_auto_takes_the_tier_that_fits(prepared, monkeypatch, available, kind):
    monkeypatch.setattr(datamodule.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    data = CTRDataModule(prepared, 100)
    data.setup("fit")
    assert data.bytes == 600 * (3 * 4 + 4 + 8)
    assert isinstance(data.train_dataloader(), kind)


def test_a_tier_can_be_named(prepared):
    data = CTRDataModule(prepared, 100, tier="disk", shuffle_rows=250)
    data.setup("fit")
    assert data.train_dataloader().pool_batches == 2
