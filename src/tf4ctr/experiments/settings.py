"""The setting of a run: what tells it apart from the other runs of a report, except the seed."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import polars as pl

from tf4ctr.experiments.records import ENCODERS, GROUPS, REPEATED, counts
from tf4ctr.experiments.runs import LATER, class_of

ALWAYS = ("backbone", "framework")  # what a reader looks for first
LONGEST = 40  # characters of a value in a table
AS_COMPOSED = "as composed"  # the setting of a run that differs in nothing


class Settings(NamedTuple):
    """The names that tell runs apart, and for each run its values as text, null if it has none."""

    names: list[str]
    values: list[dict[str, str | None]]
    labels: list[str]


def settings_of(frame: pl.DataFrame) -> Settings:
    """The settings of the runs in `frame`, which is of `read_records`.

    Within one sweep they are its overrides that differ; else the differences of the configs. The
    dataset is part of it only if there is no more than one: else the runs are grouped by it.
    """
    grouped = ("dataset",) if frame["dataset"].drop_nulls().n_unique() > 1 else ()
    overrides = [json.loads(text) for text in frame["overrides"]]
    configs = [json.loads(text) for text in frame["config"]]
    if _is_one_sweep(frame["run"].to_list()) or not any(configs):
        return by_overrides(overrides, grouped)
    return by_config(configs, grouped, overrides)


def _is_one_sweep(runs: Sequence[str]) -> bool:
    paths = [PurePosixPath(run) for run in runs]
    return len({path.parent for path in paths}) == 1 and all(path.name.isdigit() for path in paths)


def by_overrides(overrides: Sequence[dict[str, str]], grouped: Sequence[str] = ()) -> Settings:
    """Settings as the overrides (name -> text) that differ between the runs.

    Args:
        grouped: names that take no part.
    """
    known = dict.fromkeys(
        name for texts in overrides for name in texts if counts(name, REPEATED) and name not in grouped
    )
    names = [name for name in known if len({texts.get(name) for texts in overrides}) > 1]
    values = [
        {name: texts[name].partition("=")[2] or texts[name] if name in texts else None for name in names}
        for texts in overrides
    ]
    labels = [" ".join(texts[name] for name in names if name in texts) or AS_COMPOSED for texts in overrides]
    return Settings(names, values, labels)


def by_config(
    configs: Sequence[dict[str, Any]], grouped: Sequence[str] = (), overrides: Sequence[dict[str, str]] | None = None
) -> Settings:
    """Settings as the differences of the configs, in few words.

    A key is named only if it tells runs apart that the keys before it do not: where every run with
    backbone=dnn has the same width, the width is not named. `ALWAYS` are named if they differ.

    Args:
        configs: key -> value, see `records.flat_config`; empty if unknown.
        grouped: keys that tell runs apart without being named.
        overrides: of the runs; they name a run whose config is unknown.
    """
    later = {key: str(value).lower() for key, value in LATER.items()}  # as a config's values are texts
    configs = [later | config if config else config for config in configs]
    known = [config for config in configs if config]
    single = sorted({key for config in known for key in config}, key=lambda key: (not key.startswith(ENCODERS), key))
    keys = dict.fromkeys([*grouped, *GROUPS, *single])
    apart: list[tuple[str, ...]] = [()] * len(known)
    names = []
    for key in keys:
        finer = [(*part, _same_text(key, config.get(key))) for part, config in zip(apart, known, strict=True)]
        differs = len({part[-1] for part in finer}) > 1
        if len({*finer}) > len({*apart}) or (key in ALWAYS and differs):
            apart = finer
            names += [] if key in grouped else [key]
    texts = {name: _short_texts(name, [config[name] for config in known if name in config]) for name in names}
    values = [
        {name: texts[name][_same_text(name, config[name])] if name in config else None for name in names}
        for config in configs
    ]
    labels = [label_of(row) for row in values]
    for number, config in enumerate(configs):
        if not config and overrides is not None:
            own = (text for name, text in overrides[number].items() if counts(name, REPEATED))
            labels[number] = " ".join(own) or AS_COMPOSED
    return Settings(names, values, labels)


def _same_text(key: str, value: Any) -> str:
    """JSON that is equal for equal values of a key, also if they were written in other ways.

    Those are numbers (2 and 2.0), and a class of ours that is in another file now.
    """
    if isinstance(value, str) and key.endswith("._target_"):
        return json.dumps(class_of(value))
    return json.dumps(_as_numbers(value))


def _as_numbers(value: Any) -> Any:
    """A value of a config, whose numbers are texts, with numbers."""
    if isinstance(value, list):
        return [_as_numbers(part) for part in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _short_texts(name: str, values: Sequence[Any]) -> dict[str, str]:
    """`_same_text` of each value -> a short text. Long values of the same text get numbers."""
    texts: dict[str, str] = {}
    shortened: Counter[str] = Counter()
    for value in values:
        key = _same_text(name, value)
        if key not in texts:
            text = _short(value)
            shortened[text] += 1
            texts[key] = f"{text} #{shortened[text]}" if shortened[text] > 1 else text
    return texts


def _short(value: Any) -> str:
    """Text as it is; a list of parts with names as the names."""
    if isinstance(value, list):
        value = [part["name"] if isinstance(part, dict) and "name" in part else part for part in value]
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace('"', "")
    )
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def label_of(values: dict[str, str | None]) -> str:
    """A setting in words: NAME=VALUE of each name with a value."""
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None) or AS_COMPOSED
