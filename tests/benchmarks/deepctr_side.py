"""DeepCTR-Torch's part of training.py, run in an environment of its own: its layers and its loop on what we prepared.

python deepctr_side.py PREPARED FIELD,...      prints seconds of an epoch with validation, of an evaluation, nan (it has no gAUC), nan

It minimises BCE alone: its loop gives a model no place for a loss that sees the label.
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
        logits = [
            head(
                encoder(combined_dnn_input(self.input_from_feature_columns(x, self.dnn_feature_columns, tables)[0], []))
            )
            for head, encoder, tables in zip(
                self.heads, (self.simple, self.complex), (self.narrow, self.embedding_dict), strict=True
            )
        ]
        return self.out(self.share[0] * logits[0] + self.share[1] * logits[1])


def split(folder: Path, name: str, fields: list[str], starts: list[int]):
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
    model = DualMLP(columns, narrow, 0.05 * BATCH)  # its loss is a sum over rows, and its L2 has no half
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy", ["auc", "binary_crossentropy"])
    train, valid = split(folder, "train", fields, starts), split(folder, "valid", fields, starts)

    def epoch() -> float:
        started = time.perf_counter()
        model.fit(
            dict(train[0]), train[1], batch_size=BATCH, epochs=1, verbose=0, validation_data=(dict(valid[0]), valid[1])
        )
        return time.perf_counter() - started

    epoch()
    whole, started = epoch(), time.perf_counter()
    found = model.evaluate(dict(valid[0]), valid[1], BATCH)
    evaluation = time.perf_counter() - started
    assert found["auc"] > 0.9, found
    return [whole, evaluation, math.nan, math.nan]


if __name__ == "__main__":
    print(*main(*sys.argv[1:]))
