"""Score raw rows: python src/predict.py run=outputs/DATE/RUN input=new.csv output=scores.parquet"""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.experiments.several import as_paths, joined


def main(config: DictConfig) -> None:
    """Write the rows of `input` with their probabilities to `output`; print what is unknown."""
    for name in ("run", "input", "output"):
        if not config[name]:
            raise InputError(f"{name}= is missing: run=outputs/DATE/RUN input=new.csv output=scores.parquet")
    from tf4ctr.inference.findings import shared_findings, unknown_table, unknown_warnings
    from tf4ctr.inference.members import named_folders
    from tf4ctr.inference.prediction import bad_rows_file, predict

    runs = as_paths(config.run)
    source, output = (Path(config[name]).expanduser().absolute() for name in ("input", "output"))
    result = predict(runs, source, output, config.heads, str(config.bad_rows))
    console = Console()
    for name, folder in named_folders(runs).items():
        console.print(f"{name}: {folder}", markup=False, highlight=False, soft_wrap=True)
    for names, findings in shared_findings(result.findings):
        console.print(unknown_table(findings, names))
        for warning in unknown_warnings(findings):
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{output}: {result.rows:,} rows, mean probability {result.mean:.5f}", soft_wrap=True)
    if result.set_aside:
        console.print(f"[yellow]{result.set_aside:,} rows set aside[/] in {bad_rows_file(output)}", soft_wrap=True)


if __name__ == "__main__":
    sys.argv[1:] = joined(sys.argv[1:], "run")
    cli.run(main, "predict")
