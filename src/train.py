"""Train a CTR model and test it: python src/train.py backbone=deepfm dataset=frappe"""

import logging
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tf4ctr import cli, ranks
from tf4ctr.errors import InputError
from tf4ctr.experiments import runs, sweeps
from tf4ctr.experiments.next_commands import files_line, next_commands, script_words

if TYPE_CHECKING:
    from lightning import Trainer

    from tf4ctr.data.datamodule import CTRDataModule
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.training.module import CTRModule
    from tf4ctr.training.warm_start import WarmStart

log = logging.getLogger(__name__)


def main(config: DictConfig) -> float | None:
    """Train with `config`; the sweeper gets the best validation score."""
    from tf4ctr.training.loggers import close_wandb

    try:
        return sweeps.run_job(train, config, cli.explain) if sweeps.is_job() else train(config)
    finally:
        close_wandb()
        runs.let_go(Path(HydraConfig.get().runtime.output_dir))
        runs.remove_temporary()


class Run(NamedTuple):
    """One call of this program: its config, its folder, and the checkpoint that it resumes from."""

    config: DictConfig
    settings: dict[str, Any]  # the config, resolved
    spec: "DatasetSpec"
    folder: Path
    checkpoint: Path | None
    warm: "WarmStart | None"  # the run that it begins from
    clock: float  # time.perf_counter() at the start, in seconds

    @property
    def best(self) -> Path:
        """The checkpoint with the best epoch's weights."""
        return self.folder / "checkpoints" / "best.ckpt"


def train(config: DictConfig) -> float | None:
    """Start, build, fit, test, report; returns the validation metric that chose the best epoch."""
    try:
        run = start(config)
    except BaseException:
        runs.EarlierSettings.put_back()
        if cli.is_first_rank() and not sweeps.is_job():
            runs.remove_refused(Path(HydraConfig.get().runtime.output_dir))
        raise
    data, module = build(run)
    if config.dry_run:
        count(run, module)
        return None
    trainer = connect(run, module)
    trained = fit(run, trainer, module, data)
    tested = test(run, trainer, module, data)
    return report(run, module, data, trained | tested)


def start(config: DictConfig) -> Run:
    """Check the config, write it into the run's folder and show it."""
    from dataclasses import replace

    from tf4ctr import config_checks, reporting
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.experiments import environment
    from tf4ctr.experiments.origins import read_settings
    from tf4ctr.training.tables import origins_table, settings_table

    clock = time.perf_counter()
    cli.quiet_lightning()
    cli.keep_memory()
    if not cli.is_first_rank():
        logging.getLogger().setLevel(logging.ERROR)  # the first rank logs and warns for all
        warnings.simplefilter("ignore")
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().runtime.choices.get("sweep")
    if sweep not in (None, "null") and not sweeps.is_job():
        raise InputError(f"sweep={sweep} runs several trainings: write -m before it, as in train.py -m sweep={sweep}")
    if cli.is_first_rank() and not config.dry_run:
        runs.hold(folder)
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    spec = DatasetSpec.from_config(settings["dataset"])
    warm = find_warm_start(config, spec, folder)
    spec = replace(spec, base=warm.base) if warm else spec
    config_checks.check_config(config, spec, warm)
    if not config.dry_run:
        config_checks.check_machine(config)
    checkpoint = find_checkpoint(config, folder)
    if checkpoint:
        runs.check_same_run(checkpoint.parent.parent if config.dry_run else folder, settings)
    is_new = not config.dry_run and (checkpoint is None or checkpoint.parent.parent.resolve() != folder.resolve())
    if is_new:
        runs.check_unused(folder)
    if cli.is_first_rank():
        if is_new:
            runs.remove_leftovers(folder)
        runs.write_config(folder, config)
        environment.record_start(folder, sys.argv, HydraConfig.get().overrides.task, resumed=checkpoint is not None)
    hydra = HydraConfig.get()
    sources = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    reporting.show(origins_table(read_settings(config, hydra.runtime.choices, hydra.overrides.task, sources)))
    if config.verbose:
        reporting.show(settings_table(hydra.runtime.choices, settings))
    if not config.dry_run:
        log.info("run folder: %s", folder)
    return Run(config, settings, spec, folder, checkpoint, warm, clock)


def find_warm_start(config: DictConfig, spec: "DatasetSpec", folder: Path) -> "WarmStart | None":
    """The run of `init=`, None without one.

    Raises:
        InputError: it is no finished run, or the dataset has other fields.
    """
    if not config.init:
        return None
    from tf4ctr.training.warm_start import WarmStart

    source = Path(config.init).expanduser().absolute()
    if source.resolve() == folder.resolve():
        raise InputError(f"init={source} is the folder of this run: it would overwrite what it begins from")
    warm = WarmStart.of_run(source)
    warm.grow(spec)
    return warm


def find_checkpoint(config: DictConfig, folder: Path) -> Path | None:
    """The checkpoint to resume from: `ckpt=`, or in a sweep the one of the stopped job."""
    if config.ckpt:
        return runs.find_checkpoint(config.ckpt)
    return runs.left_checkpoint(folder) if sweeps.is_job() else None


def build(run: Run) -> "tuple[CTRDataModule, CTRModule]":
    """Prepare the dataset; build its streams and the module."""
    import lightning

    from tf4ctr import assembly, config_checks, reporting
    from tf4ctr.data import encoding
    from tf4ctr.data.manifest import read_manifest
    from tf4ctr.data.preparation import prepare
    from tf4ctr.training.memory import table_memory
    from tf4ctr.training.tables import data_line, parts_table

    prepared = prepare(run.spec)
    if cli.is_first_rank():
        if run.checkpoint:
            runs.check_same_values(run.checkpoint.parent.parent, prepared)
        if not run.config.dry_run:
            encoding.keep(prepared, run.folder)
    ranks.start(run.folder, run.checkpoint)
    lightning.seed_everything(run.config.seed, verbose=False)
    data = assembly.build_data(run.config, prepared)
    reporting.say(data_line(read_manifest(prepared), data.schema))
    config_checks.check_tables(run.config, run.spec, data.schema.num_ids)
    module = assembly.build_module(run.config, data.schema)
    assembly.load_vectors(module.network, data.schema, prepared)
    if run.warm and run.checkpoint:
        log.info("init=%s gives the vocabulary; the weights are those of ckpt=%s", run.config.init, run.checkpoint)
    elif run.warm:
        reporting.show(run.warm.load(module.network, data.schema, prepared))
    devices, nodes = assembly.ranks(run.config)
    reporting.show(parts_table(module.network, table_memory(module.network, devices * nodes)))
    return data, module


def count(run: Run, module: "CTRModule") -> None:
    """Write the only metric of a dry run: the number of parameters."""
    from tf4ctr import reporting
    from tf4ctr.training.tables import count_parameters

    reporting.write_metrics({"parameters": count_parameters(module.network)}, run.folder / "metrics.json")
    kept = "no folder is left" if runs.is_temporary(run.folder) else f"metrics.json with the parameters in {run.folder}"
    reporting.say(f"dry run: no training, no test, no checkpoint; {kept}")


def connect(run: Run, module: "CTRModule") -> "Trainer":
    """Build the trainer, and check that it fits this run.

    Raises:
        InputError: several devices in a sweep, another number of devices than of started
            processes, or see `check_best`.
    """
    from lightning.pytorch.callbacks import LambdaCallback

    from tf4ctr import assembly, reporting
    from tf4ctr.training.loggers import wandb_address

    trainer = assembly.build_trainer(run.config)
    if sweeps.is_job() and trainer.world_size > 1:
        raise InputError(
            f"trainer has {trainer.world_size} devices: each is started by the command line, which in a sweep is that"
            " of all jobs; run the jobs one by one, or use one device"
        )
    check_best(trainer, run.best)
    ranks.expect(trainer.world_size, run.folder, run.checkpoint)
    trainer.callbacks.append(  # type: ignore[attr-defined]
        LambdaCallback(on_exception=lambda trainer, module, error: ranks.report_interrupt(error))
    )
    for logger in trainer.loggers:
        logger.log_hyperparams(run.settings)
    if address := wandb_address():
        reporting.say(f"W&B: {address}")
    return trainer


def check_best(trainer: "Trainer", path: Path) -> None:
    """Check that a callback writes `path`, and at the epoch that the summary calls the best one.

    Raises:
        InputError: none does, or it chooses by another metric.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint

    from tf4ctr.training.summary import summary_of

    checkpoints = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint))
    written = {Path(each.dirpath or "", f"{each.filename}.ckpt").resolve(): each for each in checkpoints}
    best = written.get(path.resolve())
    if best is None:
        raise InputError(
            f"callbacks.checkpoint_best does not write {path}, which the test and evaluate.py, predict.py and"
            " export.py read: do not set it to null, and leave its dirpath and filename as they are"
        )
    summarised = summary_of(trainer.callbacks).monitor  # type: ignore[attr-defined, union-attr]
    if (best.monitor, best.mode) != (summarised, "max"):
        raise InputError(
            f"callbacks.checkpoint_best has monitor {best.monitor} and mode {best.mode}, and callbacks.summary takes"
            f" the epoch with the largest {summarised}: best.ckpt and metrics.json would be of different epochs. To"
            " choose the best epoch by another metric, use the option monitor: monitor=auc, or monitor=logloss"
        )


def fit(run: Run, trainer: "Trainer", module: "CTRModule", data: "CTRDataModule") -> dict[str, float]:
    """Train; returns the metrics of the training and of its best epoch.

    Raises:
        InputError: no epoch was trained and validated.
    """
    from tf4ctr import reporting
    from tf4ctr.training.curves import draw_curves
    from tf4ctr.training.summary import summary_of

    last, before = run.best.with_name("last.ckpt"), written(run.best)
    try:
        trainer.fit(module, data, ckpt_path=run.checkpoint, weights_only=True)
    finally:
        if cli.is_first_rank() and written(run.best) != before:
            runs.remove_results(run.folder)  # of an earlier start in this folder
        draw_curves(run.folder)
        refused = isinstance(sys.exception(), InputError)  # whose message says what to do
        if trainer.interrupted and not refused and last.exists() and cli.is_first_rank() and not sweeps.is_job():
            reporting.say(f"stopped; to resume: {resume_command(last)}")
    if not run.best.exists():
        raise InputError(nothing_trained(run))
    summary = summary_of(trainer.callbacks)  # type: ignore[attr-defined]
    assert summary is not None  # `build_trainer` adds one
    return summary.metrics() | {"seconds": summary.seconds}


def resume_command(last: Path) -> str:
    """The command line that goes on with this run, whose folder is that of its checkpoint."""
    overrides = HydraConfig.get().overrides
    own = ("hydra.run.dir=", "hydra.mode=", "ckpt=")  # Hydra adds the mode; the folder is that of the checkpoint
    others = [word for word in (*overrides.hydra, *overrides.task) if not word.startswith(own)]
    return shlex.join([*script_words("train"), *others, f"ckpt={last}"])


def written(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def nothing_trained(run: Run) -> str:
    """What to say and do if the run's folder has no best.ckpt after the training."""
    message = f"{run.folder}: no epoch was trained and validated, so there is no {run.best.name}. "
    if run.checkpoint is None:
        return (
            message + "The training ended before its first validation: raise trainer.max_epochs, trainer.max_steps or"
            " trainer.max_time, or validate earlier by a smaller trainer.check_val_every_n_epoch or"
            " trainer.val_check_interval"
        )
    limits = run.config.trainer
    every = limits.get("check_val_every_n_epoch")
    return message + (
        f"The run of ckpt={run.checkpoint} has ended (trainer.max_epochs is {limits.max_epochs}, or early stopping), or"
        f" ends before its next validation (trainer.check_val_every_n_epoch is {every}): raise"
        " trainer.max_epochs to train further, or measure it with"
        f" python src/evaluate.py run={run.checkpoint.parent.parent}"
    )


def test(run: Run, trainer: "Trainer", module: "CTRModule", data: "CTRDataModule") -> dict[str, float]:
    """Test with the best epoch's weights."""
    from tf4ctr.training.loggers import send_pictures

    trainer.test(module, data, ckpt_path=run.best, weights_only=True, verbose=False)
    send_pictures(trainer.loggers, run.folder)
    return module.results


def report(run: Run, module: "CTRModule", data: "CTRDataModule", results: dict[str, float]) -> float:
    """Put all metrics together, write and show them; returns what chose the best epoch."""
    from tf4ctr import reporting
    from tf4ctr.data.manifest import read_manifest
    from tf4ctr.experiments.run_page import write_run_page
    from tf4ctr.training.tables import count_parameters, metrics_table

    metrics = {"parameters": count_parameters(module.network), **results}
    # so far they are those of the starts before this one
    metrics["seconds"] = round(metrics.pop("seconds") + time.perf_counter() - run.clock, 2)
    if best := read_manifest(data.prepared_dir)["best_auc"]:
        metrics |= {"val/best_auc": best["valid"], "test/best_auc": best["test"]}
    reporting.write_metrics(metrics, run.folder / "metrics.json")
    if run.config.page:
        write_run_page(run.folder)
    reporting.show(metrics_table(metrics))
    reporting.say(closing(run, metrics))
    return metrics["val/monitor"]


def closing(run: Run, metrics: dict[str, Any]) -> str:
    """The last lines of a run: what it took, where its files are, and what to do next."""
    from tf4ctr.training.loggers import wandb_address, wandb_offline
    from tf4ctr.training.memory import peak_memory
    from tf4ctr.training.tables import distance_line

    took = f"{metrics['seconds']:,} seconds, peak memory {peak_memory()}"
    online = f"W&B: {address}" if (address := wandb_address()) else wandb_offline()
    lines = [took, distance_line(metrics), files_line(run.folder), online]
    if not sweeps.is_job():
        lines += ["next:", *next_commands(run.folder, raw_test_file(run.spec))]
    return "\n".join(filter(None, lines))


def raw_test_file(spec: "DatasetSpec") -> Path | None:
    """A raw file with the rows of the test split; None if there is none."""
    try:
        files = spec.raw_files(spec.raw_dir).files if spec.raw_dir else {}
    except InputError:  # removed since the preparation
        return None
    return next(iter(files.get("test", ())), None)


if __name__ == "__main__":
    cli.run(main, "train", several=True)
