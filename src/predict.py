"""Score raw rows with a trained run: python src/predict.py run=outputs/DATE/RUN input=new.csv output=scores.parquet"""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError, did_you_mean


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Write the rows of `input` with their probabilities to `output`; what was unknown of them on the terminal."""
    for name in ("run", "input", "output"):
        if config[name] is None:
            raise InputError(f"{name}= is missing: run=outputs/DATE/RUN input=new.csv output=scores.parquet")
    from tf4ctr.inference.prediction import (  # here, not at the top: --help should not wait for torch
        BAD_ROWS,
        predict,
        unknown_table,
    )

    if config.bad_rows not in BAD_ROWS:
        raise InputError(f"bad_rows={config.bad_rows}: {did_you_mean(str(config.bad_rows), BAD_ROWS)}")
    run, source, output = (Path(config[name]).expanduser().absolute() for name in ("run", "input", "output"))
    done = predict(run, source, output, config.heads, config.bad_rows)
    console = Console()
    console.print(unknown_table(done))
    console.print(f"{output}: {done.rows:,} rows, mean probability {done.mean:.5f}", soft_wrap=True)
    if done.set_aside:
        console.print(
            f"[yellow]{done.set_aside:,} rows set aside[/] in {output.with_suffix('.bad.csv')}", soft_wrap=True
        )


if __name__ == "__main__":
    cli.run(main)
