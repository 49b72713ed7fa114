"""Compare the jobs of a sweep: one row per setting, mean and deviation over seeds, best first."""

from pathlib import Path
from typing import NamedTuple

import polars as pl
from omegaconf import OmegaConf
from polars import selectors as cs
from rich.console import Console
from rich.table import Table

from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments.outcomes import jobs_in, read_outcome
from tf4ctr.experiments.pictures import draw_curves, draw_grid
from tf4ctr.files import write_whole

SHOWN = {
    "test/auc": "test AUC",
    "test/logloss": "logloss",
    "test/gauc": "gAUC",
    "parameters": "parameters",
    "epochs": "epochs",
    "seconds": "seconds",
}
DIGITS = {"test/auc": 5, "test/logloss": 4, "test/gauc": 5, "parameters": 0, "epochs": 1, "seconds": 0}
WIDE = 120  # a terminal with fewer columns has no room for all of SHOWN
NARROW = ("test/auc", "test/logloss", "test/gauc")  # shown there; the files have all


class Jobs(NamedTuple):
    """The jobs of a sweep.

    `frame` has one row per job: `job` (name of its folder), `seed`, `setting` (its overrides that
    differ from other jobs', except the seed), one column for each of `overrides`, `error` (why it
    did not train, null if it did) and its metrics (null if undefined).
    """

    frame: pl.DataFrame
    overrides: list[str]

    @property
    def trained(self) -> pl.DataFrame:
        """The jobs that trained and were tested."""
        return self.frame.filter(pl.col("error").is_null())


def collect(folder: Path) -> Jobs:
    """Read the jobs of the sweep in `folder`.

    Raises:
        InputError: `folder` contains no job.
    """
    folders = jobs_in(folder)
    if not folders:
        raise InputError(f"{folder} contains no job of a sweep (no folder with .hydra/overrides.yaml)")
    texts = [_overrides(job) for job in folders]
    names = dict.fromkeys(name for overrides in texts for name in overrides if name != "seed")
    differing = [name for name in names if len({overrides.get(name) for overrides in texts}) > 1]
    rows = [_row(job, overrides, differing) for job, overrides in zip(folders, texts, strict=True)]
    return Jobs(pl.DataFrame(rows, infer_schema_length=None).with_columns(cs.float().fill_nan(None)), differing)


def _overrides(job: Path) -> dict[str, str]:
    """Name -> text of each override of a job, as in dfm -> dfm=sum. The + of `+a=1` is removed."""
    texts = [str(text).lstrip("+") for text in OmegaConf.load(job / ".hydra" / "overrides.yaml")]
    return {text.partition("=")[0]: text for text in texts}


def _row(job: Path, overrides: dict[str, str], differing: list[str]) -> dict[str, object]:
    outcome = read_outcome(job)
    values = {name: text.partition("=")[2] or text for name, text in overrides.items()}
    return {
        "job": job.name,
        "seed": values.get("seed"),
        "setting": " ".join(overrides[name] for name in differing if name in overrides) or "as composed",
        **{name: values.get(name) for name in differing},
        "error": outcome.reason,
        **outcome.metrics,
    }


def summarise(jobs: Jobs, baseline: str | None = None) -> pl.DataFrame:
    """One row per setting: number of runs, mean and deviation of `SHOWN` over seeds.

    The best test AUC is first. Jobs that did not train take no part.

    Args:
        baseline: a setting to compare with. Adds `difference`, the mean over seeds of test AUC
            minus the baseline's with the same seed, and `p` of the two-sided paired t-test. Both
            are null without a seed in common, `p` also with only one.

    Raises:
        InputError: no trained job has the setting `baseline`, or scipy is missing.
    """
    trained = jobs.trained
    shown = [name for name in SHOWN if name in trained.columns]
    deviations = [pl.col(name).std().alias(f"{name} std") for name in shown if name.startswith("test/")]
    summary = trained.group_by("setting", maintain_order=True).agg(
        pl.len().alias("runs"), *(pl.col(name).mean() for name in shown), *deviations
    )
    if "test/auc" in shown:
        summary = summary.sort("test/auc", descending=True, nulls_last=True, maintain_order=True)
    if baseline is None:
        return summary
    return summary.join(_differences(trained, baseline), "setting", "left", maintain_order="left")


def _differences(trained: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """`difference` and `p` of each `setting` but the baseline."""
    settings = trained["setting"].unique().to_list()
    if baseline not in settings:
        raise InputError(f"baseline='{baseline}': unknown setting, {did_you_mean(baseline, settings)}")
    base = trained.filter(setting=baseline).select("seed", base="test/auc")
    pairs = trained.join(base, on="seed", nulls_equal=True).drop_nulls(["test/auc", "base"])
    rows = [
        {"setting": setting, **_paired(pairs.filter(setting=setting))} for setting in settings if setting != baseline
    ]
    return pl.DataFrame(rows, {"setting": pl.String, "difference": pl.Float64, "p": pl.Float64})


def _paired(pairs: pl.DataFrame) -> dict[str, float | None]:
    try:
        from scipy.stats import ttest_rel  # an extra
    except ImportError as error:
        raise InputError('baseline= needs scipy: pip install -e ".[report]"') from error
    auc, base = pairs["test/auc"].to_numpy(), pairs["base"].to_numpy()
    return {
        "difference": float((auc - base).mean()) if len(pairs) else None,
        "p": float(ttest_rel(auc, base).pvalue) if len(pairs) > 1 else None,
    }


def rows_of(summary: pl.DataFrame) -> list[list[str]]:
    """The summary as text, the row of titles first. Deviations are beside their means."""
    shown = [name for name in SHOWN if name in summary.columns]
    compared = "difference" in summary.columns
    titles = ["setting", "runs", *(SHOWN[name] for name in shown), *(["AUC - baseline", "p"] if compared else [])]
    return [titles, *(_texts(row, shown, compared) for row in summary.iter_rows(named=True))]


def _texts(row: dict[str, object], shown: list[str], compared: bool) -> list[str]:
    cells = []
    for name in shown:
        cell = _text(row[name], f",.{DIGITS[name]}f")
        if row.get(f"{name} std") is not None:
            cell += f" ± {_text(row[f'{name} std'], f'.{DIGITS[name]}f')}"
        cells.append(cell)
    if compared:
        cells += [_text(row["difference"], "+.5f"), _text(row["p"], ".3f")]
    return [str(row["setting"]), str(row["runs"]), *cells]


def _text(value: object, form: str) -> str:
    return "" if value is None else format(value, form)


def show_comparison(folder: Path, baseline: str | None = None) -> pl.DataFrame:
    """Print the table of the sweep in `folder`, and write it with its pictures there.

    The files are report.md and report.csv, jobs.csv with one row per job, curves.png and, if the
    settings are a grid of two overrides, grid.png. Jobs that did not train are listed below the
    table with the reason.

    Returns:
        the summary.
    """
    jobs = collect(folder)
    summary = summarise(jobs, baseline)
    titles, *rows = rows_of(summary)
    untrained = [
        f"job {job}, {setting}: {error}"
        for job, setting, error in jobs.frame.select("job", "setting", "error").drop_nulls("error").iter_rows()
    ]
    _print(str(folder), titles, rows, untrained)
    write_whole(folder / "report.md", _markdown(titles, rows, untrained))
    summary.write_csv(folder / "report.csv")
    jobs.frame.write_csv(folder / "jobs.csv")
    draw_curves(folder, jobs.trained, summary["setting"].to_list())
    draw_grid(folder, jobs.trained, jobs.overrides)
    return summary


def _print(title: str, titles: list[str], rows: list[list[str]], untrained: list[str]) -> None:
    console = Console()
    hidden = {SHOWN[name] for name in SHOWN if name not in NARROW} if console.width < WIDE else set()
    places = [place for place, name in enumerate(titles) if name not in hidden]
    table = Table(title=title, title_justify="left")
    for place in places:
        table.add_column(titles[place], justify="left" if titles[place] == "setting" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in places))
    console.print(table)
    if untrained:
        console.print("Jobs that did not train:")
    for line in untrained:
        console.print(line, markup=False)


def _markdown(titles: list[str], rows: list[list[str]], untrained: list[str]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (titles, ["---", *("---:" for _ in titles[1:])], *rows)]
    if untrained:
        lines += ["", "Jobs that did not train:", "", *(f"- {line}" for line in untrained)]
    return "\n".join(lines) + "\n"
