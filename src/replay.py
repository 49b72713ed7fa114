"""Train and measure a log day by day: python src/replay.py dataset=NAME by=timestamp every=week"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.files import write_whole

log = logging.getLogger(__name__)


def main(config: DictConfig) -> None:
    """Cut the log, train each day from the day before, show how each period was predicted."""
    from tf4ctr import config_checks
    from tf4ctr.data import periods
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.experiments import replay
    from tf4ctr.experiments.runs import quoted

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise InputError("replay.py has no -m: start one replay after the other")
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    replay.check_options(settings)
    periods.check_options(config.by, config.every, config.min_rows)
    spec = DatasetSpec.from_config(settings["dataset"])
    config_checks.check_config(config, spec)
    folder = Path(hydra.runtime.output_dir)
    sources = [source for source in hydra.runtime.config_sources if source.schema == "file"]
    # those of --config-dir and hydra.searchpath
    folders = [quoted(f"file://{source.path}") for source in sources if source.provider != "main"]
    searched = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    overrides = [*searched, *replay.training_overrides(list(hydra.overrides.task))]
    kept = {name: settings[name] for name in replay.OPTIONS if name != "folder"}
    replay.check_same_replay(folder, {**kept, "overrides": overrides})
    log.info("replay: %s; to go on after a stop: the same command and folder=%s", folder, folder)
    cut = periods.cut(spec, config.by, config.every, config.min_rows, folder / "periods")
    days = replay.plan(cut, config.first, config.window)
    run_days(config, spec, days, cut, folder, overrides)


def run_days(
    config: DictConfig, spec: Any, days: list[Any], cut: list[Any], folder: Path, overrides: list[str]
) -> None:
    """Train and measure the days one after the other; the table grows with each."""
    from tf4ctr.experiments import replay
    from tf4ctr.experiments.processes import train

    models = ["daily", *(["once"] if config.once else []), *(["retrained"] if config.retrain else [])]
    results: dict[str, list[dict[str, float]]] = {model: [] for model in models}
    init = None
    for day in days:
        log.info("day %d of %d: learn %s, measure %s", day.number + 1, len(days), day.trained.label, day.tested.label)
        run = folder / "days" / day.name
        epochs = config.first_epochs if day.number == 0 and config.first_epochs else config.epochs
        train(replay.training(day, spec, folder, day.name, epochs, overrides, init), run)
        results["daily"].append(replay.results_of(run))
        if config.once:
            results["once"].append(measure_once(folder, spec, day))
        if config.retrain:
            results["retrained"].append(retrain(config, spec, day, cut, folder, overrides))
        init = run
        replay.write(replay.table_of(days[: day.number + 1], results), folder)
    replay.show(replay.table_of(days, results))
    log.info("days.csv, days.json and days.png in %s", folder)


def measure_once(folder: Path, spec: Any, day: Any) -> dict[str, float]:
    """The metrics of the first day's model on the period of `day`; it is not trained further."""
    from tf4ctr.experiments import replay
    from tf4ctr.inference.log_rows import measure_rows

    first = folder / "days" / "000"
    if day.number == 0:
        return replay.results_of(first)
    path = folder / "once" / f"{day.name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        sources = [file for part in (day.tested.train, day.tested.valid) for file in sorted(part.glob("*.parquet"))]
        write_whole(path, json.dumps(measure_rows(first, spec, sources)) + "\n")
    return json.loads(path.read_text())


def retrain(
    config: DictConfig, spec: Any, day: Any, cut: list[Any], folder: Path, overrides: list[str]
) -> dict[str, float]:
    """The metrics of a model that is trained from nothing on the latest periods, or on all."""
    from tf4ctr.experiments import replay
    from tf4ctr.experiments.processes import train

    run = folder / "retrained" / day.name
    latest = cut.index(day.trained)
    begin = 0 if config.retrain == "all" else max(0, latest + 1 - config.retrain)
    whole = day._replace(train=replay.learned(cut, begin, latest))
    name = f"retrained-{day.name}"
    train(replay.training(whole, spec, folder, name, config.epochs, overrides), run)
    for kind in ("raw", "prepared"):  # all rows so far, each day: they would fill the disk
        shutil.rmtree(folder / kind / name, ignore_errors=True)
    return replay.results_of(run)


if __name__ == "__main__":
    cli.run(main, "replay")
