"""Many runs side by side: one row a setting, mean and deviation over seeds, best first; markdown, csv and pictures."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from tf4ctr.errors import InputError, did_you_mean

SHOWN = {
    "test/auc": "test AUC",
    "test/logloss": "logloss",
    "test/gauc": "gAUC",
    "parameters": "parameters",
    "epochs": "epochs",
    "seconds": "seconds",
}
WIDE = 120  # columns of a terminal that all of these need
DIGITS = {"test/auc": 5, "test/logloss": 4, "test/gauc": 5, "parameters": 0, "epochs": 1, "seconds": 0}


def collect(folder: Path) -> pl.DataFrame:
    """One row a job of the sweep in `folder`: `job`, `seed`, `setting`, a column each override that differs between the jobs, `error`
    (null where the job came to its end) and its metrics. `setting` joins those overrides but the seed.

    Raises:
        InputError: there is no job in it.
    """
    jobs = sorted(
        (path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")),
        key=lambda job: (len(job.name), job.name),
    )
    if not jobs:
        raise InputError(f"{folder} holds no job of a sweep (a folder with .hydra/overrides.yaml)")
    overrides = [
        dict(str(each).split("=", 1) for each in OmegaConf.load(job / ".hydra" / "overrides.yaml")) for job in jobs
    ]
    differ = [key for key in overrides[0] if len({other.get(key) for other in overrides}) > 1 and key != "seed"]
    rows = []
    for job, values in zip(jobs, overrides, strict=True):
        metrics, error = job / "metrics.json", job / "error.txt"
        if metrics.exists():
            found: dict[str, Any] = {"error": None, **json.loads(metrics.read_text())}
        else:
            lines = error.read_text().splitlines() if error.exists() else ["stopped before its end"]
            found = {"error": lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)}
        setting = " ".join(f"{key}={values[key]}" for key in differ if key in values)
        rows.append(
            {"job": job.name, "seed": values.get("seed"), "setting": setting or "as composed"}
            | {key: values.get(key) for key in differ}
            | found
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def summarise(jobs: pl.DataFrame, baseline: str | None = None) -> pl.DataFrame:
    """One row a setting: runs, mean and deviation over seeds of what is `SHOWN`; best test AUC first.

    Args:
        jobs: what `collect` yields.
        baseline: a setting to compare with: adds `difference`, the mean of test AUC minus the baseline's at the same seed, and
            `p`, the two-sided paired t-test's, null where fewer than two seeds are shared.

    Raises:
        InputError: there is no such setting.
    """
    done = jobs.filter(pl.col("error").is_null())
    shown = [name for name in SHOWN if name in done.columns]
    deviations = [pl.col(name).std().alias(f"{name} std") for name in shown if name.startswith("test/")]
    summary = done.group_by("setting").agg(
        pl.len().alias("runs"), *(pl.col(name).mean() for name in shown), *deviations
    )
    summary = summary.sort(shown[0] if shown else "setting", descending=True)
    if baseline is None:
        return summary
    settings = summary["setting"].to_list()
    if baseline not in settings:
        raise InputError(f"baseline='{baseline}': there is no such setting, {did_you_mean(baseline, settings)}")
    with_baseline = done.join(
        done.filter(setting=baseline).select("seed", base="test/auc"), on="seed", nulls_equal=True
    )
    pairs = [{"setting": each, **_paired(with_baseline.filter(setting=each))} for each in settings if each != baseline]
    paired = pl.DataFrame(pairs, {"setting": pl.String, "difference": pl.Float64, "p": pl.Float64})
    return summary.join(paired, "setting", "left", maintain_order="left")


def _paired(runs: pl.DataFrame) -> dict[str, float | None]:
    try:
        from scipy.stats import ttest_rel  # not at the top: an extra
    except ImportError as error:
        raise InputError('baseline= needs scipy: pip install -e ".[report]"') from error
    if not len(runs):
        return {"difference": None, "p": None}
    difference = float((runs["test/auc"] - runs["base"]).mean())  # type: ignore[arg-type]
    return {
        "difference": difference,
        "p": float(ttest_rel(runs["test/auc"], runs["base"]).pvalue) if len(runs) > 1 else None,
    }


def rows_of(summary: pl.DataFrame) -> list[list[str]]:
    """The summary as people read it, the title row first: deviations beside their means, where there are several seeds."""
    shown = [name for name in SHOWN if name in summary.columns]
    compared = "difference" in summary.columns
    rows = [["setting", "runs", *(SHOWN[name] for name in shown), *(["AUC - baseline", "p"] if compared else [])]]
    for row in summary.iter_rows(named=True):
        cells = []
        for name in shown:
            cell = "" if row[name] is None else f"{row[name]:,.{DIGITS[name]}f}"
            if row.get(f"{name} std") is not None:
                cell += f" ± {row[f'{name} std']:.{DIGITS[name]}f}"
            cells.append(cell)
        if compared:
            cells += [
                "" if row["difference"] is None else f"{row['difference']:+.5f}",
                "" if row["p"] is None else f"{row['p']:.3f}",
            ]
        rows.append([row["setting"], str(row["runs"]), *cells])
    return rows


def show_comparison(folder: Path, baseline: str | None = None) -> pl.DataFrame:
    """Print the table of the sweep in `folder`, and write there report.md and report.csv, jobs.csv with one row a job, curves.png and,
    where the settings are a grid of two overrides, grid.png.

    Returns:
        the summary.
    """
    jobs = collect(folder)
    summary = summarise(jobs, baseline)
    title, *rows = rows_of(summary)
    console = Console()
    left_out = (
        {SHOWN[name] for name in ("parameters", "epochs", "seconds")} if console.width < WIDE else set()
    )  # they stay in the files
    places = [place for place, name in enumerate(title) if name not in left_out]
    table = Table(title=str(folder), title_justify="left")
    for place in places:
        table.add_column(title[place], justify="left" if title[place] == "setting" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in places))
    console.print(table)
    lines = [f"| {' | '.join(row)} |" for row in (title, ["---", *("---:" for _ in title[1:])], *rows)]
    failed = [
        f"job {row['job']}, {row['setting']}: {row['error']}" for row in jobs.iter_rows(named=True) if row["error"]
    ]
    for each in failed:
        console.print(each, markup=False)
    (folder / "report.md").write_text(
        "\n".join([*lines, *([""] if failed else []), *(f"- {each}" for each in failed)]) + "\n"
    )
    summary.write_csv(folder / "report.csv")
    jobs.write_csv(folder / "jobs.csv")
    draw_curves(folder, jobs, summary["setting"].to_list())
    draw_grid(folder, jobs)
    return summary


def draw_curves(folder: Path, jobs: pl.DataFrame, settings: list[str]) -> None:
    """curves.png: validation AUC over the epochs, a colour each of `settings`, a line a seed; nothing where no job kept a metrics.csv."""
    from matplotlib.figure import Figure  # not at the top: most of a second

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    done = jobs.filter(pl.col("error").is_null())
    for job in sorted(done.iter_rows(named=True), key=lambda job: settings.index(job["setting"])):
        source = folder / job["job"] / "metrics.csv"
        if source.exists() and "val/auc" in (curve := pl.read_csv(source)).columns:
            number = settings.index(job["setting"])
            label = job["setting"] if job["setting"] not in axis.get_legend_handles_labels()[1] else None
            line = ("-", "--", ":", "-.")[number // 10 % 4]
            axis.plot(
                curve["epoch"], curve["val/auc"], label=label, linewidth=1.2, color=f"C{number % 10}", linestyle=line
            )
    if not axis.lines:
        return
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation AUC")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(folder / "curves.png", dpi=120)


def draw_grid(folder: Path, jobs: pl.DataFrame) -> None:
    """grid.png: mean test AUC by two overrides, where they are all that differs and every pair of their values was run."""
    from matplotlib.figure import Figure  # not at the top: most of a second

    done = jobs.filter(pl.col("error").is_null())
    keys = jobs.columns[3 : jobs.columns.index("error")]
    if len(keys) != 2 or "test/auc" not in jobs.columns:
        return
    table = (
        done.group_by(keys, maintain_order=True)
        .agg(pl.col("test/auc").mean())
        .pivot(keys[1], index=keys[0], values="test/auc")
    )
    if len(table) < 2 or table.width < 3 or any(table.null_count().row(0)):
        return
    columns, values = table.columns[1:], table.select(table.columns[1:]).to_numpy()
    figure = Figure(figsize=(1.5 + 1.1 * len(columns), 1.2 + 0.6 * len(values)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(values)), table[keys[0]])
    axis.set_xlabel(keys[1])
    axis.set_ylabel(keys[0])
    middle = (values.min() + values.max()) / 2
    for row, each in enumerate(values):
        for column, value in enumerate(each):
            axis.text(
                column,
                row,
                f"{value:.5f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value < middle else "black",
            )
    figure.colorbar(image, label="test AUC")
    figure.savefig(folder / "grid.png", dpi=120)
