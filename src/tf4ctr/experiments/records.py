"""The record of a run, one row of a table: its config, how it ended, its metrics and curves."""

import json
import os.path
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from polars import selectors as cs

from tf4ctr.errors import InputError
from tf4ctr.experiments.outcomes import read_outcome
from tf4ctr.experiments.runs import MOVABLE, ROOT, flatten
from tf4ctr.files import whole, write_whole

TABLES = (".csv", ".parquet")
CURVES = ("val/auc", "val/gauc", "val/logloss", "train/loss")
ENCODERS = "encoder@backbone."  # the groups of the encoders begin so
# a run's options of these groups name its setting before single keys do, the first ones first
GROUPS = (
    *("dataset", "backbone", "framework", "ssem", "dfm", "loss", f"{ENCODERS}simple", f"{ENCODERS}complex"),
    *("embedding", "number", "sequence", "optimizer"),
)
REPEATED = ("seed", "ckpt", "logger", "page", *MOVABLE)  # these make no other setting: repetition and folders
# nor do these keys of a config: the machine, what is shown, and how often it is saved
IGNORED = (
    *REPEATED,
    "verbose",
    *("dataset.download", "trainer.accelerator", "trainer.enable_progress_bar"),
    *("callbacks.focus", "callbacks.progress_bar", "callbacks.validation_lines", "callbacks.checkpoint_last"),
)
SAME_ORDER = ("auto", "device", "memory")  # tiers whose rows come in the same order
FOLDERS = ("_partial_", "dirpath", "default_root_dir", "save_dir", "storage")  # last parts of keys, ignored too
TEXTS = ("run", "dataset", "framework", "seed", "setting", "error", "overrides", "config", "curves")
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # in C where PyYAML was built so
DEPTH = 3  # outputs/multirun/DATE/TIME/N, of which multirun is given


def find_runs(source: Path) -> list[Path]:
    """The folders of the runs in `source`: itself, or those up to `DEPTH` levels below it.

    Raises:
        InputError: there is none.
    """
    folders = _runs_below(source, DEPTH)
    if not folders:
        raise InputError(
            f"{source} contains no run (no folder with .hydra/overrides.yaml or config.yaml): name the folder of a"
            " sweep, of a run, or of several runs, or a table of runs (.csv, .parquet)"
        )
    return folders


def _runs_below(folder: Path, depth: int) -> list[Path]:
    if is_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    children = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: (len(path.name), path))
    return [run for child in children for run in _runs_below(child, depth - 1)]


def is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, started or ended."""
    return (folder / ".hydra" / "overrides.yaml").exists() or (folder / "config.yaml").exists()


def read_records(sources: Iterable[Path]) -> pl.DataFrame:
    """One row per run of `sources`, which are tables of runs and folders.

    Columns: `run` (its folder, relative to the project if it is inside), `dataset`, `framework`,
    `seed`, `error` (why it did not train, else null), its metrics (null if undefined); and in
    JSON `overrides` (name -> text), `config` (key -> value, see `flat_config`) and `curves`
    (name -> values). Of a run that is in several sources, the last record counts.

    Raises:
        InputError: a source contains no run.
    """
    frames = [read_table(source) if source.suffix in TABLES else _read_folders(source) for source in sources]
    frame = pl.concat(frames, how="diagonal_relaxed").with_columns(cs.float().fill_nan(None))
    return frame.unique("run", keep="last", maintain_order=True)


def _read_folders(source: Path) -> pl.DataFrame:
    rows = [read_run(folder) for folder in find_runs(source)]
    frame = pl.DataFrame(
        rows, infer_schema_length=None, schema_overrides=dict.fromkeys(rows[0].keys() & TEXTS, pl.String)
    )
    undefined = cs.by_dtype(pl.Null) - cs.by_name(*TEXTS, require_all=False)  # in all of these runs
    return frame.with_columns(undefined.cast(pl.Float64))


def read_run(folder: Path) -> dict[str, Any]:
    """The record of the run in `folder`; the columns are those of `read_records`."""
    composed = load_yaml(folder / "config.yaml")
    overrides, config, outcome = _overrides(folder), flat_config(folder, composed), read_outcome(folder)
    values = {name: text.partition("=")[2] for name, text in overrides.items()}
    return {
        "run": run_name(folder),
        "dataset": config.get("dataset") or values.get("dataset"),
        "framework": config.get("framework") or values.get("framework"),
        "seed": composed.get("seed") or values.get("seed"),
        "error": outcome.reason,
        **outcome.metrics,
        "overrides": json.dumps(overrides),
        "config": json.dumps(config),
        "curves": json.dumps(read_curves(folder)),
    }


def run_name(folder: Path) -> str:
    """The folder as it is stored: relative to the project if it is inside, else absolute."""
    folder = Path(os.path.normpath(folder.absolute()))  # one run has one name, also as a/../b
    return (folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder).as_posix()


def _overrides(folder: Path) -> dict[str, str]:
    """Name -> text of each override of a run, as in dfm -> dfm=sum. The + of `+a=1` is removed."""
    texts = [text.lstrip("+") for text in load_yaml(folder / ".hydra" / "overrides.yaml")]
    return {text.partition("=")[0]: text for text in texts}


def flat_config(folder: Path, composed: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the setting of the run in `folder`: key -> value, as on the command line.

    First the options of `GROUPS` (backbone -> deepfm), if .hydra/hydra.yaml has them, then the
    single keys (loss.alpha -> 0.25). `IGNORED` keys are left out.

    Args:
        composed: its config.yaml, empty if it has none.
    """
    choices = choices_of(folder) if composed else {}
    known = (*GROUPS, *further_encoders(choices))
    groups = {group: choices[group] for group in known if choices.get(group, "null") != "null"}
    if name := composed.get("dataset", {}).get("name"):
        groups.setdefault("dataset", name)
    single = {key: value for key, value in flatten(composed).items() if counts(key, IGNORED)}
    if single.get("stream.tier") in SAME_ORDER:
        del single["stream.tier"]
    return groups | single


def further_encoders(groups: Iterable[str]) -> list[str]:
    """Those of `groups` that are encoders beside simple and complex, as encoder@backbone.m1."""
    return [group for group in groups if group.startswith(ENCODERS) and group not in GROUPS]


def choices_of(folder: Path) -> dict[str, str]:
    """Group -> option of a run, as .hydra/hydra.yaml has them; empty without one."""
    return load_yaml(folder / ".hydra" / "hydra.yaml").get("hydra", {}).get("runtime", {}).get("choices", {})


def load_yaml(path: Path) -> Any:
    """A YAML file, its values as text as they are written; an empty dict if there is none."""
    # OmegaConf's own reader takes 0.2 s per run, and would make numbers and dates of them
    return yaml.load(path.read_text(), Loader=LOADER) if path.exists() else {}


def counts(key: str, ignored: Iterable[str]) -> bool:
    """Whether a key makes another setting: neither it nor a group above it is ignored."""
    parts = key.split(".")
    prefixes = {".".join(parts[: end + 1]) for end in range(len(parts))}
    return not prefixes & {*ignored} and parts[-1] not in FOLDERS


def read_curves(folder: Path) -> dict[str, list[float | None]]:
    """`epoch` and `CURVES` of a run's metrics.csv, with 6 digits; empty without one."""
    rows = read_validations(folder)
    if rows is None:
        return {}
    names = ["epoch", *(name for name in CURVES if name in rows.columns)]
    return finite_lists(rows.select(pl.col(names).cast(pl.Float64).round(6)))


def read_validations(folder: Path) -> pl.DataFrame | None:
    """A run's metrics.csv, one row per validation; None without one."""
    path = folder / "metrics.csv"
    if not path.exists():
        return None
    # polars guesses a type from the first rows, and the epochs of these may all be whole numbers
    return pl.read_csv(path, infer_schema_length=None, schema_overrides={"epoch": pl.Float64})


def finite_lists(numbers: pl.DataFrame) -> dict[str, list[float | None]]:
    """The columns as lists for JSON, which has no name for an infinite or undefined value."""
    finite = pl.all().cast(pl.Float64)
    return numbers.select(pl.when(finite.is_finite()).then(finite)).to_dict(as_series=False)


def read_table(path: Path) -> pl.DataFrame:
    """A table that `write_table` wrote.

    Raises:
        InputError: the file does not exist, or has other columns.
    """
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist")
    frame = pl.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    if missing := [name for name in TEXTS if name not in (*frame.columns, "setting")]:
        raise InputError(f"{path} is no table of runs: it has no column {', '.join(missing)}; report.py writes one")
    return frame.drop("setting", strict=False)  # which depends on the other runs of a report


def _read_csv(path: Path) -> pl.DataFrame:
    titles = path.open().readline().strip().split(",")
    frame = pl.read_csv(
        path, infer_schema_length=None, schema_overrides={name: pl.String for name in TEXTS if name in titles}
    )
    undefined = [name for name in frame.columns if name not in TEXTS and frame[name].null_count() == len(frame)]
    return frame.with_columns(pl.col(undefined).cast(pl.Float64))


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write records as .csv or .parquet, whole or not at all."""
    if path.suffix == ".csv":
        write_whole(path, frame.write_csv())
        return
    with whole(path) as partial:
        frame.write_parquet(partial)
