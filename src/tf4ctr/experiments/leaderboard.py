"""The table of models by framework, from a file of runs: what docs/leaderboard.md is made from."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from tf4ctr.errors import InputError
from tf4ctr.experiments import frameworks
from tf4ctr.experiments.comparison import (
    SHOWN,
    Jobs,
    aggregate,
    job_names,
    markdown,
    mean_text,
    number_text,
    print_table,
    stored,
    untrained_lines,
)
from tf4ctr.experiments.differences import IS_BASE, compare
from tf4ctr.experiments.records import counts, further_encoders, read_records, write_table
from tf4ctr.experiments.settings import AS_COMPOSED, by_config, label_of
from tf4ctr.files import write_whole

PARTS = ("framework", "ssem", "dfm", "loss")  # what framework=plain takes away: they are not part of the model
KEYS = ["dataset", "model", "setting", "framework"]
NAMED = ["dataset", "setting", "framework"]  # what a row of the table and a published figure are found by
PUBLISHED = {**dict.fromkeys(NAMED, pl.String), "auc": pl.Float64, "logloss": pl.Float64}
PLACES = {"auc": 5, "logloss": 4}  # of published figures
NOTES = (
    "**setting**: the backbone, and what else differs between the configs, except the seed. ssem, dfm, loss and further"
    " encoders belong to the framework.",
    "**test AUC**, **logloss**, **gAUC**: mean ± standard deviation over the seeds. A smaller logloss is better.",
    "**AUC - plain**: the test AUC minus that of the same backbone with framework=plain, the mean over the seeds that"
    " both have. Of several plain settings, it is the one with the most runs.",
    "**p**: of the two-sided paired t-test of this difference. **p (Holm)**: corrected for the number of differences in"
    " all tables here.",
    "**seconds**: of the whole run, on the machine where it ran. Compare them only where that was the same.",
)
PUBLISHED_NOTE = "**published**: the AUC and logloss that others published for this model, with their settings."


def published_path(out: Path) -> Path:
    """Where the published figures of a leaderboard are: NAME-published.csv beside it."""
    return out.with_name(f"{out.stem}-published.csv")


def read_published(path: Path) -> pl.DataFrame | None:
    """Figures that others published; None if there is no such file.

    Returns:
        `dataset`, `setting` and `framework`, as in the table, and `published`, the figures as text.

    Raises:
        InputError: it cannot be read, lacks a column, or has a setting twice.
    """
    if not path.exists():
        return None
    try:
        frame = pl.read_csv(path, schema_overrides=PUBLISHED)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} is not a csv of {', '.join(PUBLISHED)}: {error}") from error
    if missing := [name for name in PUBLISHED if name not in frame.columns]:
        raise InputError(f"{path} has no column {missing[0]}: expected {', '.join(PUBLISHED)}")
    if len(twice := frame.filter(frame.select(NAMED).is_duplicated())):
        raise InputError(f"{path} has {' '.join(map(str, twice.select(NAMED).row(0)))} twice: expected it once")
    figures = (pl.col(name).round(places).cast(pl.String).fill_null("-") for name, places in PLACES.items())
    return frame.select(*NAMED, published=pl.format("{} / {}", *figures))


def show_leaderboard(sources: Sequence[Path], out: Path) -> pl.DataFrame:
    """Print one table per dataset, models by framework; write them and the runs.

    The runs of `sources` are written as `out` (.csv or .parquet), and the tables beside it as .md.
    A first table says for how many models a framework is better than plain, see `frameworks`.
    If `published_path(out)` exists, the tables have its figures, too.

    Returns:
        the rows of `leaderboard`.

    Raises:
        InputError: a source contains no run, no run has its config, or none has trained and has a
            test AUC; or the file of published figures is not as it should be.
    """
    jobs, published = collect_models(sources), read_published(published_path(out))
    untrained = untrained_lines(jobs)
    if not len(jobs.trained):
        raise InputError("\n".join(["no run has trained:", *untrained]))
    table = leaderboard(jobs.trained)
    compared = frameworks.against_plain(jobs.trained, table)
    if published is not None:
        table = table.join(published, NAMED, "left", maintain_order="left")
    by_dataset = table.partition_by("dataset", maintain_order=True)
    parts = {part["dataset"][0] or "unknown dataset": rows_of(part) for part in by_dataset}
    if len(compared):
        Console().print(frameworks.table_of(compared))
    for title, (titles, *rows) in parts.items():
        print_table(title, titles, rows, [])
    if untrained:
        print("Jobs that did not train:", *untrained, sep="\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(stored(jobs), out)
    notes = NOTES if published is None else (*NOTES, PUBLISHED_NOTE)
    title = out.stem.replace("_", " ").capitalize()
    write_whole(out.with_suffix(".md"), _page(title, notes, compared, parts, untrained))
    return table


def _page(
    title: str,
    notes: Sequence[str],
    compared: pl.DataFrame,
    parts: Mapping[str, list[list[str]]],
    untrained: Sequence[str],
) -> str:
    """The tables as markdown: the frameworks, then one per dataset."""
    text = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    if len(compared):
        titles, *rows = frameworks.rows_of(compared)
        text += ["## Frameworks", "", markdown(titles, rows, []), *(f"- {note}" for note in frameworks.NOTES), ""]
    for name, (titles, *rows) in parts.items():
        text += [f"## {name}", "", markdown(titles, rows, [])]
    if untrained:
        text += ["Jobs that did not train:", "", *(f"- {line}" for line in untrained), ""]
    return "\n".join(text)


def collect_models(sources: Sequence[Path]) -> Jobs:
    """The runs of `sources` with `model`: the backbone, and what differs beside the framework."""
    frame = read_records(sources)
    configs = [json.loads(text) for text in frame["config"]]
    if not any(configs):
        raise InputError("no run has its config.yaml, which says what model it is: use the folders of the runs")
    nodes_of = [_framework_nodes(config) for config in configs]
    rests = [
        {key: value for key, value in config.items() if counts(key, nodes)}
        for config, nodes in zip(configs, nodes_of, strict=True)
    ]
    rest = by_config(rests, ("dataset",), [json.loads(text) for text in frame["overrides"]])
    models = [
        " ".join([config.get("backbone") or "", label_of(values | {"backbone": None})])
        .removesuffix(AS_COMPOSED)
        .strip()
        if config
        else label
        for config, values, label in zip(configs, rest.values, rest.labels, strict=True)
    ]
    parts = [
        {"model": model, **{key: value for key, value in config.items() if not counts(key, ["dataset", *nodes])}}
        for model, config, nodes in zip(models, configs, nodes_of, strict=True)
    ]
    settings = [
        model if label == AS_COMPOSED else f"{model} {label}".strip()
        for model, label in zip(models, _framework_labels(parts, frame["framework"].to_list()), strict=True)
    ]
    extra = {"job": job_names(frame["run"].to_list()), "model": models, "setting": settings}
    return Jobs(pl.DataFrame(extra, dict.fromkeys(extra, pl.String)).hstack(frame), ["model"])


def _framework_labels(parts: Sequence[dict[str, Any]], frameworks: Sequence[str | None]) -> list[str]:
    """What tells runs of a model with the same framework apart, in words.

    Of plain, which others are compared with, the setting with the most runs has no words.
    """
    labels = [AS_COMPOSED] * len(parts)
    for is_plain in (True, False):
        places = [place for place, name in enumerate(frameworks) if (name == "plain") is is_plain]
        own = by_config([parts[place] for place in places], ("dataset", "model", "framework")).labels
        for place, label in zip(places, own, strict=True):
            labels[place] = label
    models = [(part.get("dataset"), part["model"]) for part in parts]
    for model in {*models}:
        plain = [place for place, name in enumerate(frameworks) if name == "plain" and models[place] == model]
        usual = Counter(labels[place] for place in plain).most_common(1)
        for place in plain:
            labels[place] = AS_COMPOSED if labels[place] == usual[0][0] else labels[place]
    return labels


def _framework_nodes(config: Mapping[str, Any]) -> list[str]:
    """What belongs to the framework: `PARTS`, and the encoders that plain does not have."""
    further = [] if config.get("framework") == "plain" else further_encoders(config)
    return [*PARTS, *further, *(group.partition("@")[2] for group in further)]


def leaderboard(trained: pl.DataFrame) -> pl.DataFrame:
    """One row per dataset, setting and framework, the best model of a dataset first.

    Beside a model's best setting are its others, and plain is the last. `difference`, `p` and
    `p (Holm)` compare a setting with the plain model; they are null where there is none.

    Raises:
        InputError: no run has a test AUC.
    """
    plain = pl.col("framework") == "plain"
    differences = compare(trained.filter(~plain), trained.filter(IS_BASE), KEYS, ["dataset", "model"])
    table = aggregate(_by_seed(trained), KEYS)
    table = table.join(differences, KEYS, "left", nulls_equal=True, maintain_order="left")
    best = pl.col("test/auc").max().over("dataset", "model")
    order = ["dataset", best, "model", plain, "test/auc"]
    return table.sort(order, descending=[False, True, False, False, True], nulls_last=True, maintain_order=True)


def _by_seed(trained: pl.DataFrame) -> pl.DataFrame:
    """Runs of one setting and seed as one: a repeated run is no further seed."""
    shown = [name for name in SHOWN if name in trained.columns]
    return trained.group_by(*KEYS, "seed", maintain_order=True).agg(pl.col(shown).mean())


def rows_of(table: pl.DataFrame) -> list[list[str]]:
    """The table as text, the titles first."""
    metrics = [name for name in SHOWN if name.startswith("test/") and name in table.columns]
    costs = [name for name in SHOWN if not name.startswith(("test/", "val/")) and name in table.columns]
    titles = ["setting", "framework", "seeds", *(SHOWN[name] for name in metrics), "AUC - plain", "p", "p (Holm)"]
    published = ["published"] if "published" in table.columns and table["published"].null_count() < len(table) else []
    return [
        [*titles, *(SHOWN[name] for name in costs), *published],
        *(
            [
                *(row["setting"], row["framework"] or "", str(row["runs"])),
                *(mean_text(row, name) for name in metrics),
                number_text(row["difference"], "+.5f"),
                *(number_text(row[name], ".3f") for name in ("p", "p (Holm)")),
                *(mean_text(row, name) for name in costs),
                *(row[name] or "" for name in published),
            ]
            for row in table.iter_rows(named=True)
        ),
    ]
