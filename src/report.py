"""Compare the runs of a sweep: python src/report.py runs=outputs/multirun/DATE/TIME baseline=framework=plain"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    """Show the table of a sweep's settings; write it and its pictures into the sweep's folder."""
    from tf4ctr.comparison import show_comparison  # here, not at the top: --help should not wait for polars

    if config.runs is None:
        raise InputError("runs= is missing: name the folder of a sweep, runs=outputs/multirun/DATE/TIME")
    show_comparison(Path(config.runs).expanduser().absolute(), config.baseline)


if __name__ == "__main__":
    cli.run(main)
