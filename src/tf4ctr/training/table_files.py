"""Tables sharded over ranks in checkpoints: each rank writes and reads its own rows.

A checkpoint of several ranks is a file with everything but these tables, and a folder in `tables/`
beside it, which the file names: torch's distributed checkpoint of the tables and of the optimiser's
moments for them. Every save writes a new folder. So a file that is whole names whole tables,
whenever the process is killed. Checkpoints of one rank contain the tables.
"""

import pickle
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.network import Network
from tf4ctr.training.checkpoints import of_all_ranks, other_version

FOLDER, KEY = "tables", "tables"
PREFIX = "network."  # of the names in a checkpoint's state_dict


class SavedTables(NamedTuple):
    """A folder of tables that was written after `step` steps, with or without the moments."""

    name: str
    step: int
    moments: bool


def save_tables(
    folder: Path, network: Network, checkpoint: dict[str, Any], step: int, latest: SavedTables | None
) -> SavedTables:
    """Move the sharded tables of a checkpoint into a folder that the checkpoint names instead.

    Tables that no checkpoint in `folder` names are removed first. Every rank must call it.

    Args:
        folder: where the checkpoint's file will be.
        network: whose state `checkpoint` contains.
        checkpoint: of this rank.
        step: the number of steps of this training.
        latest: what the save before returned. It is not written twice for the same step, unless
            moments are missing, and it is not removed, as its checkpoint may not be in place yet.

    Raises:
        OSError: on all ranks, if one cannot write.
    """
    rows, moments = _take_rows(network, checkpoint), "optimizer_states" in checkpoint
    if latest is None or latest.step != step or moments > latest.moments:
        name = of_all_ranks(uuid.uuid4().hex[:12])[0]
        if distributed.get_rank() == 0:
            remove_unnamed(folder, latest)
        _write(folder / FOLDER / name, rows, network)
        latest = SavedTables(name, step, moments)
    checkpoint[KEY] = latest.name
    return latest


def _write(folder: Path, rows: Mapping[str, Tensor], network: Network) -> None:
    try:
        dcp.save(_over_ranks(rows, network), checkpoint_id=folder)
    except CheckpointException as error:
        shutil.rmtree(folder, ignore_errors=True)
        cause, _ = next(iter(error.failures.values()))
        raise (cause if isinstance(cause, OSError) else OSError(str(cause))) from error


def _take_rows(network: Network, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Take this rank's rows of tables and moments out: by name, and by NAME/KEY for moments."""
    rows: dict[str, Tensor] = {}
    for number, name in enumerate(_tables(network)):
        rows[name] = checkpoint["state_dict"].pop(name).detach().cpu()
        for states in checkpoint.get("optimizer_states", []):
            state = states["state"].get(number, {})
            moments = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
            rows |= {f"{name}/{key}": value.cpu() for key, value in moments.items()}
            # a new dict: this one is the optimiser's own
            states["state"][number] = {key: value for key, value in state.items() if key not in moments}
    return rows


def load_tables(path: Path, network: Network, checkpoint: dict[str, Any], moments: bool = False) -> None:
    """Put this rank's rows of the sharded tables into a checkpoint that was read from `path`.

    They are read into the network's own weights. Any number of ranks can read what another number
    wrote. Every rank must call it. If a table of the checkpoint does not fit the network, its shape
    is put into the checkpoint instead: `load_network` reports it.

    Args:
        path: the checkpoint's file.
        network: its sharded tables have their rows.
        checkpoint: nothing changes in one of a network without sharded tables.
        moments: also read those of the optimiser.

    Raises:
        InputError: the folder of the tables is missing or damaged.
    """
    tables = _tables(network)
    if KEY not in checkpoint:
        _cut_tables(tables, checkpoint, moments)
        return
    folder = path.parent / FOLDER / checkpoint[KEY]
    try:
        shapes = _shapes(folder)
        rows = {
            name: table.weight.detach().cpu() for name, table in tables.items() if shapes.get(name) == _shape(table)
        }
        if moments:
            _add_moments(rows, tables, shapes, checkpoint)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(_over_ranks(rows, network), checkpoint_id=folder)
    except (OSError, CheckpointException, pickle.UnpicklingError) as error:
        raise _unreadable(path, folder, checkpoint, error) from error
    for name, shape in shapes.items():
        if "/" not in name:
            checkpoint["state_dict"][name] = rows.get(name, torch.empty(shape, device="meta"))


def whole_tables(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """All rows of the sharded tables of a checkpoint that was read from `path`, by name.

    Raises:
        InputError: the folder of the tables is missing or damaged.
    """
    if KEY not in checkpoint:
        return {}
    folder = path.parent / FOLDER / checkpoint[KEY]
    try:
        tables = {name: torch.empty(shape) for name, shape in _shapes(folder).items() if "/" not in name}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(tables, checkpoint_id=folder, no_dist=True)
    except (OSError, CheckpointException, pickle.UnpicklingError) as error:
        raise _unreadable(path, folder, checkpoint, error) from error
    return tables


def _unreadable(path: Path, folder: Path, checkpoint: Mapping[str, Any], error: BaseException) -> InputError:
    return InputError(
        f"{path}: its tables in {folder} cannot be read ({error}): the folder {FOLDER} must be beside the"
        f" checkpoint. {other_version(checkpoint)}"
    )


def _add_moments(
    rows: dict[str, Tensor],
    tables: Mapping[str, FieldEmbedding],
    shapes: Mapping[str, torch.Size],
    checkpoint: dict[str, Any],
) -> None:
    """Put empty moments of the shapes that a folder contains into `rows` and into a checkpoint."""
    for number, name in enumerate(tables):
        for key in [key for key in shapes if name in rows and key.startswith(f"{name}/")]:
            rows[key] = rows[name].new_empty(len(rows[name]), shapes[key][1])
            for states in checkpoint["optimizer_states"]:
                states["state"].setdefault(number, {})[key.removeprefix(f"{name}/")] = rows[key]


def remove_unnamed(folder: Path, latest: SavedTables | None) -> None:
    """Remove the tables that no checkpoint in `folder` names, except the latest ones."""
    if not (folder / FOLDER).exists():
        return
    named = {latest and latest.name, *(_named(path) for path in folder.iterdir() if path.is_file())}
    for path in (folder / FOLDER).iterdir():
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _named(path: Path) -> str | None:
    """The tables that a file names; None if it is no checkpoint or is not whole."""
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    return checkpoint.get(KEY) if isinstance(checkpoint, dict) else None


def _tables(network: Network) -> dict[str, FieldEmbedding]:
    """The sharded tables by the names of their weights, in the order of the optimiser."""
    return {
        f"{PREFIX}{name}.weight": table
        for name, table in network.named_modules()
        if isinstance(table, FieldEmbedding) and table.sharded
    }


def _shape(table: FieldEmbedding) -> torch.Size:
    return torch.Size((table.schema.num_ids, table.dim))


def _shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of what a folder contains, by name."""
    metadata = dcp.FileSystemReader(folder).read_metadata()
    return {name: tensor.size for name, tensor in metadata.state_dict_metadata.items()}  # type: ignore[union-attr]


def _over_ranks(rows: Mapping[str, Tensor], network: Network) -> dict[str, Any]:
    """This rank's rows as what they are of the whole; they share its memory."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return dict(rows)
    mesh, tables = init_device_mesh("cpu", (distributed.get_world_size(),)), _tables(network)
    whole: dict[str, Any] = {}
    for name, rows_RD in rows.items():
        shape = torch.Size((tables[name.split("/")[0]].schema.num_ids, rows_RD.shape[1]))
        whole[name] = DTensor.from_local(rows_RD, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1))
    return whole


def _cut_tables(tables: Mapping[str, FieldEmbedding], checkpoint: dict[str, Any], moments: bool) -> None:
    """Keep this rank's rows of the whole tables that one rank wrote."""
    for number, (name, table) in enumerate(tables.items()):
        parts = [(checkpoint["state_dict"], name)]
        for states in checkpoint["optimizer_states"] if moments else []:
            state = states["state"].get(number, {})
            parts += [(state, key) for key, value in state.items() if isinstance(value, Tensor) and value.dim()]
        for values, key in parts:
            if table.shards is not None and key in values and len(values[key]) == table.shards.rows:
                own = table.shards.own
                values[key] = values[key][own.start : own.stop].clone()
