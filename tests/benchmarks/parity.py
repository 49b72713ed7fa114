"""make parity: our models and FuxiCTR's, trained on the same files with the same settings.

    python tests/benchmarks/parity.py [--models deepfm,dcn] [--seeds 2019,2020,2021] [--threads 2]
        [--zoo FOLDER] [--raw FOLDER] [--results FILE] [--epochs 1]

The files are frappe's csv, the settings are BARS' (conf/experiment/bars/frappe_x1). FuxiCTR gets
them from our config, so that they cannot differ. `--zoo` is the folder model_zoo of a checkout of
github.com/reczoo/FuxiCTR, release 2.3.10: its package on PyPI has no models.

Every run is a process of its own, ours before FuxiCTR's, seed by seed. When it ends, its results
are appended to the csv file `--results`. A run that is there already is not repeated: start the
same command again to go on. A run that fails is reported, and the others go on. `--epochs` lowers
the largest number of epochs, to try it out; results under another limit do not count.

The table has means and standard deviations over the seeds that both sides have. Seconds are those
of the whole process: start, training with validation, and test.
"""

import argparse
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from tf4ctr.errors import did_you_mean
from tf4ctr.experiments.resolvers import register_resolvers

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "data" / "bench"
FUXICTR = ROOT / ".venv-fuxictr" / "bin" / "python"
RAW = (ROOT / "data" / "raw" / "frappe", ROOT.parent / "shared" / "data" / "frappe")
FIELDS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
SIDES = ("ours", "FuxiCTR")
METRICS = ("auc", "logloss", "epochs", "parameters", "seconds")
COLUMNS = ("model", "side", "seed", "limit", *METRICS, "threads")
CLOSE = 1e-3  # the largest difference of the mean AUCs that counts as parity


def layers(encoder: DictConfig, units: str = "hidden_units") -> dict[str, Any]:
    """FuxiCTR's options of an MLP."""
    return {
        units: list(encoder.hidden_units),
        "net_dropout": encoder.dropout,
        "batch_norm": encoder.batch_norm,
    }


def autoint(backbone: DictConfig) -> dict[str, Any]:
    attention, mlp = backbone.simple, backbone.complex
    if attention.dropout != mlp.dropout:
        raise ValueError("FuxiCTR's AutoInt has one dropout for its attention and its MLP")
    sizes = {"attention_layers": attention.num_layers, "attention_dim": attention.units}
    options = {"num_heads": attention.num_heads, "use_scale": attention.scale, "layer_norm": attention.layer_norm}
    return {**layers(mlp, "dnn_hidden_units"), **sizes, **options}


def finalmlp(backbone: DictConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"num_heads": backbone.interaction.num_heads, "use_fs": True}
    for number, stream in enumerate((backbone.simple, backbone.complex), 1):
        options |= {f"fs{number}_context": list(stream.context), "fs_hidden_units": [stream.gate_units]}
        options |= {f"mlp{number}_hidden_units": list(stream.hidden_units)}
        options |= {f"mlp{number}_dropout": stream.dropout, f"mlp{number}_batch_norm": stream.batch_norm}
    return options


def masknet(backbone: DictConfig) -> dict[str, Any]:
    encoder = backbone.complex
    if encoder.block_dropout != encoder.dropout or encoder.batch_norm:
        raise ValueError("FuxiCTR's MaskNet has one dropout for its blocks and its MLP, and no batch norm")
    blocks = {"parallel_num_blocks": len(encoder.block_units), "parallel_block_dim": encoder.block_units[0]}
    mlp = {"dnn_hidden_units": list(encoder.hidden_units), "net_dropout": encoder.dropout}
    norms = {"emb_layernorm": encoder.embedding_norm, "net_layernorm": True}
    return {**blocks, **mlp, **norms, "reduction_ratio": encoder.ratio, "model_type": "ParallelMaskNet"}


def afn(backbone: DictConfig) -> dict[str, Any]:
    encoder, mlp = backbone.simple, backbone.complex
    return {
        "ensemble_dnn": True,
        "logarithmic_neurons": encoder.neurons,
        "afn_hidden_units": list(encoder.hidden_units),
        "afn_dropout": encoder.dropout,
        "dnn_hidden_units": list(mlp.hidden_units),
        "dnn_dropout": mlp.dropout,
        "batch_norm": encoder.batch_norm,
    }


class Model(NamedTuple):
    """A model that both sides have.

    Attributes:
        name: FuxiCTR's.
        options: FuxiCTR's options of our `backbone`.
        regularizer: FuxiCTR's name of the L2 on the tables.
    """

    name: str
    options: Callable[[DictConfig], dict[str, Any]] = lambda backbone: layers(backbone.complex)
    regularizer: str = "embedding_regularizer"


MODELS = {
    "lr": Model("LR", lambda backbone: {}, "regularizer"),
    "fm": Model("FM", lambda backbone: {}, "regularizer"),
    "dnn": Model("DNN"),
    "wide_deep": Model("WideDeep"),
    "deepfm": Model("DeepFM"),
    "nfm": Model("NFM"),
    "ipnn": Model("PNN"),
    "dcn": Model(
        "DCN",
        lambda backbone: {
            **layers(backbone.complex, "dnn_hidden_units"),
            "num_cross_layers": backbone.simple.num_layers,
        },
    ),
    "dcnv2": Model(
        "DCNv2",
        lambda backbone: {
            **layers(backbone.complex, "parallel_dnn_hidden_units"),
            "num_cross_layers": backbone.simple.num_layers,
            "model_structure": "parallel",
        },
    ),
    "xdeepfm": Model(
        "xDeepFM",
        lambda backbone: {
            **layers(backbone.complex, "dnn_hidden_units"),
            "cin_hidden_units": list(backbone.simple.layer_units),
        },
    ),
    "autoint_plus": Model("AutoInt", autoint),
    "finalmlp": Model("FinalMLP", finalmlp),
    "masknet": Model("MaskNet", masknet),
    "afn_plus": Model("AFN", afn),
}


@functools.cache
def config_of(model: str) -> DictConfig:
    """Our config of a model of BARS."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"experiment=bars/frappe_x1/{model}"])


def fuxictr_options(model: str) -> dict[str, Any]:
    """The options of FuxiCTR's class that equal our config of a model."""
    config, (_, options, regularizer) = config_of(model), MODELS[model]
    size = {} if model == "lr" else {"embedding_dim": config.embedding.dim}
    common = {"learning_rate": config.optimizer.lr, regularizer: config.embedding.l2, **size}
    return {**common, **options(config.backbone)}


class Run(NamedTuple):
    """One training and its test; `limit` is the largest number of epochs."""

    model: str
    side: str
    seed: int
    limit: int


class Files(NamedTuple):
    """Where both sides read."""

    raw: Path  # frappe's csv files
    zoo: Path  # model_zoo of FuxiCTR
    prepared: Path = WORK / "frappe-parity"  # ours
    converted: Path = WORK / "frappe-parity-fuxictr"  # FuxiCTR's


def command_of(run: Run, files: Files, folder: Path) -> list[str]:
    """The command of a run that writes metrics.json into `folder`."""
    if run.side == "ours":
        options = {
            "experiment": f"bars/frappe_x1/{run.model}",
            "seed": run.seed,
            "trainer": "cpu",
            "trainer.max_epochs": run.limit,
            "logger": "none",
            "dataset.raw_dir": files.raw,
            "dataset.prepared_dir": files.prepared,
            "hydra.run.dir": folder,
        }
        return [sys.executable, str(ROOT / "src" / "train.py"), *(f"{key}={value}" for key, value in options.items())]
    config = config_of(run.model)
    settings = {
        "zoo": str(files.zoo),
        "name": MODELS[run.model].name,
        "options": fuxictr_options(run.model),
        "data": str(files.converted),
        "seed": run.seed,
        "epochs": run.limit,
        "batch_size": config.stream.batch_size,
        "patience": config.callbacks.early_stopping.patience,
    }
    return [str(FUXICTR), str(Path(__file__).with_name("fuxictr_zoo.py")), json.dumps(settings), str(folder)]


def call(command: list[str], threads: int | None = None) -> None:
    """Run a process.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}")


def measure(run: Run, files: Files, threads: int | None) -> dict[str, Any]:
    """Train and test; a row of the results."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        call(command_of(run, files, Path(folder)), threads)
        seconds = time.perf_counter() - started
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
    row = {**run._asdict(), "auc": metrics["test/auc"], "logloss": metrics["test/logloss"]}
    row |= {key: metrics[key] for key in ("epochs", "parameters")}
    return row | {"seconds": round(seconds, 1), "threads": threads or ""}


def read_results(path: Path) -> dict[Run, dict[str, float]]:
    """The runs that have ended, from the csv file of results; empty without it."""
    if not path.exists():
        return {}
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        Run(row["model"], row["side"], int(row["seed"]), int(row["limit"])): {key: float(row[key]) for key in METRICS}
        for row in rows
    }


def append_result(path: Path, row: Mapping[str, Any]) -> None:
    """Add a run to the csv file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def table_of(results: Mapping[Run, Mapping[str, float]], limits: Mapping[str, int]) -> Table:
    """Both sides of each model, over the seeds that both have.

    Args:
        results: see `read_results`.
        limits: the models, and the largest number of epochs of each.
    """
    table = Table(title="test metrics, mean ± standard deviation over the seeds; d: ours - FuxiCTR")
    table.add_column("model")
    heads = ("seeds", "AUC, ours", "FuxiCTR", "d", f"within {CLOSE}", "logloss, ours", "FuxiCTR", "d")
    for head in (*heads, "epochs", "seconds, ours", "FuxiCTR", "ratio", "parameters"):
        table.add_column(head, justify="right")
    for model, limit in limits.items():
        seeds = [{run.seed for run in results if run == Run(model, side, run.seed, limit)} for side in SIDES]
        both = sorted(seeds[0] & seeds[1])
        if not both:
            continue
        ours, theirs = (
            {key: np.array([results[Run(model, side, seed, limit)][key] for seed in both]) for key in METRICS}
            for side in SIDES
        )
        cells = [str(len(both))]
        for key in ("auc", "logloss"):
            difference = ours[key].mean() - theirs[key].mean()
            cells += [_mean(ours[key]), _mean(theirs[key]), f"{difference:+.5f}"]
            if key == "auc":
                cells.append("yes" if abs(difference) <= CLOSE else "no")
        seconds = [side["seconds"].mean() for side in (ours, theirs)]
        cells += [f"{ours['epochs'].mean():.1f} / {theirs['epochs'].mean():.1f}"]
        cells += [*(f"{value:,.0f}" for value in seconds), f"{seconds[1] / seconds[0]:.1f}"]
        table.add_row(model, *cells, f"{ours['parameters'][0]:,.0f} / {theirs['parameters'][0]:,.0f}")
    return table


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.5f} ± {values.std(ddof=1):.5f}" if len(values) > 1 else f"{values.mean():.5f}"


def prepare(files: Files, run: Run) -> None:
    """Convert the csv files for both sides, so that no run's seconds contain it."""
    with tempfile.TemporaryDirectory() as folder:
        call([*command_of(run._replace(side="ours"), files, Path(folder)), "dry_run=true"])
    if not (files.converted / "feature_map.json").exists():
        # it refuses a split with fewer rows than a block
        options = [str(files.raw), str(files.converted), ",".join(FIELDS), "label", "20000", "", "", "1"]
        call([str(FUXICTR), str(Path(__file__).with_name("fuxictr_side.py")), "prepare", *options])


def arguments(words: list[str]) -> argparse.Namespace:
    """The options of the command line.

    Exits with a message if a model is unknown, or if a folder does not have what it should.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas; all by default")
    parser.add_argument("--seeds", default="2019,2020,2021")
    parser.add_argument("--threads", type=int, help="of torch, on both sides; its own default without it")
    parser.add_argument("--zoo", type=Path, default=ROOT / "data" / "fuxictr" / "model_zoo", help="FuxiCTR's models")
    parser.add_argument("--raw", type=Path, help="the folder of frappe's csv files")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "parity.csv")
    parser.add_argument("--epochs", type=int, help="at most so many; those of the settings without it")
    options = parser.parse_args(words)
    options.models = options.models.split(",")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    for model in options.models:
        if model not in MODELS:
            parser.error(f"--models: there is no '{model}', {did_you_mean(model, MODELS)}")
    folders = [options.raw] if options.raw else RAW
    options.raw = next((folder.absolute() for folder in folders if (folder / "train.csv").exists()), None)
    options.zoo = options.zoo.absolute()
    if options.raw is None:
        parser.error(
            f"no train.csv in {' or '.join(map(str, folders))}: name frappe's folder with --raw FOLDER,"
            " or run python src/prepare.py dataset=frappe download=true"
        )
    if not options.zoo.is_dir():
        parser.error(f"--zoo: there is no folder {options.zoo}. Name model_zoo of a checkout of FuxiCTR 2.3.10")
    if not FUXICTR.exists():
        parser.error(f"{FUXICTR} is missing: run make parity, which builds the environment")
    return options


def main(words: list[str]) -> int:
    """Do the runs that are missing, and print the table; 1 if a run failed."""
    options, console = arguments(words), Console(width=200)
    files = Files(options.raw, options.zoo)
    results, failed = read_results(options.results), 0
    limits = {model: config_of(model).trainer.max_epochs for model in options.models}
    if options.epochs:
        limits = {model: min(limit, options.epochs) for model, limit in limits.items()}
    runs = [
        Run(model, side, seed, limit) for seed in options.seeds for model, limit in limits.items() for side in SIDES
    ]
    todo = [run for run in runs if run not in results]
    console.print(f"{len(todo)} runs to do; results in {options.results}")
    if todo:
        prepare(files, todo[0])
    for number, run in enumerate(todo, 1):
        name = f"{number}/{len(todo)} {run.model}, {run.side}, seed {run.seed}"
        try:
            row = measure(run, files, options.threads)
        except RuntimeError as error:
            failed += 1
            console.print(f"{name}: failed\n{error}", markup=False)
            continue
        append_result(options.results, row)
        shown = f"AUC {row['auc']:.5f}, logloss {row['logloss']:.5f}, {row['epochs']} epochs, {row['seconds']} s"
        console.print(f"{name}: {shown}")
    console.print(table_of(read_results(options.results), limits))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
