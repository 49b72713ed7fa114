"""What entry points show and write: tables on the terminal and in the log, metrics as JSON."""

import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich import get_console
from rich.console import Console
from rich.table import Table

from tf4ctr.files import write_whole

# writes to train.log only: the terminal has the coloured table
transcript = logging.getLogger("tf4ctr.transcript")


@rank_zero_only
def show(table: Table) -> None:
    """Print `table` on the terminal and write it to the run's log."""
    Console().print(table)
    plain = io.StringIO()
    Console(width=120, file=plain).print(table)
    transcript.info("\n%s", plain.getvalue())


@rank_zero_only
def say(line: str) -> None:
    """Print a line on the terminal, above a progress bar, and write it to the run's log."""
    # the console of the bar; any other one would write into the bar
    get_console().print(line, soft_wrap=True, markup=False, highlight=False)
    transcript.info(line)


@rank_zero_only
def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write `metrics` as JSON without undefined ones (NaN, infinite), which JSON cannot contain."""
    defined = {key: value for key, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}
    write_whole(path, json.dumps(defined, indent=2, allow_nan=False) + "\n")
