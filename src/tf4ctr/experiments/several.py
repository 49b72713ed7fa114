"""Options that name one path or several: `runs=A,B`."""

from pathlib import Path

from omegaconf import ListConfig


def joined(arguments: list[str], option: str) -> list[str]:
    """`option=a,b` as Hydra writes a list, `option=[a,b]`; with -m it stays several jobs."""
    if {"-m", "--multirun"} & {*arguments}:
        return arguments
    lists = [argument.startswith(f"{option}=") and "," in argument and "[" not in argument for argument in arguments]
    return [
        f"{option}=[{argument.partition('=')[2]}]" if is_list else argument
        for argument, is_list in zip(arguments, lists, strict=True)
    ]


def as_paths(value: object) -> list[Path]:
    """The absolute paths of an option that is empty, one path, or a list of them."""
    if value is None:
        return []
    return [Path(str(name)).expanduser().absolute() for name in (value if isinstance(value, ListConfig) else [value])]
