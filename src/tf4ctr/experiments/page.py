"""report.html: one file with the runs to sort, filter and compare; no server, no network."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.experiments.html_file import fill, has_plotly, json_text, picture, table
from tf4ctr.experiments.records import TEXTS, load_yaml
from tf4ctr.experiments.run_contents import data_tables, read_calibration, read_evaluations, read_focus
from tf4ctr.experiments.runs import ROOT
from tf4ctr.files import write_whole

PICTURES = {  # of a search; the page draws all others itself
    "importance": "Importance of the parameters of the search",
    "parallel": "Trials of the search, one line each",
}
MOST_SEEDS = 100  # of a setting whose differences have an interval


def write_page(folder: Path, runs: pl.DataFrame, summary: Sequence[Sequence[str]]) -> Path | None:
    """Write `folder/report.html`.

    Args:
        runs: one row per run, see `comparison.Jobs`.
        summary: the table of settings as text, the titles first.

    Returns:
        the page's path; None, and a line in the log, if plotly is not installed.
    """
    path = folder / "report.html"
    path.unlink(missing_ok=True)  # of an earlier report
    if not has_plotly(path.name):
        return None
    write_whole(path, page(folder, runs, summary))
    return path


def page(folder: Path, runs: pl.DataFrame, summary: Sequence[Sequence[str]]) -> str:
    """The text of the page."""
    parts = {
        "TITLE": html.escape(f"Runs of {folder.name}"),
        "SUMMARY": table(summary),
        "UNTRAINED": _untrained(runs),
        "PICTURES": "\n".join(picture(folder / f"{name}.png", text) for name, text in PICTURES.items()),
        "DATASETS": _datasets(runs),
        "DATA": json_text({"runs": page_runs(runs), "t": t_quantiles()}),
        "SCRIPT": Path(__file__).with_name("page.js").read_text(),
    }
    return fill("page.html", parts)


def page_runs(runs: pl.DataFrame) -> list[dict[str, Any]]:
    """The runs as the page reads them: only the keys of the config in which they differ."""
    metrics = [name for name in runs.columns if name not in TEXTS and runs.schema[name].is_numeric()]
    rows = list(runs.iter_rows(named=True))
    configs = [json.loads(row["config"] or "{}") for row in rows]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    return [
        {
            **{name: row[name] for name in ("job", "run", "dataset", "setting", "seed", "error")},
            "metrics": {name: _finite(row[name]) for name in metrics},
            "config": {key: config.get(key) for key in differing},
            "curves": json.loads(row["curves"] or "{}"),
            # an absolute folder stays as it is
            "focus": read_focus(ROOT / row["run"]),
            "evaluations": read_evaluations(ROOT / row["run"]),
            "calibration": read_calibration(ROOT / row["run"]),
        }
        for row, config in zip(rows, configs, strict=True)
    ]


def t_quantiles() -> list[float]:
    """The 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; empty without scipy."""
    try:
        from scipy.special import stdtrit  # an extra
    except ImportError:
        return []
    return [round(float(stdtrit(degrees, 0.975)), 4) for degrees in range(1, MOST_SEEDS)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no infinite value


def _untrained(runs: pl.DataFrame) -> str:
    """The runs that did not train, with the reason; nothing if all did."""
    rows = runs.select("job", "setting", "error").drop_nulls("error").rows()
    if not rows:
        return ""
    return "<h2>Runs that did not train</h2>" + table([("job", "setting", "reason"), *rows], "reasons")


def _datasets(runs: pl.DataFrame) -> str:
    """The tables of each prepared dataset of the runs that is still there."""
    found: dict[str | None, str] = {}  # by folder
    for run in runs["run"]:
        dataset = load_yaml(ROOT / run / "config.yaml").get("dataset", {})
        if (folder := dataset.get("prepared_dir")) not in found:
            tables = "".join(map(table, data_tables(dataset)))
            found[folder] = f"<h3>{html.escape(dataset['name'])}</h3>{tables}" if tables else ""
    return "".join(found.values()) or '<p class="note">The prepared datasets of these runs are not here.</p>'
