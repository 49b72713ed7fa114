"""Compare runs: python src/report.py runs=FOLDER 'baseline="framework=plain"'"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.experiments.several import as_paths, joined


def main(config: DictConfig) -> None:
    """Show the table of the settings of all runs; write it, pictures and a page into `out`."""
    from tf4ctr.experiments.comparison import rows_of, show_comparison
    from tf4ctr.experiments.leaderboard import show_leaderboard
    from tf4ctr.experiments.records import TABLES

    sources = sources_of(config)
    out = out_of(config.out, sources)
    if out.suffix in TABLES:
        if config.baseline is not None:
            raise InputError(f"baseline= is not for a table of runs: {out} compares tf4ctr with plain")
        show_leaderboard(sources, out)
        return
    rows = rows_of(show_comparison(sources, out, config.baseline))
    if sources == [out]:  # a sweep, whose runs may be in W&B
        from tf4ctr.training.loggers import send_report  # after the table is shown: it imports Lightning

        send_report(out, rows)


def sources_of(config: DictConfig) -> list[Path]:
    """The files and folders of `runs=` and `run=`."""
    sources = [*as_paths(config.runs), *as_paths(config.run)]
    if not sources:
        raise InputError(
            "runs= is missing: name the folder of a sweep, runs=outputs/multirun/DATE/TIME, several folders"
            " (runs=A,B), or a table of runs (runs=FILE.csv)"
        )
    return sources


def out_of(out: str | None, sources: list[Path]) -> Path:
    """Where to write: `out=`, else the table among the sources, else the only source."""
    from tf4ctr.experiments.records import TABLES, is_run

    tables = [source for source in sources if source.suffix in TABLES]
    if out is not None:
        path = Path(out).expanduser().absolute()
    elif len(tables) == 1:
        path = tables[0]
    elif len(sources) == 1:
        path = sources[0]
    else:
        raise InputError("out= is missing: there are several runs=, so name the folder to write the report to")
    if is_run(path):
        raise InputError(
            f"{path} is the folder of a run, whose curves.png the report would replace: name another folder with out="
        )
    return path


if __name__ == "__main__":
    sys.argv[1:] = joined(sys.argv[1:], "runs")
    cli.run(main, "report")
