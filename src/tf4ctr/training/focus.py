"""The Twin Focus in training: each head's q and weight in the fusion, and gm's gate by value."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tf4ctr.data.encoding import value_names
from tf4ctr.data.schema import Schema
from tf4ctr.files import write_whole
from tf4ctr.models.ssem import GatingMechanism
from tf4ctr.training.head_colours import SIMPLE, head_colours
from tf4ctr.training.module import CTRModule
from tf4ctr.training.schedule import epochs_trained

BINS = 40  # of q from 0 to 1: a picture of 300 pixels shows no more
DRAWN_VALUES = 200  # the most frequent ones of each field: more dots hide each other


class FocusPictures(Callback):
    """Observes every validation. When training ends or is stopped, it writes into the run's folder:

    - focus.json and its picture focus.png: per validation, the distribution over its rows of
      q, the probability that a head gives to the true class, for every head; and the mean weight of
      each head in the fusion, if the DFM has weights (wsf, vf, moef).
    - with ssem=gm, gates.csv and its picture gates.png: for each value of each field, its rows in
      the last validation, and the mean share of a sample that the gate gives to the simple encoder.
      The values of histories do not count as values of the row.

    Args:
        dirpath: the run's folder; its vocabulary/ names the values.
    """

    def __init__(self, dirpath: str) -> None:
        self.folder = Path(dirpath)
        self.epochs: list[int | float] = []  # trained before each validation
        self.q: dict[str, list[list[float]]] = {}  # per head: the shares of the bins, one row per validation
        self.weights: dict[str, list[float]] = {}  # per head: its mean weight, one per validation
        self.gates: pl.DataFrame | None = None
        self._counts: dict[str, Tensor] = {}
        self._hook: RemovableHandle | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        network = cast(CTRModule, pl_module).network
        self._counts = {}
        if hasattr(network.dfm, "weights"):
            self._hook = network.dfm.register_forward_hook(self._add_weights)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module = cast(CTRModule, pl_module)
        for head, logit_B in outputs.items():
            q_B = torch.sigmoid((2 * batch.label - 1) * logit_B.float())
            self._add(f"q/{head}", torch.histc(q_B, BINS, 0, 1).double())
        if isinstance(ssem := module.network.ssem, GatingMechanism):
            share_BK = ssem.shares(ssem.table(batch.ids, batch.numbers))
            ids_BW = batch.ids[:, : ssem.table.num_columns]  # without histories: a row has many of their values
            ids = ids_BW.long().flatten()
            share = share_BK[:, :1].double().expand(ids_BW.shape).flatten()
            empty = share.new_zeros(module.schema.num_ids)
            self._add("gate/rows", empty.index_add(0, ids, torch.ones_like(share)))
            self._add("gate/share", empty.index_add(0, ids, share))

    def _add_weights(self, dfm: Any, inputs: tuple[Any, ...], output: Any) -> None:
        weight_BK = dfm.weights(inputs[0])
        self._add(
            "weights",
            torch.cat([weight_BK.double().sum(0), weight_BK.new_tensor([len(weight_BK)], dtype=torch.float64)]),
        )

    def _add(self, name: str, count: Tensor) -> None:
        self._counts[name] = self._counts.get(name, 0) + count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if not self._counts:
            return
        module = cast(CTRModule, pl_module)
        counts = {name: trainer.strategy.reduce(count, reduce_op="sum").cpu() for name, count in self._counts.items()}
        self._counts = {}
        self.epochs.append(epochs_trained(trainer))
        for name, count in counts.items():
            if name.startswith("q/"):
                self.q.setdefault(name.removeprefix("q/"), []).append((count / count.sum()).tolist())
        if "weights" in counts:
            for head, weight in zip(
                module.network.heads, (counts["weights"][:-1] / counts["weights"][-1]).tolist(), strict=True
            ):
                self.weights.setdefault(head, []).append(weight)
        if "gate/rows" in counts and trainer.is_global_zero:
            self.gates = gate_table(
                counts["gate/rows"], counts["gate/share"], module.schema, self.folder / "vocabulary"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not self.epochs or not trainer.is_global_zero:
            return
        content = {"epochs": self.epochs, "q": self.q, "weights": self.weights}
        write_whole(self.folder / "focus.json", json.dumps(content) + "\n")
        draw_focus(self.epochs, self.q, self.weights, self.folder / "focus.png")
        if self.gates is not None:
            self.gates.write_csv(self.folder / "gates.csv")
            draw_gates(self.gates, self.folder / "gates.png")

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": list(self.epochs), "q": dict(self.q), "weights": dict(self.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def gate_table(rows: Tensor, share: Tensor, schema: Schema, folder: Path) -> pl.DataFrame:
    """Columns `field`, `value`, `rows` and `simple` (mean share of the simple encoder).

    Values without rows are left out. The most frequent values of a field come first.

    Args:
        rows, share: for each id, its rows and the sum of their shares, [num_ids] each.
        schema: of the dataset.
        folder: `vocabulary/`.
    """
    tables = []
    for field in schema.id_fields:
        if field.of is not None:  # its rows are those of the other field
            continue
        offset = schema.offset_of(field.name)
        part = slice(offset + 1, offset + field.vocabulary_size)  # without padding
        table = pl.DataFrame(
            {
                "value": value_names(field, folder)[1:],
                "rows": rows[part].long().numpy(),
                "share": share[part].numpy(),
            }
        ).filter(pl.col("rows") > 0)
        mean = (pl.col("share") / pl.col("rows")).alias("simple")
        tables.append(
            table.sort("rows", descending=True).select(pl.lit(field.name).alias("field"), "value", "rows", mean)
        )
    return pl.concat(tables)


def draw_focus(
    epochs: Sequence[float], q: dict[str, list[list[float]]], weights: dict[str, list[float]], path: Path
) -> None:
    """One panel per head (epochs, q, darker for more rows), and one of the heads' weights."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = head_colours([*q, *weights])
    panels = len(q) + bool(weights)
    figure = Figure(figsize=(3.6 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    half = (epochs[-1] - epochs[0]) / (2 * (len(epochs) - 1)) if len(epochs) > 1 else 0.5
    for axis, (head, shares) in zip(axes, q.items(), strict=False):
        image = torch.tensor(shares).T.sqrt().numpy()  # the root: else the bin at 1 hides all others
        shades = LinearSegmentedColormap.from_list(head, ["white", colours[head], "black"])
        axis.imshow(
            image, origin="lower", aspect="auto", cmap=shades, extent=(epochs[0] - half, epochs[-1] + half, 0, 1)
        )
        axis.set_title(f"q of the {head} head", fontsize=10)
        axis.set_xlabel("epoch")
        axis.set_ylabel("q")
    if weights:
        for head, values in weights.items():
            axes[-1].plot(epochs, values, marker=".", label=head, color=colours[head])
        axes[-1].set_title("mean weight in the fusion", fontsize=10)
        axes[-1].set_xlabel("epoch")
        axes[-1].grid(alpha=0.3)
        axes[-1].legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # below: it covers no line
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def draw_gates(gates: pl.DataFrame, path: Path) -> None:
    """One line per field; one dot per frequent value at its share, larger for more rows."""
    from matplotlib.figure import Figure

    fields = gates["field"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(7, 1 + 0.45 * len(fields)), layout="constrained")
    axis = figure.subplots()
    most = cast(int, gates["rows"].max())
    for number, field in enumerate(fields):
        values = gates.filter(field=field).head(DRAWN_VALUES)
        axis.scatter(
            values["simple"],
            [number] * len(values),
            s=200 * values["rows"] / most + 4,
            alpha=0.4,
            color=SIMPLE,
            linewidths=0,
        )
    axis.set_yticks(range(len(fields)), fields)
    axis.invert_yaxis()
    axis.set_xlabel("mean share of the simple encoder")
    axis.set_title("gm's gate by field value", fontsize=10)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
