"""What a person sees of a run: tables in the terminal and in train.log, curves.png and metrics.json in its folder."""

import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import nn

from tf4ctr.models.network import Network

transcript = logging.getLogger("tf4ctr.transcript")  # goes to train.log alone: the terminal has the coloured table


@rank_zero_only
def show(table: Table) -> None:
    """Print `table` on the terminal and write it into the run's log."""
    Console().print(table)
    plain = io.StringIO()
    Console(width=120, file=plain).print(table)
    transcript.info("\n%s", plain.getvalue())


# in config.yaml, and of no interest at a glance
UNSHOWN = ("layouts", "source", "dirpath", "save_dir", "default_root_dir", "monitor", "mode", "filename", "enable_version_counter")


def settings_table(choices: Mapping[str, str], config: Mapping[str, Any]) -> Table:
    """The composed settings: a row for each config group with the option chosen and its values."""
    table = Table(title="Settings", title_justify="left", show_lines=False)
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
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def parts_table(network: Network) -> Table:
    """The network's parts and their parameters."""
    table = Table(title="Network", title_justify="left", show_footer=True)
    table.add_column("part", footer="total", style="bold")
    table.add_column("module", style="cyan")
    table.add_column("parameters", footer=f"{count_parameters(network):,}", justify="right")
    for name, part in {"ssem": network.ssem, **network.encoders, "dfm": network.dfm}.items():
        table.add_row(name, type(part).__name__, f"{count_parameters(part):,}")
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Validation (best epoch) and test metrics of every head, the best possible AUC where it is known."""
    table = Table(title=f"Best epoch {metrics['best_epoch']} of {metrics['epochs']}", title_justify="left")
    table.add_column("split", style="bold")
    table.add_column("head")
    names = {"auc": "AUC", "logloss": "logloss", **({"gauc": "gAUC"} if "val/gauc" in metrics else {})}
    for title in names.values():
        table.add_column(title, justify="right")
    heads = dict.fromkeys(key.split("/")[1] for key in metrics if key.count("/") == 2)
    for stage in ("val", "test"):
        for head in ("fused", *heads, "best"):
            keys = [
                f"{stage}/best_{name}" if head == "best" else f"{stage}/{'' if head == 'fused' else head + '/'}{name}" for name in names
            ]
            cells = [f"{metrics[key]:.6f}" if key in metrics else "" for key in keys]
            if any(cells):
                table.add_row(stage, "best possible" if head == "best" else head, *cells, end_section=head == "best")
    return table


@rank_zero_only
def write_metrics(metrics: Mapping[str, Any], folder: Path, name: str = "metrics.json") -> None:
    """Write `folder/name`, whole or not at all."""
    partial = folder / f"{name}.partial"
    partial.write_text(json.dumps(metrics, indent=2) + "\n")
    partial.replace(folder / name)


@rank_zero_only
def draw_curves(folder: Path) -> Path | None:
    """Draw `folder/curves.png` from `folder/metrics.csv`: training terms, logloss and AUC of every head over the epochs.

    Returns:
        the picture's path, None where there is no metrics.csv (logger=none) or no epoch in it.
    """
    source = folder / "metrics.csv"
    if not source.exists():
        return None
    from matplotlib.figure import Figure  # not at the top: most of a second

    rows = pl.read_csv(source)
    panels = {
        "training loss and its terms": [name for name in rows.columns if name.startswith("train/")],
        "validation logloss": [name for name in rows.columns if name.startswith("val/") and name.endswith("logloss")],
        "validation AUC": [name for name in rows.columns if name.startswith("val/") and name.endswith("/auc")],
    }
    if "val/gauc" in rows.columns:
        panels["validation gAUC"] = ["val/gauc"]
    colours = _colours(rows.columns)
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(rows["epoch"], rows[name], marker=".", label=name, color=colours[name])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _colours(names: Iterable[str]) -> dict[str, str]:
    """One colour a head, in every panel: VAL/HEAD/METRIC, train/tf_HEAD; what is no head's is the fused one's."""
    heads = dict.fromkeys(name.split("/")[1] for name in names if name.count("/") == 2)
    palette = {f"tf_{head}": f"C{number}" for number, head in enumerate(heads, start=1)}
    palette |= {head: palette[f"tf_{head}"] for head in heads}
    return {name: "0.5" if name == "train/loss" else palette.get(name.split("/")[1], "C0") for name in names if "/" in name}
