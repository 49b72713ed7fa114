"""Compare the runs of a sweep: python src/report.py runs=outputs/multirun/DATE/TIME baseline=framework=plain"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    """Show the table of a sweep's settings; write it and its pictures into the sweep's folder."""
    from tf4ctr.experiments.comparison import (  # here, not at the top: --help should not wait for polars
        rows_of,
        show_comparison,
    )

    if config.runs is None:
        raise InputError("runs= is missing: name the folder of a sweep, runs=outputs/multirun/DATE/TIME")
    folder = Path(config.runs).expanduser().absolute()
    rows = rows_of(show_comparison(folder, config.baseline))
    from tf4ctr.training.loggers import send_report  # after the table is there: it waits for Lightning

    send_report(folder, rows)


if __name__ == "__main__":
    cli.run(main)
