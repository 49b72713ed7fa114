"""report.html: one file with the runs to sort, filter and compare; no server, no network."""

import base64
import html
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.experiments.records import TEXTS
from tf4ctr.experiments.runs import ROOT
from tf4ctr.files import write_whole

log = logging.getLogger(__name__)

PICTURES = {  # of a search; the page draws all others itself
    "importance": "Importance of the parameters of the search",
    "parallel": "Trials of the search, one line each",
}
DIGITS = 4  # of the shares of q: a pixel shows no more


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
    try:
        from plotly.offline import get_plotlyjs  # an extra
    except ImportError:
        log.info('report.html was not written, because plotly is missing: pip install -e ".[report]"')
        return None
    write_whole(path, page(folder, runs, summary, get_plotlyjs()))
    return path


def page(folder: Path, runs: pl.DataFrame, summary: Sequence[Sequence[str]], plotly: str) -> str:
    """The text of the page; `plotly` is the text of plotly.js."""
    here = Path(__file__).parent
    # within a script only "</" and "<!--" end or change it
    content = json.dumps({"runs": page_runs(runs)}, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(f"Runs of {folder.name}"),
        "STYLE": (here / "page.css").read_text(),
        "SUMMARY": _table(summary),
        "PICTURES": "\n".join(_picture(folder / f"{name}.png", text) for name, text in PICTURES.items()),
        "DATA": content,
        "SCRIPT": (here / "page.js").read_text(),
        "PLOTLY": plotly,
    }
    text = (here / "page.html").read_text()
    for name, part in parts.items():  # the large parts last: what they contain is not replaced
        text = text.replace(f"<!--{name}-->", part)
    return text


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
            "focus": _focus(row["run"]),
        }
        for row, config in zip(rows, configs, strict=True)
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no infinite value


def _focus(run: str) -> dict[str, Any] | None:
    """focus.json of a run, if its folder is here: epochs, and per head the shares of q's bins."""
    path = ROOT / run / "focus.json"  # an absolute folder stays as it is
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    q = {
        head: [[round(share, DIGITS) for share in shares] for shares in validations]
        for head, validations in content["q"].items()
    }
    return {"epochs": content["epochs"], "q": q}


def _table(rows: Sequence[Sequence[str]]) -> str:
    titles, *body = rows
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )


def _picture(path: Path, text: str) -> str:
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{text}" src="data:image/png;base64,{content}"><figcaption>{text}</figcaption></figure>'
