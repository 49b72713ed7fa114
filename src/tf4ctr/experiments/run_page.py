"""index.html of a run: its metrics, curves, heads, calibration, config, environment and data."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from tf4ctr.experiments.environment import FILE
from tf4ctr.experiments.html_file import fill, has_plotly, json_text, picture, table
from tf4ctr.experiments.outcomes import read_outcome
from tf4ctr.experiments.records import choices_of, finite_lists, load_yaml, read_validations
from tf4ctr.experiments.run_contents import data_tables, read_calibration, read_evaluations, read_focus
from tf4ctr.experiments.runs import flatten
from tf4ctr.files import write_whole
from tf4ctr.training.curves import best_epoch, head_of, heads_of, learning_rate_falls, panels_of, style_of
from tf4ctr.training.head_colours import head_colours
from tf4ctr.training.tables import BESIDE

PAGE = "index.html"
STAGES = {"train": "train", "valid": "val", "test": "test"}  # split -> its name in metrics.json
MEASURES = {
    "auc": "AUC",
    "logloss": "logloss",
    "gauc": "gAUC",
    "ece": "ECE",
    "predicted_over_observed": "predicted / observed clicks",
}
FACTS = {
    "best_epoch": "best epoch",
    "epochs": "epochs",
    "parameters": "parameters",
    "seconds": "seconds",
    "train_rows_per_second": "training rows per second",
}
PICTURES = {  # of a run, beside what the page draws itself
    "gates.png": "gm's gate by field value",
    "evaluation/{split}-roc.png": "{split}: ROC, and precision by recall",
    "evaluation/{split}-importance.png": "{split}: importance of the fields",
    "evaluation/{split}-attention.png": "{split}: how much past values count, by position",
}


@rank_zero_only
def write_run_page(folder: Path) -> Path | None:
    """Write `folder/index.html` from the other files of a run.

    Returns:
        the page's path; None, and a line in the log, if plotly is not installed.
    """
    path = folder / PAGE
    if not has_plotly(PAGE):
        return None
    write_whole(path, run_page(folder))
    return path


def run_page(folder: Path) -> str:
    """The text of the page."""
    config = load_yaml(folder / "config.yaml")
    outcome, evaluations = read_outcome(folder), read_evaluations(folder)
    dataset = config.get("dataset", {})
    gone = f'<p class="note">The prepared dataset is not in {html.escape(dataset.get("prepared_dir", ""))} now.</p>'
    content: dict[str, Any] = {
        "curves": read_panels(folder),
        "focus": read_focus(folder),
        "calibration": read_calibration(folder),
    }
    content["colours"] = head_colours(head for heads in content["calibration"].values() for head in heads)
    parts = {
        "TITLE": html.escape("/".join(folder.absolute().parts[-2:])),
        "SUMMARY": f"<p>{html.escape(summary_line(folder, config, outcome.reason))}</p>",
        "METRICS": table(metric_rows(outcome.metrics, evaluations)),
        "FACTS": table(fact_rows(outcome.metrics)),
        "PICTURES": _pictures(folder),
        "OVERRIDES": table(override_rows(folder), "values"),
        "CONFIG": table([("key", "value"), *((key, _text(value)) for key, value in flatten(config).items())], "values"),
        "ENVIRONMENT": "".join(table(rows, "values") for rows in start_tables(folder)),
        "DATASET": "".join(map(table, data_tables(dataset))) or gone,
        "DATA": json_text(content),
        "SCRIPT": Path(__file__).with_name("run_page.js").read_text(),
    }
    return fill("run_page.html", parts)


def summary_line(folder: Path, config: Mapping[str, Any], reason: str | None) -> str:
    """What the run is: its parts, dataset and seed; and why it did not train, if it did not."""
    choices = choices_of(folder)
    parts = [f"{group} {choices[group]}" for group in ("backbone", "framework") if group in choices]
    parts += [f"dataset {config.get('dataset', {}).get('name')}", f"seed {config.get('seed')}"]
    return ", ".join(parts) + (f". It did not train: {reason}" if reason else "")


def read_panels(folder: Path) -> dict[str, Any] | None:
    """The panels of curves.png as lines, the best epoch, and the learning rate's falls."""
    rows = read_validations(folder)
    if rows is None:
        return None
    heads = heads_of(rows.columns)
    colours = head_colours(heads)
    values = finite_lists(rows)
    panels = [
        {
            "title": title,
            "lines": [
                {
                    "name": name,
                    "y": values[name],
                    "colour": None if name == "train/loss" else colours[head_of(name, heads)],
                    "style": style_of(name, title),
                }
                for name in names
            ],
        }
        for title, names in panels_of(rows.columns, heads).items()
    ]
    return {"epoch": values["epoch"], "panels": panels, "best": best_epoch(rows), "falls": learning_rate_falls(rows)}


def metric_rows(
    metrics: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[list[str]]:
    """Texts of the metrics by split and head, the titles first.

    What evaluate.py measured replaces what the training did, as it has intervals.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for split, stage in STAGES.items():
        own = {
            name.removeprefix(f"{stage}/"): [value] for name, value in metrics.items() if name.startswith(f"{stage}/")
        }
        for name, values in (own | dict(evaluations.get(split, {}))).items():
            head, _, measure = name.rpartition("/")
            for row, start in BESIDE.items():
                if measure.startswith(start):
                    head, measure = row, measure.removeprefix(start)
            if measure in MEASURES:
                found.setdefault((stage, head or "fused"), {})[measure] = _interval(values)
    known = [name for name in MEASURES if any(name in cells for cells in found.values())]
    rows = [[stage, head, *(cells.get(name, "") for name in known)] for (stage, head), cells in found.items()]
    return [["split", "head", *(MEASURES[name] for name in known)], *rows]


def _interval(values: Sequence[float]) -> str:
    value, *limits = (f"{value:.5f}" for value in values)
    return f"{value} [{limits[0]}, {limits[1]}]" if limits else value


def fact_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Texts of the other facts in metrics.json, the titles first."""
    return [["fact", "value"], *([text, f"{metrics[name]:,}"] for name, text in FACTS.items() if name in metrics)]


def override_rows(folder: Path) -> list[list[str]]:
    """Texts of the overrides of a run, the titles first."""
    overrides = load_yaml(folder / ".hydra" / "overrides.yaml")
    return [["set on the command line", "value"], *(list(text.partition("=")[::2]) for text in overrides)]


def start_tables(folder: Path) -> list[list[list[str]]]:
    """For each start of the run, the last one first, a table of its facts."""
    path = folder / FILE
    starts = json.loads(path.read_text()) if path.exists() else []
    return [
        [["fact", "value"], *([key, _text(value)] for key, value in flatten(start).items() if key != "overrides")]
        for start in reversed(starts)
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return f"[{', '.join(map(_text, value))}]"  # yamls are read with their numbers as texts
    return value if isinstance(value, str) else json.dumps(value)


def _pictures(folder: Path) -> str:
    names = dict.fromkeys(
        (name.format(split=split), text.format(split=split)) for name, text in PICTURES.items() for split in STAGES
    )
    return "\n".join(filter(None, (picture(folder / name, text) for name, text in names)))
