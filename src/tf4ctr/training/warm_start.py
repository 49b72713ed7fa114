"""init=RUN: begin from the best weights of a run, on data that has new values."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.table import Table
from torch import Tensor, nn

from tf4ctr.data import vocabulary
from tf4ctr.data.fields import FieldSpec
from tf4ctr.data.growth import Base, kept_rows, owners
from tf4ctr.data.schema import Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.network import Network
from tf4ctr.models.vectors import VectorsOfValues
from tf4ctr.training.table_files import whole_tables

log = logging.getLogger(__name__)

# options of a field that change what its weights mean; others may differ from those of the run
MEANING = ("kind", "transform", "clip", "scale", "hash", "of", "pooling", "aligned_with", "target", "gaps")
SHOWN = 5  # differences in an error
CALIBRATION = "calibration."  # of the state_dict: the first validation fits it anew


@dataclass(frozen=True)
class WarmStart:
    """The run to begin from.

    Attributes:
        base: its schema and vocabulary.
        fields: how its fields are made of raw columns.
        weights: its best weights, by the names of the network's `state_dict`, without calibration.
    """

    base: Base
    fields: tuple[FieldSpec, ...]
    weights: Mapping[str, Tensor]

    @classmethod
    def of_run(cls, folder: Path) -> "WarmStart":
        """Open a run's folder. The weights are read when they are copied.

        Raises:
            InputError: it is a file, or contains no run with best weights, or no vocabulary.
        """
        if folder.is_file():
            run = folder.parent.parent if folder.parent.name == "checkpoints" else "RUN"
            raise InputError(f"init={folder} is a file: name the run's folder, init={run}")
        for name in ("config.yaml", "checkpoints/best.ckpt"):
            if not (folder / name).is_file():
                raise InputError(
                    f"init={folder}: there is no {name}; name the folder of a run that has finished a validation"
                )
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml").dataset, resolve=True)
        checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", "cpu", weights_only=True, mmap=True)
        prefix = "network."
        state = checkpoint["state_dict"] | whole_tables(folder / "checkpoints" / "best.ckpt", checkpoint)
        weights = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        weights = {name: weight for name, weight in weights.items() if not name.startswith(CALIBRATION)}
        base = Base(folder, Schema.from_dict(checkpoint["schema"]))
        assert base.values.keys() <= {field.name for field in owners(base.schema)}  # raises if one is missing
        return cls(base, DatasetSpec.from_config(config).fields, weights)  # type: ignore[arg-type]

    def grow(self, spec: DatasetSpec) -> None:
        """Check that a dataset can grow from the run's: the same fields, made in the same way.

        Raises:
            InputError: names what differs.
        """
        own, its = ({field.name: field for field in fields} for fields in (spec.fields, self.fields))
        differing = [f"field {name} is new" for name in own if name not in its]
        differing += [f"field {name} is missing" for name in its if name not in own]
        for name in own.keys() & its.keys():
            for option in MEANING:
                old, new = getattr(its[name], option), getattr(own[name], option)
                if old != new:
                    differing.append(f"{name}.{option} was {old!r} and is {new!r}")
        if not differing and list(own) != list(its):
            differing = [f"the order of the fields was {', '.join(its)} and is {', '.join(own)}"]
        self._refuse("dataset.fields", sorted(differing))

    def check(self, network: Network) -> None:
        """Check that a network has the run's weights, up to the number of rows of its tables.

        Args:
            network: of any vocabulary, with the run's scaling of numbers.

        Raises:
            InputError: names the weights that differ in name or shape.
        """
        own, by_row = _weights(network), {name for name, _ in _tables(network)}
        differing = [f"{name} is new" for name in own if name not in self.weights]
        differing += [f"{name} is missing" for name in self.weights if name not in own]
        for name in own.keys() & self.weights.keys():
            first = int(name in by_row)
            old, new = list(self.weights[name].shape)[first:], list(own[name].shape)[first:]
            if old != new:
                rows = ["rows"] * first
                differing.append(f"{name} was {_shape(rows + old)} and is {_shape(rows + new)}")
        self._refuse("the network", sorted(differing))

    def _refuse(self, what: str, differing: list[str]) -> None:
        if differing:
            more = f"\n  and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            lines = "\n".join(f"  {line}" for line in differing[:SHOWN])
            raise InputError(
                f"init={self.base.folder}: {what} differs from the run's:\n{lines}{more}\nRepeat the run's options of"
                " dataset, embedding, number, sequence, backbone, ssem and dfm, or train without init="
            )

    @torch.no_grad()
    def load(self, network: Network, schema: Schema, prepared_dir: Path) -> Table:
        """Give a network the run's weights; rows of values new to the run stay as they are drawn.

        Args:
            network: of the new dataset, with its given vectors.
            schema, prepared_dir: of the new dataset.

        Returns:
            a table for the terminal: rows kept, new and dropped of each field.

        Raises:
            InputError: see `check`.
        """
        self.check(network)
        names = [field.name for field in owners(schema) if field.name in self.base.values]
        values = {name: vocabulary.load(name, prepared_dir / "vocabulary") for name in names}
        rows = kept_rows(self.base, schema, values)
        log.info("begins from the best weights of %s", self.base.folder)
        tables, own = dict(_tables(network)), _weights(network)
        places = torch.from_numpy(self._places(rows))
        for name, target in own.items():
            table = tables.get(name)
            if table is None:
                target.copy_(self.weights[name])
            elif isinstance(table, FieldEmbedding):
                table.begin(self.weights[name], places)
        for name, table in tables.items():
            if isinstance(table, VectorsOfValues) and name.endswith("table_NV"):
                field = schema.vector_fields[int(name.split(".")[-2])]
                self._load_vectors(table, name.removesuffix("table_NV"), torch.from_numpy(rows[str(field.of)]))
        return _rows_table(self.base, rows)

    def _places(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """The run's table row of each row of the new table, -1 for a new value."""
        of_fields = [np.where(rows[name] < 0, -1, rows[name] + self.base.schema.offset_of(name)) for name in rows]
        return np.concatenate(of_fields)

    def _load_vectors(self, table: VectorsOfValues, prefix: str, rows: Tensor) -> None:
        """The vectors of a field's values.

        A trained vector is the run's. A frozen one is that of the dataset's file, and the run's for
        a value that the file no longer has.
        """
        given, vectors = self.weights[f"{prefix}given_N"], self.weights[f"{prefix}table_NV"]
        taken = (rows >= 0) & given[rows.clamp(min=0)]
        if not isinstance(table.table_NV, nn.Parameter):
            taken &= ~table.given_N
        table.table_NV[taken] = vectors[rows[taken]]
        table.given_N |= taken


def _weights(network: Network) -> dict[str, Tensor]:
    """The weights that a run can give."""
    return {name: weight for name, weight in network.state_dict().items() if not name.startswith(CALIBRATION)}


def _tables(network: Network) -> Iterator[tuple[str, nn.Module]]:
    """The names of the weights that have one row per value, and the modules that have them."""
    for name, module in network.named_modules():
        if isinstance(module, FieldEmbedding):
            yield f"{name}.weight", module
        elif isinstance(module, VectorsOfValues):
            yield f"{name}.table_NV", module
            yield f"{name}.given_N", module


def _shape(shape: list[Any]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _rows_table(base: Base, rows: Mapping[str, np.ndarray]) -> Table:
    table = Table(title="Rows of the table", title_justify="left")
    table.add_column("field", style="bold")
    for title in ("kept", "new", "dropped"):
        table.add_column(title, justify="right")
    for name, rows_of_field in rows.items():
        kept = int((rows_of_field >= 0).sum())
        counts = (kept, len(rows_of_field) - kept, base.schema[name].vocabulary_size - kept)
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table
