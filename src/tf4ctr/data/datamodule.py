"""CTRDataModule: the three splits of a prepared dataset as streams of `Batch`."""

from pathlib import Path

from lightning import LightningDataModule

from tf4ctr.data.schema import Schema
from tf4ctr.data.stream import MemoryStream


class CTRDataModule(LightningDataModule):
    """Streams a prepared dataset, sharded over the trainer's ranks.

    Args:
        prepared_dir: what `prepare` returned.
        batch_size: rows a batch on each rank, in training.
        eval_batch_size: the same in validation and test; None for `batch_size`.
        seed: of the training order.
    """

    def __init__(self, prepared_dir: Path, batch_size: int, eval_batch_size: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.prepared_dir, self.batch_size, self.seed = prepared_dir, batch_size, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.schema = Schema.load(prepared_dir)

    def train_dataloader(self) -> MemoryStream:
        return self._stream("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> MemoryStream:
        return self._stream("valid", self.eval_batch_size)

    def test_dataloader(self) -> MemoryStream:
        return self._stream("test", self.eval_batch_size)

    def _stream(self, split: str, batch_size: int, shuffle: bool = False) -> MemoryStream:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return MemoryStream(self.prepared_dir, split, batch_size, shuffle, self.seed, rank, world_size)
