"""What every entry point shows and leaves: tables on the terminal and in the log, metrics as JSON."""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from tf4ctr.files import write_whole

transcript = logging.getLogger("tf4ctr.transcript")  # goes to train.log alone: the terminal has the coloured table


@rank_zero_only
def show(table: Table) -> None:
    """Print `table` on the terminal and write it into the run's log."""
    Console().print(table)
    plain = io.StringIO()
    Console(width=120, file=plain).print(table)
    transcript.info("\n%s", plain.getvalue())


@rank_zero_only
def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write `metrics` as JSON, whole or not at all."""
    write_whole(path, json.dumps(metrics, indent=2) + "\n")
