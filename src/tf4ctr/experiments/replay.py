"""A log day by day: train on each period, measure on the next one before it is seen.

`Plan` says what each training gets; `table_of`, `show` and `write` are the result.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.table import Table

from tf4ctr.data.periods import Period
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError, check_whole
from tf4ctr.experiments.runs import quoted
from tf4ctr.files import link_file, write_whole

# the options of conf/replay.yaml beside those of a training
OPTIONS = ("by", "every", "min_rows", "first", "window", "epochs", "first_epochs", "once", "retrain", "folder")
LAYOUT = "[{reader:parquet,train:train,valid:valid,test:test}]"
MODELS = {"daily": "day by day", "once": "trained once", "retrained": "retrained"}
METRICS = {"auc": "AUC", "logloss": "logloss", "gauc": "gAUC"}


class Day(NamedTuple):
    """One training and what it is measured on.

    Attributes:
        number: from 0.
        trained: the latest period that it is trained on.
        tested: the next period.
        train, valid: folders of the rows that it learns, and that choose its best epoch.
    """

    number: int
    trained: Period
    tested: Period
    train: list[Path]
    valid: Path

    @property
    def name(self) -> str:
        """The name of its folders."""
        return f"{self.number:03d}"


def check_options(config: Mapping[str, Any]) -> None:
    """Check the numbers among the options.

    Raises:
        InputError: one is invalid, or an option of a single training is set.
    """
    for name in ("first", "window", "epochs", "first_epochs"):
        value = config[name]
        if name != "first_epochs" or value is not None:
            check_whole(name, value, 1)
    if config["retrain"] not in (None, "all") and (type(config["retrain"]) is not int or config["retrain"] < 1):
        raise InputError(f"retrain is {config['retrain']!r}: expected null, all, or a number of periods from 1 on")
    if type(config["once"]) is not bool:
        raise InputError(f"once is {config['once']!r}: expected true or false")
    for name in ("ckpt", "init", "dry_run"):
        if config[name]:
            raise InputError(
                f"{name}= is an option of one training, and replay.py makes many; folder=FOLDER goes on with a replay"
            )


def plan(periods: list[Period], first: int, window: int) -> list[Day]:
    """The days of a replay.

    Each training learns its latest `window` periods but for a tenth of the latest one, and that
    tenth of the period before them: so with a window of 1 each row is learned in one training.

    Args:
        periods: in order.
        first: periods of the first training.
        window: of each later one.

    Raises:
        InputError: too few periods.
    """
    if len(periods) <= first:
        raise InputError(
            f"the log has {len(periods)} periods, and the first training takes {first}: there must be one more to"
            " measure on; give a smaller first=, min_rows= or every="
        )
    days = []
    for number, latest in enumerate(range(first - 1, len(periods) - 1)):
        begin = 0 if number == 0 else max(0, latest - window + 1)
        train = learned(periods, begin, latest)
        days.append(Day(number, periods[latest], periods[latest + 1], train, periods[latest].valid))
    return days


def learned(periods: list[Period], begin: int, latest: int) -> list[Path]:
    """The folders of rows of a training on the periods from `begin` to `latest`."""
    before = [periods[begin - 1].valid] if begin else []
    earlier = [part for period in periods[begin:latest] for part in (period.train, period.valid)]
    return [*before, *earlier, periods[latest].train]


def training(
    day: Day, spec: DatasetSpec, folder: Path, name: str, epochs: int, overrides: list[str], init: Path | None = None
) -> list[str]:
    """Link the raw rows of a training into a folder of its own; returns the training's overrides.

    Args:
        day: what it learns and what it is measured on.
        spec: the dataset.
        folder: of the replay: raw/NAME gets the raw files, with those of given vectors, and
            prepared/NAME will have the prepared ones.
        name: of these folders.
        epochs: of the training.
        overrides: of the command line.
        init: the run that it begins from.
    """
    raw = folder / "raw" / name
    parts = {"train": day.train, "valid": [day.valid], "test": [day.tested.train, day.tested.valid]}
    for part, sources in parts.items():
        (raw / part).mkdir(parents=True, exist_ok=True)
        for number, source in enumerate(sources):
            for file in sorted(source.glob("*.parquet")):
                link_file(file, raw / part / f"{number:05d}-{file.name}")
    for file_name in spec.vector_files:
        (raw / file_name).parent.mkdir(parents=True, exist_ok=True)
        link_file(Path(str(spec.raw_dir)) / file_name, raw / file_name)
    own = [f"++dataset.{option}=null" for option in ("split", "rows", "limit_rows")]
    own += [
        f"++dataset.raw_dir={quoted(str(raw))}",
        f"++dataset.prepared_dir={quoted(str(folder / 'prepared' / name))}",
        f"++dataset.layouts={LAYOUT}",
    ]
    own += [f"trainer.max_epochs={epochs}", *([f"init={quoted(str(init))}"] if init else [])]
    logger = [] if any(override.startswith("logger=") for override in overrides) else ["logger=csv"]
    return [*logger, *overrides, *own]


def training_overrides(overrides: list[str]) -> list[str]:
    """Those of a replay's overrides that are a training's."""
    return [override for override in overrides if override.lstrip("+~").partition("=")[0] not in OPTIONS]


def check_same_replay(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what a replay is started with into its folder, or compare it with what is there.

    Raises:
        InputError: the folder's replay was started in another way.
    """
    path = folder / "replay.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=2) + "\n")
        return
    started = json.loads(path.read_text())
    if differing := [
        f"  {name}: {started.get(name)} -> {settings[name]}" for name in settings if started.get(name) != settings[name]
    ]:
        raise InputError(
            f"{folder} was started with other options:\n" + "\n".join(differing) + "\nRepeat those options beside"
            " folder=, or begin another replay without folder="
        )


def results_of(run: Path) -> dict[str, float]:
    """The test metrics in a run's metrics.json."""
    metrics = json.loads((run / "metrics.json").read_text())
    return {name: metrics[f"test/{name}"] for name in METRICS if f"test/{name}" in metrics}


def table_of(days: list[Day], results: Mapping[str, list[dict[str, float]]]) -> pl.DataFrame:
    """One row per measured day: number, periods, rows, and MODEL/METRIC of each model.

    Args:
        days: those that were measured.
        results: model -> the metrics of each day; an undefined metric is null.
    """
    columns: dict[str, list[Any]] = {
        "day": [day.number for day in days],
        "trained": [day.trained.label for day in days],
        "tested": [day.tested.label for day in days],
        "rows": [day.tested.rows for day in days],
    }
    for model, metrics in results.items():
        for name in METRICS:
            values = [of_day.get(name) for of_day in metrics]
            values = [None if value is None or math.isnan(value) else value for value in values]
            if any(value is not None for value in values):
                columns[f"{model}/{name}"] = values
    return pl.DataFrame(columns, strict=False)


def means_of(table: pl.DataFrame) -> dict[str, float]:
    """The means over the days, weighted by their rows: MODEL/METRIC -> mean."""
    means = {}
    for name in (name for name in table.columns if "/" in name):
        known = table.filter(pl.col(name).is_not_null())
        means[name] = float(known.select(pl.col(name).dot("rows") / pl.col("rows").sum()).item())
    return means


def show(table: pl.DataFrame) -> None:
    """Print the days and their means, a table for each metric: all fit a narrow terminal."""
    means = means_of(table)
    for metric in METRICS:
        names = [name for name in table.columns if name.endswith(f"/{metric}")]
        if not names:
            continue
        shown = Table(title=f"{METRICS[metric]} before a period is learned", title_justify="left", show_footer=True)
        shown.add_column("tested", "mean")
        shown.add_column("rows", f"{table['rows'].sum():,}", justify="right")
        for name in names:
            shown.add_column(MODELS[name.split("/")[0]], _text(means[name]), justify="right")
        for row in table.iter_rows(named=True):
            shown.add_row(row["tested"], f"{row['rows']:,}", *(_text(row[name]) for name in names))
        Console().print(shown)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def write(table: pl.DataFrame, folder: Path) -> None:
    """Write days.csv, days.json (days and means) and days.png into the folder of a replay."""
    write_whole(folder / "days.csv", table.write_csv())
    contents = {"days": table.to_dicts(), "means": means_of(table)}
    write_whole(folder / "days.json", json.dumps(contents, indent=2, allow_nan=False) + "\n")
    _draw(table, folder / "days.png")


def _draw(table: pl.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure  # importing it takes most of a second

    metrics = [metric for metric in METRICS if any(name.endswith(f"/{metric}") for name in table.columns)]
    figure = Figure(figsize=(9, 0.6 + 2.4 * len(metrics)), layout="constrained")
    axes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for axis, metric in zip(axes, metrics, strict=True):
        for number, (model, title) in enumerate(MODELS.items()):
            if f"{model}/{metric}" in table.columns:
                values = table[f"{model}/{metric}"].cast(pl.Float64).to_numpy()
                axis.plot(table["day"], values, marker=".", color=f"C{number}", label=title)
        axis.set_ylabel(METRICS[metric])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(MODELS), fontsize=8)
    step = max(1, len(table) // 12)
    axes[-1].set_xticks(table["day"].to_list()[::step], table["tested"].to_list()[::step], rotation=30, ha="right")
    axes[-1].set_xlabel("period that is measured")
    figure.savefig(path, dpi=120)
