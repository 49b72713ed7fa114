"""The tables of a training on the terminal: settings, the network's parts, metrics."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import nn

from tf4ctr.data.schema import Schema
from tf4ctr.files import size_text
from tf4ctr.models.affine import Affine
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.network import Network
from tf4ctr.training.memory import TableMemory

# rows of metrics beside those of the heads, and how the names of their metrics begin
BESIDE = {"uncalibrated": "uncalibrated_", "best possible": "best_"}
# options that config.yaml has and the table leaves out: paths, and what nobody changes
UNSHOWN = (
    "layouts",
    "source",
    "dirpath",
    "save_dir",
    "default_root_dir",
    "monitor",
    "mode",
    "filename",
    "enable_version_counter",
)


def origins_table(settings: Iterable[tuple[str, str, str]]) -> Table:
    """The settings that are not defaults.

    Args:
        settings: key, value and where it was set.
    """
    caption = "all others are the defaults of these choices; verbose=true shows them"
    table = Table(title="Settings", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("setting", style="bold", overflow="fold")
    table.add_column("value", style="cyan", overflow="fold")
    table.add_column("from")
    for row in settings:
        table.add_row(*(escape(text) for text in row))
    return table


def settings_table(choices: Mapping[str, str], config: Mapping[str, Any]) -> Table:
    """The composed settings: one row per config group with the chosen option and its values."""
    table = Table(title="All settings", title_justify="left", show_lines=False)
    table.add_column("group", style="bold")
    table.add_column("option", style="cyan")
    table.add_column("values", overflow="fold")
    for group, node in config.items():
        if isinstance(node, Mapping):
            table.add_row(group, choices.get(group) or "", _flat(node))
        elif node is not None:
            table.add_row(group, "", str(node))
    return table


def _flat(node: Mapping[str, Any], prefix: str = "") -> str:
    parts = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            parts.append(_flat(value, f"{prefix}{key}."))
        elif not key.startswith("_") and key not in UNSHOWN and value is not None:
            parts.append(f"{prefix}{key}={value}")
    return "  ".join(part for part in parts if part)


def count_parameters(module: nn.Module) -> int:
    """The number of trainable parameters, also of rows that other ranks have.

    Biases before a batch norm count, as in published numbers, though they stay 0; see
    `models.encoders.mlp.hidden_layers`.
    """
    others = sum(
        (table.shards.rows - len(table.weight)) * table.dim
        for table in module.modules()
        if isinstance(table, FieldEmbedding) and table.shards
    )
    biases = {id(layer.bias) for layer in module.modules() if isinstance(layer, Affine)}
    own = (part.numel() for part in module.parameters() if part.requires_grad or id(part) in biases)
    return others + sum(own)


def data_line(manifest: Mapping[str, Any], schema: Schema) -> str:
    """Rows of the splits, click rate, fields and rows of the embedding table, in one line.

    Args:
        manifest: of the prepared dataset.
        schema: of the same.
    """
    splits = manifest["splits"]
    rows = ", ".join(f"{facts['rows']:,} {split}" for split, facts in splits.items())
    rate = splits["train"]["click_rate"]
    return f"data: rows {rows}; click rate {rate:.4f}; {len(schema.fields)} fields; {schema.num_ids:,} table rows"


def parts_table(network: Network, memory: TableMemory) -> Table:
    """The network's parts: embedding size, number of parameters and their share of all.

    Args:
        network: the network.
        memory: what its tables take on each device in training, shown below.
    """
    sizes = {name: size_text(size) for name, size in {**memory._asdict(), "total": memory.total}.items()}
    caption = "Memory of the tables, per device: " + ", ".join(f"{name} {size}" for name, size in sizes.items())
    table = Table(title="Network", title_justify="left", show_footer=True, caption=caption, caption_justify="left")
    total = count_parameters(network)
    table.add_column("part", footer="total", style="bold")
    table.add_column("module", style="cyan")
    table.add_column("embedding", justify="right")
    table.add_column("parameters", footer=f"{total:,}", justify="right")
    table.add_column("share", justify="right")
    dims = dict(zip(network.encoders, network.ssem.dims, strict=True))  # type: ignore[arg-type]
    for name, part in {"ssem": network.ssem, **network.encoders, "dfm": network.dfm}.items():
        own = count_parameters(part)
        cells = str(dims.get(name, "")), f"{own:,}", f"{own / max(1, total):.1%}"
        table.add_row(name, type(part).__name__, *cells)
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Validation (best epoch) and test metrics by head, and the best possible AUC if it is known.

    Args:
        metrics: as in metrics.json; NaN if undefined.
    """
    table = Table(title=f"Best epoch {metrics['best_epoch']} of {metrics['epochs']}", title_justify="left")
    table.add_column("split", style="bold")
    table.add_column("head")
    names = {"auc": "AUC", "logloss": "logloss", **({"gauc": "gAUC"} if "val/gauc" in metrics else {})}
    for title in names.values():
        table.add_column(title, justify="right")
    heads = dict.fromkeys(key.split("/")[1] for key in metrics if key.count("/") == 2)
    for stage in ("val", "test"):
        for head in ("fused", "uncalibrated", *heads, "best possible"):
            start = {"fused": "", **BESIDE}.get(head, f"{head}/")
            keys = [f"{stage}/{start}{name}" for name in names]
            cells = [_cell(metrics[key]) if key in metrics else "" for key in keys]
            if any(cells):
                table.add_row(stage, head, *cells, end_section=head == "best possible")
    return table


def distance_line(metrics: Mapping[str, Any]) -> str | None:
    """How far the test AUC is from the best possible one; None if that is not known."""
    auc, best = metrics.get("test/auc", math.nan), metrics.get("test/best_auc", math.nan)
    distance = best - auc
    return None if math.isnan(distance) else f"test AUC {auc:.6f}, {distance:.6f} from the best possible {best:.6f}"


def _cell(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.6f}"
