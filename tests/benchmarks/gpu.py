"""make bench-gpu: what only a GPU can show: the options of a training, and steps that do not wait.

    python tests/benchmarks/gpu.py [RUNS] [ROWS]

Each variant trains two epochs of ROWS (2000000) synthetic rows with train.py, RUNS (3) times in
turn. The second epoch counts; the rows per second are those of metrics.json, without validation.
With several GPUs the variants with trainer=ddp run, too. Then 20 steps run with torch's
`set_sync_debug_mode("error")`, which refuses an operation that waits for the GPU.

The 20 steps ran on an H200. The rest has run on a CPU only, by `main(1, 20000, "cpu")`: no document
has its figures.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench import make_module, random_batch
from rich.console import Console

from data import ROOT, spread, table_of
from tf4ctr.data.schema import Field, Schema
from tf4ctr.training.optim import clip_grad_norm

VARIANTS = {
    "float32": ["trainer.matmul_precision=highest"],
    "TF32 (default)": [],
    "TF32, compiled": ["trainer.compile=true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "rowwise": ["embedding=rowwise"],
    "rows in the host's memory": ["stream=memory"],
    "rows on disk": ["stream=disk"],
}
SEVERAL = {
    "all GPUs, dense": ["trainer=ddp"],
    "all GPUs, rowwise": ["trainer=ddp", "embedding=rowwise"],
    "all GPUs, sharded": ["trainer=ddp", "embedding=sharded"],
}
STEPS = 20


def rows_per_second(options: list[str], folder: Path, rows: int, accelerator: str = "gpu") -> float:
    """Train two epochs; returns the rows per second of their steps."""
    trainer = [] if any(option.startswith("trainer=") for option in options) else [f"trainer={accelerator}"]
    command = [
        sys.executable,
        str(ROOT / "src" / "train.py"),
        "backbone=dual_mlp",
        "logger=csv",
        "trainer.max_epochs=2",
    ]
    command += [f"dataset.generator.train={rows}", f"dataset.prepared_dir={folder}/prepared", *trainer, *options]
    command += [f"hydra.run.dir={folder}/run"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads((folder / "run" / "metrics.json").read_text())["train_rows_per_second"]


def steps_do_not_wait(device: torch.device) -> None:
    """Take some steps; an operation that waits for the GPU raises RuntimeError.

    With dense tables, as torch waits once when it adds up the rows of sparse gradients.
    """
    schema = Schema("wide", tuple(Field(f"field{number}", 1_000) for number in range(22)), "click")
    module = make_module(schema).to(device).train()
    optimizer = module.configure_optimizers()
    ids, label = (part.to(device) for part in random_batch(schema)[:2])
    for number in range(STEPS + 1):
        if number == 1:  # after the first step, which allocates
            torch.cuda.set_sync_debug_mode("error")
        module.loss(module.network(ids), label)["loss"].backward()
        clip_grad_norm(module.parameters(), 10)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.set_sync_debug_mode("default")


def main(runs: int = 3, rows: int = 2_000_000, accelerator: str = "gpu") -> None:
    """Measure all variants in turn, print them and their ratios to the default."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise SystemExit("make bench-gpu needs an NVIDIA GPU and a torch that supports it: none was found")
    variants = VARIANTS | (SEVERAL if accelerator == "gpu" and torch.cuda.device_count() > 1 else {})
    measured: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for name, options in variants.items():
                measured[name].append(rows_per_second(options, Path(folder), rows, accelerator))
    device = torch.cuda.get_device_name() if accelerator == "gpu" else "CPU"
    table = table_of(f"{rows:,} rows, dual MLP, {device}, torch {torch.__version__}", "variant", "rows/s", "ratio")
    default = np.array(measured["TF32 (default)"])
    for name, values in measured.items():
        table.add_row(name, spread(np.array(values)), spread(np.array(values) / default))
    Console(width=140).print(table)
    if accelerator == "gpu":
        steps_do_not_wait(torch.device("cuda"))
        Console().print(f"{STEPS} steps ran without waiting for the GPU")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
