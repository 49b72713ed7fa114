"""What a page shows of the folder of a run: the q of its heads, evaluations, and its data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tf4ctr.data.manifest import NAME, read_manifest
from tf4ctr.data.splits import SPLITS
from tf4ctr.training.head_colours import head_colours

DIGITS = 4  # of the shares of q: a pixel shows no more


def read_focus(folder: Path) -> dict[str, Any] | None:
    """focus.json: epochs, per head the shares of q's bins, weights in the fusion, and colours."""
    path = folder / "focus.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    q = {
        head: [[round(share, DIGITS) for share in shares] for shares in validations]
        for head, validations in content["q"].items()
    }
    known = ("epochs", "weights")
    return {**{name: content[name] for name in known}, "q": q, "colours": head_colours([*q, *content["weights"]])}


def read_evaluations(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Split -> metric -> [value] or, with its interval, [value, low, high]; by evaluate.py."""
    found = {}
    for split in SPLITS:
        path = folder / "evaluation" / f"{split}.json"
        if path.exists():
            values = json.loads(path.read_text())
            found[split] = {
                name: [values[key] for key in (name, f"{name}_low", f"{name}_high") if key in values]
                for name in values
                if not name.endswith(("_low", "_high"))
            }
    return found


def read_calibration(folder: Path) -> dict[str, dict[str, Any]]:
    """Split -> head -> `rows`, `predicted` and `clicked` of each bin; by evaluate.py."""
    found = {}
    for split in SPLITS:
        path = folder / "evaluation" / f"{split}-reliability.csv"
        if path.exists():
            points = pl.read_csv(path, schema_overrides={"predicted": pl.Float64, "clicked": pl.Float64})
            found[split] = {
                head: part.drop("head").to_dict(as_series=False)
                for (head,), part in points.group_by("head", maintain_order=True)
            }
    return found


def data_tables(dataset: Mapping[str, Any]) -> list[list[list[str]]]:
    """Tables of texts on the dataset of a run: its splits, and its fields.

    There are none if the prepared dataset is not where it was in the training.

    Args:
        dataset: of the run's config.yaml.
    """
    folder = Path(dataset.get("prepared_dir") or "nowhere")
    if not (folder / NAME).exists() or (manifest := read_manifest(folder))["dataset"] != dataset.get("name"):
        return []
    splits = manifest["splits"]
    rows = [["split", "rows", "click rate"]]
    rows += [[split, f"{facts['rows']:,}", f"{facts['click_rate']:.4f}"] for split, facts in splits.items()]
    fields = [["field", "kind", "values", *(f"unknown or missing in {split}" for split in splits)]]
    for field, size in manifest["vocabulary_sizes"].items():
        fields.append([field, "values", f"{size:,}", *_shares(splits, "out_of_vocabulary", field)])
    for field in splits["train"].get("missing", {}):
        fields.append([field, "number", "", *_shares(splits, "missing", field)])
    return [rows, fields]


def _shares(splits: Mapping[str, Mapping[str, Any]], key: str, field: str) -> list[str]:
    return [f"{facts[key][field]:.2%}" if field in facts.get(key, {}) else "" for facts in splits.values()]
