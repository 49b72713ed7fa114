"""DeepCTR-Torch's part of training.py: its layers and its loop on our prepared rows.

    python deepctr_side.py PREPARED FIELD,...

It runs in its own environment. It prints the seconds of an epoch with validation, those of an
evaluation, and twice nan, because it has no gAUC. It minimises BCE alone: its loop accepts no other
loss that needs the label.
"""

import json
import math
import sys
import time
from pathlib import Path

import polars as pl
import torch
from deepctr_torch.inputs import SparseFeat, combined_dnn_input, create_embedding_matrix
from deepctr_torch.layers import DNN
from deepctr_torch.models.basemodel import BaseModel

BATCH = 10_000


class DualMLP(BaseModel):
    """The dual MLP of training.py: separate tables, and a learned sum of the two logits."""

    def __init__(self, columns: list[SparseFeat], narrow: list[SparseFeat], l2: float) -> None:
        super().__init__([], columns, l2_reg_linear=0, l2_reg_embedding=l2)
        self.narrow = create_embedding_matrix(narrow, 1e-4, sparse=False)
        self.add_regularization_weight(self.narrow.parameters(), l2=l2)
        options = {"activation": "relu", "dropout_rate": 0.2, "use_bn": True}
        self.simple = DNN(8 * len(columns), [400, 400], **options)
        self.complex = DNN(16 * len(columns), [400, 400, 400], **options)
        self.heads = torch.nn.ModuleList([torch.nn.Linear(400, 1), torch.nn.Linear(400, 1)])
        self.share = torch.nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoders, tables = (self.simple, self.complex), (self.narrow, self.embedding_dict)
        logits = []
        for head, encoder, table in zip(self.heads, encoders, tables, strict=True):
            embeddings, _ = self.input_from_feature_columns(x, self.dnn_feature_columns, table)
            logits.append(head(encoder(combined_dnn_input(embeddings, []))))
        return self.out(self.share[0] * logits[0] + self.share[1] * logits[1])


def split(folder: Path, name: str, fields: list[str], starts: list[int]):
    """The ids of each field, from 0, and the labels of a split."""
    rows = pl.read_parquet(folder / f"{name}.parquet")
    ids = {field: (rows[field] - start).to_numpy() for field, start in zip(fields, starts, strict=True)}
    return ids, rows["__label"].to_numpy()


def main(prepared: str, names: str) -> list[float]:
    folder, fields = Path(prepared), names.split(",")
    sizes = list(json.loads((folder / "manifest.json").read_text())["vocabulary_sizes"].values())
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    columns, narrow = (
        [SparseFeat(name, size, embedding_dim=dim) for name, size in zip(fields, sizes, strict=True)] for dim in (16, 8)
    )
    model = DualMLP(columns, narrow, 0.05 * BATCH)  # its loss is a sum over rows, and its L2 has no factor 1/2
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy", ["auc", "binary_crossentropy"])
    train, valid = split(folder, "train", fields, starts), split(folder, "valid", fields, starts)

    def epoch() -> float:
        started = time.perf_counter()
        model.fit(
            dict(train[0]), train[1], batch_size=BATCH, epochs=1, verbose=0, validation_data=(dict(valid[0]), valid[1])
        )
        return time.perf_counter() - started

    epoch()  # a warm-up
    seconds, started = epoch(), time.perf_counter()
    metrics = model.evaluate(dict(valid[0]), valid[1], BATCH)
    evaluation = time.perf_counter() - started
    assert metrics["auc"] > 0.9, metrics  # it has learned: no work was left out
    return [seconds, evaluation, math.nan, math.nan]


if __name__ == "__main__":
    print(*main(*sys.argv[1:]))
