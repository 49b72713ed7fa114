"""Export a trained run: python src/export.py run=outputs/DATE/RUN format=onnx"""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.experiments.several import as_paths, joined


def main(config: DictConfig) -> None:
    """Write the model with its vocabulary, and print the check against the run."""
    if not config.run:
        raise InputError("run= is missing: name a run's folder, run=outputs/DATE/TIME-BACKBONE-DATASET")
    run, *others = as_paths(config.run)
    if others:
        raise InputError(
            f"run= names {1 + len(others)} runs, and an export has the network of one: name one run. predict.py and"
            " evaluate.py take several, as an ensemble"
        )
    from tf4ctr.inference.exporting import export, export_table

    cli.quiet_lightning()
    output = Path(config.output).expanduser().absolute() if config.output else run / "export" / config.format
    Console().print(export_table(config.format, export(run, config.format, output, config.seed)))


if __name__ == "__main__":
    sys.argv[1:] = joined(sys.argv[1:], "run")
    cli.run(main, "export")
