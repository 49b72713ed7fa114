"""make bench: parts of the project, each compared with the usual way to do the same work.

Both sides run in turn, ours then theirs, RUNS times after a warm-up. A ratio is theirs / ours, pair
by pair; its median, smallest and largest value are printed. Both sides use torch's default number
of threads.
"""

import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning import Trainer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset

from tf4ctr.cli import keep_memory, quiet_lightning
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS
from tf4ctr.data.stream import Batch, MemoryStream
from tf4ctr.data.synthetic import FIELDS
from tf4ctr.metrics import grouped_auc
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.losses import TFLoss
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation
from tf4ctr.training.module import CTRModule
from tf4ctr.training.optim import RowwiseAdam, clip_grad_norm

RUNS = 5
ROWS, BATCH = 200_000, 10_000


def gauc() -> Iterator[Callable[[], float]]:
    """gAUC of 200 thousand rows in 4 thousand groups: one sort, or scikit-learn group by group."""
    rng = np.random.default_rng(0)
    score, label, group = (
        rng.normal(size=200_000).astype("f4"),
        rng.integers(0, 2, 200_000),
        rng.integers(0, 4_000, 200_000),
    )
    tensors = torch.from_numpy(score), torch.from_numpy(label), torch.from_numpy(group)

    def theirs() -> float:
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        both = [rows for rows in parts if 0 < label[rows].sum() < len(rows)]
        return float(
            np.average([roc_auc_score(label[rows], score[rows]) for rows in both], weights=[len(rows) for rows in both])
        )

    def ours() -> float:
        return float(grouped_auc(*tensors))

    assert abs(ours() - theirs()) < 1e-9
    yield ours
    yield theirs


class RowByRow(Dataset):
    """The usual Dataset: one row at a time, which the DataLoader collates."""

    def __init__(self, stream: MemoryStream) -> None:
        self.ids, self.label = stream.held.ids, stream.held.label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.ids[row], self.label[row]


def stream(folder: Path) -> Iterator[Callable[[], int]]:
    """One shuffled epoch of batches: the stream, or a DataLoader over a Dataset of rows."""
    ours = MemoryStream(folder, "train", BATCH, shuffle=True)
    yield lambda: sum(len(batch.label) for batch in ours)
    yield lambda: sum(len(label) for _, label in DataLoader(RowByRow(ours), BATCH, shuffle=True))


def make_module(schema: Schema, sparse: bool = False) -> CTRModule:
    """The dual MLP under TF4CTR, with frappe's published settings; sparse: embedding=rowwise."""
    encoders = {
        "simple": partial(MLP, hidden_units=[400, 400], dropout=0.2),
        "complex": partial(MLP, hidden_units=[400, 400, 400], dropout=0.2),
    }
    embedding = partial(FieldEmbedding, sparse=sparse)
    network = Network(schema, embedding, 16, SeparateRepresentation, encoders, WeightedSum)
    adam = RowwiseAdam if sparse else torch.optim.Adam
    return CTRModule(schema, network, TFLoss(0.25, 1, 0.7), partial(adam, lr=1e-3, fused=True), 0.1)


def epoch(folder: Path) -> Iterator[Callable[[], int]]:
    """One epoch of the dual MLP under TF4CTR, not validated: in Lightning, or in a bare loop."""
    data = CTRDataModule(folder, BATCH)

    def in_lightning() -> int:
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, gradient_clip_val=10, **quiet)
        trainer.fit(make_module(data.schema), data)
        return trainer.global_step

    def bare() -> int:
        steps = 0
        module = make_module(data.schema).train()
        optimizer = module.configure_optimizers()
        batch: Batch
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            module.loss(module.network(batch.ids), batch.label)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 10)
            optimizer.step()
            steps += 1
        return steps

    yield in_lightning
    yield bare


def rowwise() -> Iterator[Callable[[], float]]:
    """Five steps of 10,000 rows of 22 fields over 5 million values: embedding rowwise, or dense."""
    for sparse in (True, False):
        yield from steps(5_000_000, sparse)


def table_size() -> Iterator[Callable[[], float]]:
    """The same with embedding=rowwise: over 5 million values (ours), or over 50 thousand."""
    for values in (5_000_000, 50_000):
        yield from steps(values, sparse=True)


def steps(values: int, sparse: bool) -> Iterator[Callable[[], float]]:
    """A function that takes five steps of deepfm under TF4CTR and returns the last loss."""
    schema = Schema("wide", tuple(Field(f"field{number}", values // 22) for number in range(22)), "click")
    encoders = {"simple": FM, "complex": partial(MLP, hidden_units=[400, 400, 400])}
    embedding = partial(FieldEmbedding, sparse=sparse)
    network = Network(schema, embedding, 16, SeparateRepresentation, encoders, WeightedSum)
    module = CTRModule(schema, network, TFLoss(0.25, 1, 0.7), partial(RowwiseAdam, lr=1e-3, fused=True), 1e-5)
    one = step(module, random_batch(schema))
    yield lambda: [one() for _ in range(5)][-1]


def random_batch(schema: Schema) -> Batch:
    """BATCH rows of known and unknown values, without padding."""
    columns = [
        offset + torch.randint(1, field.vocabulary_size, (BATCH,))
        for offset, field in zip(schema.offsets, schema.fields, strict=True)
    ]
    return Batch(torch.stack(columns, 1).int(), torch.randint(0, 2, (BATCH,)).float())


def step(module: CTRModule, batch: Batch, half: bool = False) -> Callable[[], float]:
    """A function that takes a training step as in Lightning, and returns the loss."""
    module.train()
    optimizer = module.configure_optimizers()

    def one() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = module.loss(module.network(batch.ids, batch.numbers), batch.label)["loss"]
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm(module.parameters(), 10)
        optimizer.step()
        return loss.item()

    return one


def seconds(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure all comparisons and print their table."""
    quiet_lightning()
    keep_memory()
    table = Table(
        title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {RUNS} pairs"
    )
    for column in ("work", "ours", "theirs", "theirs / ours"):
        table.add_column(column, justify="left" if column == "work" else "right")
    with tempfile.TemporaryDirectory() as folder:
        spec = DatasetSpec.from_config(
            {
                "name": "synthetic",
                "prepared_dir": Path(folder) / "prepared",
                "fields": list(FIELDS),
                "label": "click",
                "group": "user",
                "layouts": [{"reader": "parquet", **{split: f"{split}/*.parquet" for split in SPLITS}}],
                "generator": {"train": ROWS, "valid": 1000, "test": 1000, "seed": 0},
            }
        )
        prepared = prepare(spec)
        for comparison in (gauc(), stream(prepared), epoch(prepared), rowwise(), table_size()):
            ours, theirs = comparison
            seconds(ours), seconds(theirs)
            times = np.array([(seconds(ours), seconds(theirs)) for _ in range(RUNS)])
            ratio = times[:, 1] / times[:, 0]
            median = np.median(times, axis=0)
            name = comparison.gi_code.co_name  # type: ignore[attr-defined]
            spread = f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
            table.add_row(
                f"{name}: {globals()[name].__doc__.strip()}", f"{median[0]:.3f} s", f"{median[1]:.3f} s", spread
            )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
