"""FuxiCTR's part of parity.py: trains a model of its model_zoo on converted files, and tests it.

    python fuxictr_zoo.py SETTINGS FOLDER

It runs in FuxiCTR's environment. SETTINGS is JSON, see `train`. FOLDER gets metrics.json with the
keys of ours: test/auc, test/logloss, epochs and parameters.
"""

import importlib.util
import inspect
import json
import sys
from pathlib import Path


def class_of(zoo: str, name: str):
    """The class `name` of a folder model_zoo."""
    paths = [Path(zoo) / name / "src" / f"{name}.py", Path(zoo) / name / f"{name}_torch" / "src" / f"{name}.py"]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise SystemExit(f"there is neither {' nor '.join(map(str, paths))}: name model_zoo of FuxiCTR 2.3.10")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def check_options(model_class, options) -> None:
    """Stop at an option that the class does not have: FuxiCTR ignores it."""
    if unknown := sorted(options.keys() - inspect.signature(model_class.__init__).parameters.keys()):
        raise SystemExit(f"FuxiCTR's {model_class.__name__} has no option {', '.join(unknown)}")


def as_npz(data: str, split: str, folder: str) -> str:
    """Copy a split to an npz file in `folder`; returns its path.

    FuxiCTR's loader of npz files shuffles all rows and needs no server. Its loader of parquet
    starts one of Ray for each run, which took most of the time of small models.
    """
    import numpy as np
    import polars as pl

    path = f"{folder}/{split}.npz"
    np.savez(path, **pl.read_parquet(f"{data}/{split}/*.parquet").to_dict(as_series=False))
    return path


def train(zoo, name, options, data, seed, epochs, batch_size, patience, folder):
    """Train until validation AUC stops improving; returns the metrics of the best epoch's weights.

    Args:
        zoo, name: where the class is.
        options: of the class.
        data: the folder that `fuxictr_side.py prepare` wrote.
        seed: of weights, dropout and the order of rows.
        epochs: at most so many.
        batch_size: rows of a step.
        patience: validations without improvement before training stops.
        folder: of the checkpoint.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
    from fuxictr.pytorch.torch_utils import seed_everything

    model_class = class_of(zoo, name)
    check_options(model_class, options)
    features = FeatureMap(Path(data).name, data)
    features.load(f"{data}/feature_map.json", {"embedding_dim": options.get("embedding_dim", 1)})
    rows = {
        split: NpzDataLoader(features, as_npz(data, split, folder), batch_size=batch_size, shuffle=split == "train")
        for split in ("train", "valid", "test")
    }
    seed_everything(seed)
    loop = {"monitor": "AUC", "monitor_mode": "max", "early_stop_patience": patience, "metrics": ["AUC", "logloss"]}
    losses = {"optimizer": "adam", "loss": "binary_crossentropy"}
    model = model_class(features, model_root=folder, verbose=0, **options, **loop, **losses)
    Path(model.model_dir).mkdir(parents=True, exist_ok=True)
    model.fit(rows["train"], epochs=epochs, validation_data=rows["valid"])
    metrics = model.evaluate(rows["test"])
    return {
        "test/auc": metrics["AUC"],
        "test/logloss": metrics["logloss"],
        "epochs": model._epoch_index + 1,
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


if __name__ == "__main__":
    settings, target = sys.argv[1:]
    found = train(**json.loads(settings), folder=target)
    (Path(target) / "metrics.json").write_text(json.dumps(found))
