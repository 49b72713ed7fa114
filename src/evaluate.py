"""Measure a trained run on a split: python src/evaluate.py run=outputs/DATE/RUN by=weather"""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError, check_whole, did_you_mean
from tf4ctr.experiments.several import as_paths, joined


def main(config: DictConfig) -> None:
    """Score the split with the best weights of the run, or of an ensemble; print and write."""
    folders = as_paths(config.run)
    if not folders:
        raise InputError("run= is missing: name a run's folder, run=outputs/DATE/TIME-BACKBONE-DATASET")
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.data.splits import SPLITS

    split = "valid" if config.split == "val" else str(config.split)
    if split not in SPLITS:
        raise InputError(f"split={split}: {did_you_mean(split, SPLITS)}")
    for name in ("samples", "bootstrap", "seed"):
        check_whole(name, config[name], 0)
    if config.importance_rows is not None:
        check_whole("importance_rows", config.importance_rows, 1)
    out = out_of(config, folders)
    from tf4ctr import assembly, reporting
    from tf4ctr.experiments.run_page import write_run_page
    from tf4ctr.inference import attention, ensemble_metrics, evaluation, examples, importance, members, roc, slices

    members.check_different(folders)
    runs = {folder: assembly.load_run(folder) for folder in folders}
    ensemble_metrics.check_same_data(runs, is_moved=config.prepared_dir is not None)
    network, schema, trained = runs[folders[0]]
    if config.by:
        slices.check_field(config.by, schema)
    spec = DatasetSpec.from_config(OmegaConf.to_container(trained.dataset, resolve=True))  # type: ignore[arg-type]
    prepared = Path(config.prepared_dir or trained.dataset.prepared_dir)
    batch_size = trained.stream.eval_batch_size or trained.stream.batch_size
    scores = ensemble_metrics.score_runs([*runs.values()], prepared, split, batch_size, spec.weighted_metrics)
    results = ensemble_metrics.measure_runs(scores, len(runs), config.bootstrap, config.seed)
    console, vocabulary, named = Console(), folders[0] / "vocabulary", members.named_folders(folders)
    for name, folder in named.items():
        console.print(f"{name}: {folder}", markup=False, highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    rows = f"{len(scores.label):,} {'weighted ' if spec.weighted_metrics else ''}rows"
    console.print(evaluation.metrics_table(f"{split}, {rows}", results))
    reporting.write_metrics(named | results, out / f"{split}.json")
    points = evaluation.reliability(scores)
    points.write_csv(out / f"{split}-reliability.csv")
    evaluation.draw_reliability(points, out / f"{split}-reliability.png")
    roc.draw_roc(scores, out / f"{split}-roc.png")
    if not named and (profiles := attention.profiles(network, schema, scores.ids)):
        attention.draw_attention(profiles, scores.logits, out / f"{split}-attention.png")
    if config.samples:
        of_run = None if named else network  # the weights of an ensemble's runs differ
        samples = examples.extremes(scores, schema, config.samples, vocabulary, spec.fields, of_run)
        for name, extreme in zip(("hardest", "easiest"), samples, strict=True):
            title = f"{name} rows: q is the probability of the true class"
            console.print(examples.rows_table(title, extreme, scores.logits, schema))
            extreme.write_csv(out / f"{split}-{name}.csv")
    if config.by:
        table = slices.by_value(scores, schema, config.by, vocabulary, spec.fields)
        console.print(slices.values_table(config.by, table))
        table.write_csv(out / f"{split}-by-{config.by}.csv")
    if config.importance:
        table = importance.importance(network, schema, scores, batch_size, config.importance_rows, config.seed)
        console.print(importance.importance_table(table))
        table.write_csv(out / f"{split}-importance.csv")
        importance.draw_importance(table, out / f"{split}-importance.png")
    console.print(f"written to {out}", soft_wrap=True)
    # the page of a run has what is in its folder
    if out == folders[0] / "evaluation" and trained.get("page", True) and (page := write_run_page(folders[0])):
        console.print(f"with these results: {page}", soft_wrap=True)


def out_of(config: DictConfig, folders: list[Path]) -> Path:
    """Where to write: `out=`, or evaluation/ in the folder of the only run."""
    if len(folders) == 1:
        return Path(config.out).expanduser().absolute() if config.out else folders[0] / "evaluation"
    if not config.out:
        raise InputError("out= is missing: there are several runs, so name the folder to write to")
    if config.importance:
        raise InputError("importance=true needs one run: it shuffles the inputs of one network")
    return Path(config.out).expanduser().absolute()


if __name__ == "__main__":
    sys.argv[1:] = joined(sys.argv[1:], "run")
    cli.run(main, "evaluate")
