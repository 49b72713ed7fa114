"""make bench, training: the dual MLP under TF4CTR on frappe, compared with other libraries.

    python tests/benchmarks/training.py [RAW_FOLDER] [PAIRS]

RAW_FOLDER has frappe's csv files; PAIRS is 3 by default. The other sides are FuxiCTR 2.3.10,
DeepCTR-Torch 0.3.0 and the bare matrix products. All have the same rows, layers, batch size and
number of threads.

Every measurement of a library, ours included, runs in its own process, in turn: one epoch as a
warm-up, then one that is timed, with its validation (AUC, logloss and, if the library has it, gAUC)
and its checkpoints. Steps are timed in this process, ours and the bare products in turn.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from bench import make_module, random_batch, seconds, step
from rich.console import Console
from torch import Tensor

from data import WORK, printed, spread, table_of
from tf4ctr.cli import keep_memory
from tf4ctr.data.schema import Field, Schema
from tf4ctr.metrics import grouped_auc
from tf4ctr.models.affine import product

ROOT = Path(__file__).resolve().parents[2]
BATCH, STEPS = 10_000, 8
FRAPPE = (942, 4084, 9, 9, 4, 5, 4, 11, 82, 233)  # vocabulary sizes
PEERS = {name: ROOT / f".venv-{name}" / "bin" / "python" for name in ("fuxictr", "deepctr")}


def ours(prepared: str, *overrides: str) -> list[float]:
    """Train two epochs on `prepared`, the first as a warm-up.

    Returns:
        seconds of an epoch with its validation, of an evaluation and of gAUC alone, and the gAUC of
        the validation split.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from lightning import Callback

    from tf4ctr import assembly, cli
    from tf4ctr.data.datamodule import CTRDataModule
    from tf4ctr.experiments.resolvers import register_resolvers

    class Clock(Callback):
        """Measures the seconds of an epoch with its validation and checkpoints."""

        def on_train_epoch_start(self, trainer, module):
            self.started = time.perf_counter()

        def on_train_epoch_end(self, trainer, module):
            self.epoch = time.perf_counter() - self.started

    register_resolvers()
    cli.quiet_lightning()
    cli.keep_memory()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        options = [
            "experiment=paper/frappe",
            "trainer=cpu",
            "trainer.max_epochs=2",
            "logger=csv",
            f"hydra.runtime.output_dir={folder}",
        ]
        config = compose("train", [*options, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        data = CTRDataModule(Path(prepared), seed=1, **config.stream)
        module, trainer = assembly.build_module(config, data.schema), assembly.build_trainer(config)
        clock = Clock()
        trainer.callbacks.append(clock)
        trainer.fit(module, data)
        evaluation = seconds(lambda: trainer.validate(module, data, verbose=False))
        module.eval()
        with torch.inference_mode():
            batches = [(module.network(batch.ids).fused, batch.label, batch.group) for batch in data.val_dataloader()]
        rows = [torch.cat(column) for column in zip(*batches, strict=True)]
        return [clock.epoch, evaluation, seconds(lambda: grouped_auc(*rows)), float(grouped_auc(*rows))]


def products(fields: int, half: bool = False) -> dict[str, Callable[[], None]]:
    """The matrix products alone of a training step on `fields` fields.

    They are those of each layer: forward, and the gradients of weights and input. torch computes
    them, in fp32 also oneDNN, by the function that our layers call.
    """
    widths = [8 * fields, 400, 400, 1], [16 * fields, 400, 400, 400, 1]  # of the two encoders and their heads
    dtype = torch.bfloat16 if half else torch.float32
    layers = [
        tuple(torch.randn(*shape, dtype=dtype) for shape in ((BATCH, width), (width, into), (BATCH, into)))
        for encoder in widths
        for width, into in pairwise(encoder)
    ]

    def multiply_all(multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        for x, weight, gradient in layers:
            multiply(x, weight)
            multiply(gradient, weight.T)
            multiply(gradient.T, x)

    works = {"its products by torch.mm": partial(multiply_all, torch.mm)}
    if half:
        return works
    return {**works, "its products by oneDNN": partial(multiply_all, lambda left, right: product(left, right.T))}


def in_turn(works: dict[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """The seconds of each work, STEPS times after a warm-up."""
    for work in works.values():
        seconds(work)
    runs = np.array([[seconds(work) for work in works.values()] for _ in range(STEPS)])
    return dict(zip(works, runs.T, strict=True))


def measure(*command: object) -> list[float]:
    """Run a process and return the numbers of its last line of numbers."""
    environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    words = [str(part) for part in command]
    process = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}")
    return printed(process.stdout)


def main(raw: str = "", pairs: int = 3) -> None:
    """Measure all, print the figures and their ratios."""
    from tf4ctr.data.preparation import prepare
    from tf4ctr.data.spec import DatasetSpec

    folders = [Path(raw)] if raw else [ROOT / "data" / "raw" / "frappe", ROOT.parent / "shared" / "data" / "frappe"]
    folder = next((candidate for candidate in folders if (candidate / "train.csv").exists()), None)
    if folder is None:
        print(
            "training is skipped: frappe's csv files do not exist;"
            " run python src/prepare.py dataset=frappe download=true"
        )
        return
    if missing := [str(path) for path in PEERS.values() if not path.exists()]:
        raise SystemExit(f"{', '.join(missing)} missing: run make bench, which builds the environments")
    fields = (folder / "train.csv").open().readline().strip().split(",")[1:]
    files = {split: f"{split}.csv" for split in ("train", "valid", "test")}
    options = {
        "name": "frappe",
        "raw_dir": folder,
        "prepared_dir": WORK / "frappe",
        "fields": fields,
        "label": "label",
        "group": "user",
    }
    prepared = prepare(DatasetSpec.from_config({**options, "min_count": 2, "layouts": [{"reader": "csv", **files}]}))
    theirs = WORK / "frappe-fuxictr"
    side = {name: Path(__file__).with_name(f"{name}_side.py") for name in PEERS}
    if not (theirs / "feature_map.json").exists():
        # it refuses a split with fewer rows than a block
        measure(PEERS["fuxictr"], side["fuxictr"], "prepare", folder, theirs, ",".join(fields), "label", 20_000)

    console, results = Console(width=140), {}
    us = (sys.executable, __file__, "ours", prepared)
    for pair in range(pairs):
        for name, command in {
            "ours": us,
            "FuxiCTR": (PEERS["fuxictr"], side["fuxictr"], "train", theirs, ",".join(fields)),
            "ours, bf16": (*us, "trainer.precision=bf16-mixed"),
            "DeepCTR-Torch": (PEERS["deepctr"], side["deepctr"], prepared, ",".join(fields)),
        }.items():
            results.setdefault(name, []).append(measure(*command))
            console.print(f"pair {pair + 1}, {name}: {' '.join(f'{number:.4g}' for number in results[name][-1])}")
    schema = Schema("frappe", tuple(Field(f"field{number}", size) for number, size in enumerate(FRAPPE)), "label")
    step_seconds: dict[str, dict[str, np.ndarray]] = {}
    keep_memory()
    for half in (False, True):
        works = {"a training step": step(make_module(schema), random_batch(schema), half)}
        step_seconds["bf16" if half else "fp32"] = in_turn({**works, **products(schema.num_fields, half)})
    score, group = torch.randn(5_000_000), torch.randint(0, 100_000, (5_000_000,))
    label = torch.randint(0, 2, (5_000_000,)).float()
    large_gauc = [seconds(lambda: grouped_auc(score, label, group)) for _ in range(pairs)]

    versions = f"torch {torch.__version__}, lightning {importlib.metadata.version('lightning')}"
    machine = f"{torch.get_num_threads()} threads {platform.machine()}"
    title = f"{versions}, FuxiCTR 2.3.10, DeepCTR-Torch 0.3.0, {machine}; medians (smallest to largest)"
    table = table_of(title, "work", "seconds")
    works = ("an epoch with validation", "an evaluation", "gAUC alone")
    for name, measurements in results.items():
        for what, values in zip(works, np.array(measurements).T, strict=False):
            if not np.isnan(values).any():
                table.add_row(f"{name}: {what}", spread(values))
    for name, measurements in step_seconds.items():
        for what, values in measurements.items():
            table.add_row(f"{what}, {name}", spread(values))
    table.add_row("gAUC of 5,000,000 rows in 100,000 groups", spread(np.array(large_gauc)))
    console.print(table)

    ratios = table_of("ratios, pair by pair: median (smallest to largest)", "ratio", "measured")
    for peer in ("FuxiCTR", "DeepCTR-Torch"):
        for number, what in enumerate(works):
            for name in ("ours", "ours, bf16"):
                ratio = np.array(results[peer])[:, number] / np.array(results[name])[:, number]
                if not np.isnan(ratio).any() and (number < 2 or name == "ours"):
                    ratios.add_row(f"{what}: {peer} / {name}", spread(ratio))
    for name, measurements in step_seconds.items():
        whole, *parts = measurements
        for what in parts:
            ratios.add_row(f"{whole} / {what}, {name}", spread(measurements[whole] / measurements[what]))
    console.print(ratios)
    gaucs = {
        name: spread(np.array(measurements)[:, 3])
        for name, measurements in results.items()
        if not np.isnan(measurements[0][3])
    }
    console.print(f"gAUC of the validation split after two epochs: {gaucs}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        print(*ours(*sys.argv[2:]))
    else:
        main(*sys.argv[1:2], *(int(argument) for argument in sys.argv[2:3]))
