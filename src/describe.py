"""Draft the yaml of a dataset: python src/describe.py input=clicks.csv name=shop"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.experiments.runs import ROOT
from tf4ctr.files import write_whole


def main(config: DictConfig) -> None:
    """Look at the files of `input`, show what becomes of each column, and write the yaml."""
    from rich.console import Console

    from tf4ctr.data.describing.describe import Hints, describe

    options: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    for option in ("input", "name"):
        if not options[option]:
            raise InputError(f"{option} is missing: python src/describe.py input=clicks.csv name=shop")
    folder = ROOT / "conf" / "dataset"
    output = Path(options["output"] or folder / f"{options['name']}.yaml").expanduser().absolute()
    if output.exists():
        raise InputError(f"{output} exists and is not overwritten: remove it, or set another name=NAME or output=FILE")
    inputs = options["input"] if isinstance(options["input"], list) else [options["input"]]
    names = {option: _text(options[option]) for option in ("label", "positive", "group", "time", "header")}
    hints = Hints(**names, quote=options["quote"], sample_rows=options["sample_rows"])
    draft = describe([str(path) for path in inputs], str(options["name"]), ROOT, hints)
    console = Console()
    console.print(draft.table)
    for line in draft.summary:
        style = "yellow" if line.startswith("warning: ") else None
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, draft.text)
    after = "" if output.parent == folder else f"put it into {folder}, "
    console.print(
        f"wrote {output}: {after}check it, then run python src/train.py dataset={options['name']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _text(value: Any) -> Any:
    """The text of a name or of a list of names; Hydra reads 101 as a number."""
    if isinstance(value, list):
        return [str(name) for name in value]
    return None if value is None else str(value)


if __name__ == "__main__":
    cli.run(main, "describe")
