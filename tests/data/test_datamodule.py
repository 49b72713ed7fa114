import torch

from tf4ctr.data.datamodule import CTRDataModule


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
