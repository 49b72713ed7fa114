"""Compare runs: one row per setting, mean and deviation over seeds, best first."""

import os.path
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.differences import compare
from tf4ctr.experiments.page import write_page
from tf4ctr.experiments.pictures import draw_all, draw_searches
from tf4ctr.experiments.records import TEXTS, read_records, write_table
from tf4ctr.experiments.settings import settings_of
from tf4ctr.files import write_whole

SHOWN = {
    "test/auc": "test AUC",
    "test/logloss": "logloss",
    "test/gauc": "gAUC",
    "val/auc": "val AUC",
    "parameters": "parameters",
    "epochs": "epochs",
    "seconds": "seconds",
}
DIGITS = {"test/auc": 5, "test/logloss": 4, "test/gauc": 5, "val/auc": 5, "parameters": 0, "epochs": 1, "seconds": 0}
COMPARED = {"difference": "AUC - baseline", "p": "p", "p (Holm)": "p (Holm)"}
COMPARED_NOTE = (
    "AUC - baseline: mean over the seeds that both have. p: two-sided paired t-test. p (Holm): corrected for the"
    " number of differences."
)
LEFT = ("dataset", "setting", "framework", "minus plain")  # columns of text
# columns that a narrow terminal does not show, the first ones first; the files have all
SPARED = ("seconds", "epochs", "parameters", "published", "p", "seeds", "runs", "gAUC", "val AUC")
SETTING_WIDTH = 24  # columns of the terminal that a setting has at least, if it is so long


class Jobs(NamedTuple):
    """Runs to compare.

    `frame` has one row per run: the columns of `records.read_records`; `job` (its folder, without
    what all have in common), `setting` (see `settings.settings_of`), and a column for each of
    `overrides`, the names that make the settings.
    """

    frame: pl.DataFrame
    overrides: list[str]

    @property
    def trained(self) -> pl.DataFrame:
        """The jobs that trained and were tested."""
        return self.frame.filter(pl.col("error").is_null())


def collect(sources: Iterable[Path]) -> Jobs:
    """Read the runs of `sources`: folders of sweeps, of runs, of several runs, and tables of runs.

    Raises:
        InputError: a source contains no run.
    """
    frame = read_records(sources)
    settings = settings_of(frame)
    known = {name: [row.get(name) for row in settings.values] for name in settings.names if name not in frame.columns}
    extra = {"job": job_names(frame["run"].to_list()), "setting": settings.labels, **known}
    return Jobs(pl.DataFrame(extra, dict.fromkeys(extra, pl.String)).hstack(frame), settings.names)


def job_names(runs: Sequence[str]) -> list[str]:
    """The folders without the part that all have in common."""
    parents = [PurePosixPath(run).parent for run in runs]
    if len({parent.is_absolute() for parent in parents}) > 1:
        return list(runs)
    common = os.path.commonpath(parents)
    return [PurePosixPath(run).relative_to(common).as_posix() for run in runs]


def summarise(jobs: Jobs, baseline: str | None = None) -> pl.DataFrame:
    """One row per dataset and setting: number of runs, mean and deviation of `SHOWN` over seeds.

    The best test AUC of a dataset is first. Runs that did not train take no part.

    Args:
        baseline: a setting to compare with. Adds `difference`, the mean over seeds of test AUC
            minus the baseline's with the same dataset and seed; `p` of the two-sided paired
            t-test; and `p (Holm)`, corrected for the number of differences. They are null without
            a seed in common, the p also with only one.

    Raises:
        InputError: no trained job has the setting `baseline`, or scipy is missing.
    """
    summary = aggregate(jobs.trained, ["dataset", "setting"])
    if "test/auc" in summary.columns:
        summary = summary.sort("dataset", "test/auc", descending=[False, True], nulls_last=True, maintain_order=True)
    if baseline is None:
        return summary
    differences = _differences(jobs.trained, baseline)
    return summary.join(differences, ["dataset", "setting"], "left", nulls_equal=True, maintain_order="left")


def aggregate(trained: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """One row per value of `keys`: `runs`, the means of `SHOWN`, the deviations of metrics."""
    shown = [name for name in SHOWN if name in trained.columns]
    deviations = [pl.col(name).std().alias(f"{name} std") for name in shown if name.startswith("test/")]
    return trained.group_by(keys, maintain_order=True).agg(
        pl.len().alias("runs"), *(pl.col(name).mean() for name in shown), *deviations
    )


def _differences(trained: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """`difference`, `p` and `p (Holm)` of each setting but the baseline."""
    settings = trained["setting"].unique().to_list()
    if baseline not in settings:
        raise InputError(f"baseline='{baseline}': unknown setting, {did_you_mean(baseline, settings)}")
    others = trained.filter(pl.col("setting") != baseline)
    return compare(others, trained.filter(setting=baseline), ["dataset", "setting"], ["dataset"])


def rows_of(summary: pl.DataFrame) -> list[list[str]]:
    """The summary as text, the row of titles first. Deviations are beside their means.

    The dataset is named if there are several.
    """
    keys = ["dataset", "setting"] if summary["dataset"].n_unique() > 1 else ["setting"]
    shown = [name for name in SHOWN if name in summary.columns]
    compared = [name for name in COMPARED if name in summary.columns]
    titles = [*keys, "runs", *(SHOWN[name] for name in shown), *(COMPARED[name] for name in compared)]
    return [titles, *(_texts(row, keys, shown, compared) for row in summary.iter_rows(named=True))]


def _texts(row: dict[str, object], keys: list[str], shown: list[str], compared: list[str]) -> list[str]:
    cells = [mean_text(row, name) for name in shown]
    cells += [number_text(row[name], "+.5f" if name == "difference" else ".3f") for name in compared]
    return [*(str(row[key] or "") for key in keys), str(row["runs"]), *cells]


def mean_text(row: Mapping[str, object], name: str) -> str:
    """The mean of a metric, and its deviation if there is one."""
    cell = number_text(row[name], f",.{DIGITS[name]}f")
    deviation = row.get(f"{name} std")
    return cell if deviation is None else f"{cell} ± {number_text(deviation, f'.{DIGITS[name]}f')}"


def number_text(value: object, form: str) -> str:
    """A number as text; empty if it is undefined."""
    return "" if value is None else format(value, form)


def show_comparison(sources: Sequence[Path], out: Path, baseline: str | None = None) -> pl.DataFrame:
    """Print the table of the runs in `sources`; write it, pictures and a page into `out`.

    The files are report.md, report.csv, runs.csv with one row per run, report.html if plotly is
    installed, and the pictures: see `pictures.draw_all`. Runs that did not train are listed below
    the table with the reason.

    Returns:
        the summary.
    """
    jobs = collect(sources)
    summary = summarise(jobs, baseline)
    titles, *rows = rows_of(summary)
    untrained = untrained_lines(jobs)
    print_table(str(out), titles, rows, untrained)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.md", markdown(titles, rows, untrained, COMPARED_NOTE if baseline else None))
    write_whole(out / "report.csv", summary.write_csv())
    write_table(stored(jobs), out / "runs.csv")
    order = summary.select("dataset", "setting")  # of the legends
    drawn = order.join(jobs.trained, ["dataset", "setting"], "left", nulls_equal=True, maintain_order="left")
    draw_all(out, drawn, jobs.overrides)
    draw_searches(sources, out)
    write_page(out, jobs.frame, rows_of(summary))
    return summary


def stored(jobs: Jobs) -> pl.DataFrame:
    """The runs as they are kept: of what depends on other runs, only `setting`."""
    known = {"job", *jobs.overrides} - {*TEXTS}
    last = ("overrides", "config", "curves")
    frame = jobs.frame.drop(known, strict=False)
    first = [name for name in TEXTS if name not in last]
    return frame.select(*first, pl.exclude(*first, *last), *last)


def untrained_lines(jobs: Jobs) -> list[str]:
    """One line for each run that did not train, with the reason."""
    rows = jobs.frame.select("job", "setting", "error").drop_nulls("error").iter_rows()
    return [f"job {job}, {setting}: {error}" for job, setting, error in rows]


def print_table(title: str, titles: list[str], rows: list[list[str]], untrained: list[str]) -> None:
    """Print a table, without the columns of `SPARED` for which the terminal has no room."""
    console = Console()
    cells = [[name, *(row[place] for row in rows)] for place, name in enumerate(titles)]
    widths = [
        min(max(map(len, column)), SETTING_WIDTH) if name in LEFT else max(map(len, column))
        for name, column in zip(titles, cells, strict=True)
    ]
    places = [*range(len(titles))]
    for name in SPARED:
        if sum(widths[place] + 3 for place in places) + 1 > console.width and name in titles:
            places.remove(titles.index(name))
    table = Table(title=title, title_justify="left")
    for place in places:
        is_text = titles[place] in LEFT
        # a setting of usual length stays on one line; other cells break between words, as at ±
        least = widths[place] if is_text else max(map(_words_width, cells[place]))
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(titles[place], justify=justify, overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*(escape(row[place]) for place in places))
    console.print(table)
    if hidden := [name for place, name in enumerate(titles) if place not in places]:
        console.print(f"not shown, for lack of room: {', '.join(hidden)}; the report has them")
    if untrained:
        console.print("Jobs that did not train:")
    for line in untrained:
        console.print(line, markup=False)


def _words_width(text: str) -> int:
    """Characters of the longest word."""
    return max(map(len, text.split()), default=0)


def markdown(titles: list[str], rows: list[list[str]], untrained: list[str], note: str | None = None) -> str:
    """A table, a note below it, and the runs that did not train."""
    rule = ["---" if title in LEFT else "---:" for title in titles]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)  # a bar would end the cell
    lines = [f"| {' | '.join(row)} |" for row in (titles, rule, *escaped)]
    if note:
        lines += ["", note]
    if untrained:
        lines += ["", "Jobs that did not train:", "", *(f"- {line}" for line in untrained)]
    return "\n".join(lines) + "\n"
