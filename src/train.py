"""Train a CTR model and test it: python src/train.py backbone=deepfm dataset=frappe"""

import logging
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tf4ctr import cli
from tf4ctr.errors import InputError
from tf4ctr.experiments import runs, sweeps

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Train as `config` says; the sweeper gets the best validation score."""
    from tf4ctr.training.loggers import close_wandb

    try:
        return sweeps.run_job(train, config, cli.explain) if sweeps.is_job() else train(config)
    finally:
        close_wandb()


def train(config: DictConfig) -> float | None:
    """Check, prepare, build, fit, test; everything is left in the run's folder."""
    import lightning  # here, not at the top: --help should not wait for torch

    from tf4ctr import assembly, reporting
    from tf4ctr.data import vocabulary
    from tf4ctr.data.datamodule import CTRDataModule
    from tf4ctr.data.preparation import prepare, read_manifest
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.training import tables
    from tf4ctr.training.curves import draw_curves
    from tf4ctr.training.loggers import send_pictures
    from tf4ctr.training.summary import RunSummary

    cli.quiet_lightning()
    cli.keep_memory()
    if not cli.is_first_rank():
        logging.getLogger().setLevel(logging.WARNING)  # the first one says it all
    started = time.perf_counter()
    folder = Path(HydraConfig.get().runtime.output_dir)
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    spec = DatasetSpec.from_config(settings["dataset"])
    assembly.check_config(config, spec)
    checkpoint = (
        runs.find_checkpoint(config.ckpt)
        if config.ckpt
        else sweeps.left_checkpoint(folder)
        if sweeps.is_job()
        else None
    )
    if checkpoint:
        runs.check_same_run(folder, settings)
    if cli.is_first_rank():
        runs.write_config(folder, config)
    reporting.show(tables.settings_table(HydraConfig.get().runtime.choices, settings))
    log.info("run folder: %s", folder)

    prepared = prepare(spec)
    if cli.is_first_rank():
        vocabulary.keep(prepared, folder)
    lightning.seed_everything(config.seed, verbose=False)
    data = CTRDataModule(prepared, seed=config.seed, **config.stream)
    module = assembly.build_module(config, data.schema)
    reporting.show(tables.parts_table(module.network))
    metrics: dict[str, float] = {"parameters": tables.count_parameters(module.network)}
    if config.dry_run:
        reporting.write_metrics(metrics, folder / "metrics.json")
        return None

    trainer = assembly.build_trainer(config)
    if sweeps.is_job() and trainer.world_size > 1:
        raise InputError(
            "several devices start by the command line, and a sweep's is that of all its jobs: run the jobs one by one"
        )
    if trainer.world_size > 1 and any(table.sparse for table in module.network.embeddings()):
        raise InputError(
            "embedding=rowwise trains on one device: its gradients are sparse, and ranks add up dense ones; take embedding=dense or sharded"
        )
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    finally:
        draw_curves(folder)
        if trainer.interrupted and cli.is_first_rank() and not sweeps.is_job():
            log.info(
                "stopped; to go on: python src/train.py ckpt=%s and the same overrides",
                folder / "checkpoints" / "last.ckpt",
            )
    summary = next(callback for callback in trainer.callbacks if isinstance(callback, RunSummary))  # type: ignore[attr-defined]
    metrics |= summary.metrics()  # before the test, which loads the best epoch's state into the callbacks too
    trainer.test(module, data, ckpt_path=folder / "checkpoints" / "best.ckpt", weights_only=True, verbose=False)
    send_pictures(trainer.loggers, folder)
    metrics |= module.results | {"seconds": round(time.perf_counter() - started, 2)}
    for split, stage in (("valid", "val"), ("test", "test")):
        if best := read_manifest(prepared)["best_auc"]:
            metrics[f"{stage}/best_auc"] = best[split]
    reporting.write_metrics(metrics, folder / "metrics.json")
    reporting.show(tables.metrics_table(metrics))
    log.info("metrics.json, curves.png and checkpoints in %s", folder)
    return metrics["val/monitor"]


if __name__ == "__main__":
    cli.run(main)
