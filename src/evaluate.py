"""Measure a trained run on a split: python src/evaluate.py run=outputs/DATE/RUN by=weather"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from tf4ctr import cli
from tf4ctr.errors import InputError, did_you_mean


def main(config: DictConfig) -> None:
    """Score the split with the run's best weights; print tables, write files into evaluation/."""
    if config.run is None:
        raise InputError("run= is missing: name a run's folder, run=outputs/DATE/TIME-BACKBONE-DATASET")
    from tf4ctr.data.spec import DatasetSpec
    from tf4ctr.data.splits import SPLITS

    split = "valid" if config.split == "val" else str(config.split)
    if split not in SPLITS:
        raise InputError(f"split={split}: {did_you_mean(split, SPLITS)}")
    if config.importance_rows is not None and not (
        isinstance(config.importance_rows, int) and config.importance_rows > 0
    ):
        raise InputError(
            f"importance_rows={config.importance_rows}: expected a number of rows from 1 on, or null for all"
        )
    from tf4ctr import assembly, reporting
    from tf4ctr.experiments.run_page import write_run_page
    from tf4ctr.inference import attention, evaluation, examples, importance, roc, slices

    folder = Path(config.run).expanduser().absolute()
    network, schema, trained = assembly.load_run(folder)
    if config.by:
        slices.check_field(config.by, schema)
    spec = DatasetSpec.from_config(OmegaConf.to_container(trained.dataset, resolve=True))  # type: ignore[arg-type]
    prepared = Path(config.prepared_dir or trained.dataset.prepared_dir)
    batch_size = trained.stream.eval_batch_size or trained.stream.batch_size
    scores = evaluation.score(network, schema, prepared, split, batch_size, spec.weighted_metrics)
    results = evaluation.measure(scores, config.bootstrap, config.seed)
    console, vocabulary, out = Console(), folder / "vocabulary", folder / "evaluation"
    out.mkdir(exist_ok=True)
    rows = f"{len(scores.label):,} {'weighted ' if spec.weighted_metrics else ''}rows"
    console.print(evaluation.metrics_table(f"{split}, {rows}", results))
    reporting.write_metrics(results, out / f"{split}.json")
    points = evaluation.reliability(scores)
    points.write_csv(out / f"{split}-reliability.csv")
    evaluation.draw_reliability(points, out / f"{split}-reliability.png")
    roc.draw_roc(scores, out / f"{split}-roc.png")
    if profiles := attention.profiles(network, schema, scores.ids):
        attention.draw_attention(profiles, scores.logits, out / f"{split}-attention.png")
    if config.samples:
        samples = examples.extremes(scores, schema, config.samples, vocabulary, spec.fields, network)
        for name, extreme in zip(("hardest", "easiest"), samples, strict=True):
            title = f"{name} rows: q is the probability of the true class"
            console.print(examples.rows_table(title, extreme, schema))
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
    if trained.get("page", True) and (page := write_run_page(folder)):
        console.print(f"with these results: {page}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, "evaluate")
