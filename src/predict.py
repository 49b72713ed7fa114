"""Score raw rows: python src/predict.py run=outputs/DATE/RUN input=new.csv output=scores.parquet"""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError


def main(config: DictConfig) -> None:
    """Write the rows of `input` with their probabilities to `output`; print what is unknown."""
    for name in ("run", "input", "output"):
        if config[name] is None:
            raise InputError(f"{name}= is missing: run=outputs/DATE/RUN input=new.csv output=scores.parquet")
    from tf4ctr.inference.prediction import predict, unknown_table, unknown_warnings

    run, source, output = (Path(config[name]).expanduser().absolute() for name in ("run", "input", "output"))
    result = predict(run, source, output, config.heads, str(config.bad_rows))
    console = Console()
    console.print(unknown_table(result))
    for warning in unknown_warnings(result):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{output}: {result.rows:,} rows, mean probability {result.mean:.5f}", soft_wrap=True)
    if result.set_aside:
        console.print(
            f"[yellow]{result.set_aside:,} rows set aside[/] in {output.with_suffix('.bad.csv')}", soft_wrap=True
        )


if __name__ == "__main__":
    cli.run(main, "predict")
