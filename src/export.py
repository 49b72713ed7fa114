"""Export a trained run: python src/export.py run=outputs/DATE/RUN format=onnx"""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError


def main(config: DictConfig) -> None:
    """Write the model with its vocabulary, and print the check against the run."""
    if config.run is None:
        raise InputError("run= is missing: name a run's folder, run=outputs/DATE/TIME-BACKBONE-DATASET")
    from tf4ctr.inference.exporting import export, export_table

    cli.quiet_lightning()
    run = Path(config.run).expanduser().absolute()
    output = Path(config.output).expanduser().absolute() if config.output else run / "export" / config.format
    Console().print(export_table(config.format, export(run, config.format, output, config.seed)))


if __name__ == "__main__":
    cli.run(main, "export")
