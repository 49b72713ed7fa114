"""Many runs side by side: one row a setting, mean and deviation over seeds, best first; markdown, csv and a picture."""

import json
import logging
from pathlib import Path

import polars as pl
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from tf4ctr.errors import InputError

log = logging.getLogger(__name__)

SHOWN = {
    "test/auc": "test AUC",
    "test/logloss": "logloss",
    "test/gauc": "gAUC",
    "parameters": "parameters",
    "epochs": "epochs",
    "seconds": "seconds",
}
DIGITS = {"test/auc": 5, "test/logloss": 4, "test/gauc": 5, "parameters": 0, "epochs": 1, "seconds": 0}


def collect(folder: Path) -> pl.DataFrame:
    """One row a job of the sweep in `folder`: `job`, `seed`, `setting` (the overrides that differ between the jobs), `error`, its metrics.

    Raises:
        InputError: there is no job in it.
    """
    jobs = sorted((path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")), key=lambda job: (len(job.name), job.name))
    if not jobs:
        raise InputError(f"{folder} holds no job of a sweep (a folder with .hydra/overrides.yaml)")
    overrides = [dict(str(each).split("=", 1) for each in OmegaConf.load(job / ".hydra" / "overrides.yaml")) for job in jobs]
    differ = sorted({key for each in overrides for key in each if len({other.get(key) for other in overrides}) > 1} - {"seed"})
    rows = []
    for job, values in zip(jobs, overrides, strict=True):
        metrics, error = job / "metrics.json", job / "error.txt"
        if metrics.exists():
            found = {"error": None, **json.loads(metrics.read_text())}
        else:
            lines = error.read_text().splitlines() if error.exists() else ["stopped before its end"]
            found = {"error": lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)}
        setting = " ".join(f"{key}={values[key]}" for key in differ if key in values)
        rows.append({"job": job.name, "seed": values.get("seed"), "setting": setting or "as composed", **found})
    return pl.DataFrame(rows, infer_schema_length=None)


def summarise(jobs: pl.DataFrame) -> pl.DataFrame:
    """One row a setting: runs, mean and deviation over seeds of what is `SHOWN`; best test AUC first."""
    done = jobs.filter(pl.col("error").is_null())
    shown = [name for name in SHOWN if name in done.columns]
    deviations = [pl.col(name).std().alias(f"{name} std") for name in shown if name.startswith("test/")]
    summary = done.group_by("setting").agg(pl.len().alias("runs"), *(pl.col(name).mean() for name in shown), *deviations)
    return summary.sort(shown[0] if shown else "setting", descending=True)


def rows_of(summary: pl.DataFrame) -> list[list[str]]:
    """The summary as people read it, the title row first: deviations beside their means, where there are several seeds."""
    shown = [name for name in SHOWN if name in summary.columns]
    rows = [["setting", "runs", *(SHOWN[name] for name in shown)]]
    for row in summary.iter_rows(named=True):
        cells = []
        for name in shown:
            cell = "" if row[name] is None else f"{row[name]:,.{DIGITS[name]}f}"
            if row.get(f"{name} std") is not None:
                cell += f" ± {row[f'{name} std']:.{DIGITS[name]}f}"
            cells.append(cell)
        rows.append([row["setting"], str(row["runs"]), *cells])
    return rows


def show_comparison(jobs: pl.DataFrame, folder: Path) -> None:
    """Print the table, and write it as report.md and report.csv, one row a job in jobs.csv, into `folder`."""
    title, *rows = rows_of(summarise(jobs))
    table = Table(title=str(folder), title_justify="left")
    for name in title:
        table.add_column(name, justify="left" if name == "setting" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [f"| {' | '.join(row)} |" for row in (title, ["---", *("---:" for _ in title[1:])], *rows)]
    failed = [(row["job"], row["setting"], row["error"]) for row in jobs.filter(pl.col("error").is_not_null()).iter_rows(named=True)]
    for job, setting, error in failed:
        lines += [*([""] if (job, setting, error) == failed[0] else []), f"- job {job}, {setting}: {error}"]
        Console().print(f"job {job}, {setting}: {error}", markup=False)
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    summarise(jobs).write_csv(folder / "report.csv")
    jobs.write_csv(folder / "jobs.csv")
