"""Our part of histories.py: DIN, its steps, and random rows for histories of any width.

    python tf4ctr_side.py din PREPARED BATCH WARM STEPS [OVERRIDE...]

It prints the seconds of a step alone (the median) and in Lightning, and the number of parameters.
The first WARM steps are not timed. An OVERRIDE is one of train.py's, as embedding=rowwise.
"""

import sys
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer

from tf4ctr import assembly, cli
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.schema import SEQUENCES, Field, Schema
from tf4ctr.data.stream import Batch
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.training.module import CTRModule
from tf4ctr.training.optim import clip_grad_norm

CONF = Path(__file__).resolve().parents[2] / "conf"
SIZES = (
    "dataset=taobao_ad",
    "backbone=dnn",
    "framework=plain",
    "embedding.dim=16",
    "embedding.l2=0",
    "backbone.complex.hidden_units=[256,128]",
    "backbone.complex.batch_norm=false",
    "backbone.complex.dropout=0",
)
DIN = ("sequence=attention", "sequence.hidden_units=[64]")


def build(schema: Schema, *overrides: str) -> CTRModule:
    """The MLP over the fields of a schema, with its loss and optimiser, as train.py builds them."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return assembly.build_module(compose("train", [*SIZES, *overrides]), schema)


def train(module: CTRModule, batches: Iterable[Batch]) -> list[float]:
    """Take a step on each batch, as in Lightning.

    Returns:
        the seconds of each.
    """
    module.train()
    optimizer, seconds, losses = module.configure_optimizers(), [], []
    for batch in batches:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = module.loss(module.network(batch.ids, batch.numbers), batch.label)["loss"]
        loss.backward()
        clip_grad_norm(module.parameters(), 10)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    assert losses[-1] < losses[0], losses
    return seconds


class Clock(Callback):
    """Measures the steps of an epoch after the first `warm` ones."""

    def __init__(self, warm: int) -> None:
        self.warm, self.started, self.seconds = warm, 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.warm:
            self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started


def din(prepared: str, batch_size: str, warm: str, steps: str, *overrides: str) -> tuple[float, float, int]:
    cli.quiet_lightning()
    cli.keep_memory()
    rows, most = CTRDataModule(Path(prepared), int(batch_size)), int(warm) + int(steps)
    module = build(rows.schema, *DIN, *overrides)
    alone = train(module, list(islice(iter(rows.train_dataloader()), most)))[int(warm) :]
    clock = Clock(int(warm))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=most,
        limit_val_batches=0,
        gradient_clip_val=10,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, rows)
    parameters = sum(parameter.numel() for parameter in module.network.parameters())
    return float(np.median(alone)), clock.seconds / int(steps), parameters


def random_rows(sizes: Mapping[str, int], histories: Mapping[str, str], width: int, rows: int) -> tuple[Schema, Batch]:
    """Rows of ids and of one history of 0 to `width` positions.

    Args:
        sizes: how many values each field has.
        histories: the aligned sequences, and the fields whose values they have.
        width: columns of each sequence.
        rows: B.
    """
    leader = next(iter(histories))
    fields = [Field(name, size + 2) for name, size in sizes.items()]
    for name, of in histories.items():
        aligned_with = None if name == leader else leader
        fields.append(Field(name, sizes[of] + 2, width, SEQUENCES, of, aligned_with=aligned_with, target=of))
    schema = Schema("random", tuple(fields), "click")
    known_BL = torch.arange(width) < torch.randint(0, width + 1, (rows, 1))
    columns = []
    for field in schema.id_fields:
        # the square makes frequencies uneven
        drawn = 1 + ((field.vocabulary_size - 2) * torch.rand(rows, field.width).square()).int()
        columns.append(schema.offset_of(field.name) + (drawn * known_BL if field.kind == SEQUENCES else drawn))
    return schema, Batch(torch.cat(columns, 1).int(), torch.randint(0, 2, (rows,)).float())


if __name__ == "__main__":
    print(*globals()[sys.argv[1]](*sys.argv[2:]))
