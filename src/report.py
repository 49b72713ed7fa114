"""Compare the runs of a sweep: python src/report.py runs=FOLDER baseline=framework=plain"""

from pathlib import Path

from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError


def main(config: DictConfig) -> None:
    """Show the table of a sweep's settings; write it and its pictures into the sweep's folder."""
    from tf4ctr.experiments.comparison import rows_of, show_comparison

    if config.runs is None:
        raise InputError("runs= is missing: name the folder of a sweep, runs=outputs/multirun/DATE/TIME")
    folder = Path(config.runs).expanduser().absolute()
    rows = rows_of(show_comparison(folder, config.baseline))
    from tf4ctr.training.loggers import send_report  # after the table is shown: it imports Lightning

    send_report(folder, rows)


if __name__ == "__main__":
    cli.run(main, "report")
