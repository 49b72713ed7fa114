"""DeepCTR-Torch's part of training.py and histories.py: its layers and loop on our prepared rows.

    python deepctr_side.py PREPARED FIELD,...
    python deepctr_side.py din PREPARED BATCH WARM STEPS

It runs in its own environment. It prints the seconds of an epoch with validation, those of an
evaluation, and twice nan, because it has no gAUC. It minimises BCE alone: its loop accepts no other
loss that needs the label.

`din` trains its DIN. It prints the seconds of a step alone (the median), those of a step in its
loop with its loader, and the number of parameters. The first WARM steps are not timed.
"""

import json
import math
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import torch
from deepctr_torch.inputs import (
    DenseFeat,
    SparseFeat,
    VarLenSparseFeat,
    combined_dnn_input,
    create_embedding_matrix,
)
from deepctr_torch.layers import DNN
from deepctr_torch.models import DIN
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


def din_columns(schema: dict) -> list:
    """Its columns of a schema. A history is called hist_, and then the column of its values."""
    sizes = {field["name"]: field["vocabulary_size"] for field in schema["fields"]}
    columns = []
    for field in schema["fields"]:
        kind, name = field.get("kind", "categorical"), field["name"]
        if kind == "categorical":
            columns.append(SparseFeat(name, sizes[name], embedding_dim=16))
        elif kind == "number":
            columns.append(DenseFeat(name))
        else:
            values = SparseFeat(f"hist_{field['of']}", sizes[field["of"]], 16, embedding_name=field["of"])
            columns.append(VarLenSparseFeat(values, field["width"], length_name="length"))
    return columns


def din_rows(folder: Path, schema: dict, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns' values of the first training rows, and the labels."""
    table = pl.read_parquet(folder / "train.parquet", n_rows=rows)
    values, starts, start = {}, {}, 0
    for field in schema["fields"]:
        name, of, width = field["name"], field.get("of"), field.get("width", 1)
        if of is None and field.get("kind") != "number":
            starts[name], start = start, start + field["vocabulary_size"]
        columns = [name] if width == 1 else [f"{name}.{place}" for place in range(width)]
        column = table.select(columns).to_numpy() - starts.get(of or name, 0)
        # all columns become one matrix, which int32 beside float32 would make float64
        values[f"hist_{of}" if of else name] = column.astype(np.float32)
        if of:
            values["length"] = (column != 0).sum(1, keepdims=True).astype(np.float32)
    return values, table["__label"].to_numpy()


def din(prepared: str, batch_size: str, warm: str, steps: str) -> tuple[float, float, int]:
    size, first, last = int(batch_size), int(warm), int(warm) + int(steps)
    schema = json.loads((Path(prepared) / "schema.json").read_text())
    columns = din_columns(schema)
    histories = [column.embedding_name for column in columns if isinstance(column, VarLenSparseFeat)]
    model = DIN(columns, histories, dnn_hidden_units=(256, 128), att_hidden_size=(64,), l2_reg_embedding=0)
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy")
    values, label = din_rows(Path(prepared), schema, last * size)
    matrix = torch.from_numpy(np.concatenate([values[name] for name in model.feature_index], 1))
    batches = zip(matrix.split(size), torch.from_numpy(label).float().split(size), strict=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        """A step as in its fit, which has no function for it."""
        prediction = model(x).squeeze()
        model.optim.zero_grad()
        loss = model.loss_func(prediction, y, reduction="sum") + model.get_regularization_loss() + model.aux_loss
        loss.backward()
        model.optim.step()
        return loss.item()

    model.train()
    seconds, losses = [], []
    for x, y in batches:
        started = time.perf_counter()
        losses.append(step(x, y) / len(y))
        seconds.append(time.perf_counter() - started)
    assert losses[-1] < losses[0], losses
    timed = {name: column[first * size :] for name, column in values.items()}
    started = time.perf_counter()
    model.fit(timed, label[first * size :], batch_size=size, epochs=1, verbose=0)
    loop = (time.perf_counter() - started) / (last - first)
    return median(seconds[first:]), loop, sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    print(*(din(*sys.argv[2:]) if sys.argv[1] == "din" else main(*sys.argv[1:])))
