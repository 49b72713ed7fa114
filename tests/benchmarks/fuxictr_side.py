"""FuxiCTR's part of data.py, criteo_data.py and training.py.

    python fuxictr_side.py prepare RAW_FOLDER FOLDER COLUMN,... [LABEL] [BLOCK_ROWS] [NUMBER,...]
    python fuxictr_side.py stream FOLDER
    python fuxictr_side.py decode FILE
    python fuxictr_side.py train FOLDER COLUMN,...

It runs in its own environment. `prepare` converts train.csv, valid.csv and test.csv to its parquet.
A COLUMN has its type categorical, a NUMBER its type numeric, standardised, with 0 for a gap.
`stream` reads one shuffled epoch with its loader, after a warm-up; `decode` reads all row groups of
a parquet file with pyarrow alone. Their last line is `rows seconds`.

`train` trains the dual MLP under TF4CTR with its layers and its loop. It prints the seconds of an
epoch with validation, of an evaluation and of gAUC alone, and the gAUC.
"""

import sys
import time
from pathlib import Path

BATCH, BLOCK = 10_000, 100_000


def processor(folder: str, columns: str, label: str, numbers: str):
    from fuxictr.preprocess import FeatureProcessor

    fields = [
        {"active": True, "dtype": "str", "type": "categorical", "min_categr_count": 2, "name": columns.split(",")}
    ]
    if numbers:
        scaled = {"dtype": "float", "type": "numeric", "normalizer": "StandardScaler", "fill_na": 0}
        fields.insert(0, {"active": True, **scaled, "name": numbers.split(",")})
    return FeatureProcessor(
        fields, {"name": label, "dtype": "float"}, dataset_id=Path(folder).name, data_root=str(Path(folder).parent)
    )


def prepare(
    raw: str, folder: str, columns: str, label: str = "click", block: str = str(BLOCK), numbers: str = ""
) -> tuple[int, float]:
    from fuxictr.preprocess.build_dataset import build_dataset

    started = time.perf_counter()
    files = {f"{split}_data": f"{raw}/{split}.csv" for split in ("train", "valid", "test")}
    features = processor(folder, columns, label, numbers)
    build_dataset(features, **files, data_block_size=int(block), min_categr_count=2)
    seconds = time.perf_counter() - started
    return sum(sum(1 for _ in open(path, "rb")) - 1 for path in files.values()), seconds  # noqa: PTH123


def stream(folder: str) -> tuple[int, float]:
    import ray
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    ray.init(logging_level="ERROR", log_to_driver=False)
    features = FeatureMap(Path(folder).name, folder)
    features.load(f"{folder}/feature_map.json", {})
    loader = ParquetDataLoader(features, f"{folder}/train", batch_size=BATCH, shuffle=True)
    for _ in range(2):
        started = time.perf_counter()
        rows = sum(len(batch[features.labels[0]]) for batch in loader)
    return rows, time.perf_counter() - started


def decode(path: str) -> tuple[int, float]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    started = time.perf_counter()
    rows = sum(file.read_row_group(group).num_rows for group in range(file.num_row_groups))
    return rows, time.perf_counter() - started


def dual_mlp(features, folder: str):
    import torch
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DualMLP(BaseModel):
        """The dual MLP of training.py: separate tables, and a learned sum of the two logits."""

        def __init__(self) -> None:
            super().__init__(
                features,
                model_root=folder,
                metrics=["AUC", "logloss", "gAUC"],
                monitor={"AUC": 1, "gAUC": 1},
                embedding_regularizer=0.1,
                verbose=0,
            )
            options = {"output_dim": 1, "batch_norm": True, "dropout_rates": 0.2}
            fields = features.num_fields
            self.tables = torch.nn.ModuleList([FeatureEmbedding(features, 8), FeatureEmbedding(features, 16)])
            self.encoders = torch.nn.ModuleList(
                [MLP_Block(8 * fields, [400, 400], **options), MLP_Block(16 * fields, [400, 400, 400], **options)]
            )
            self.share = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            x = self.get_inputs(inputs)
            pairs = zip(self.tables, self.encoders, strict=True)
            logits = [encoder(table(x, flatten_emb=True)) for table, encoder in pairs]
            self.heads = [torch.sigmoid(logit) for logit in logits]
            return {"y_pred": torch.sigmoid(self.share[0] * logits[0] + self.share[1] * logits[1])}

        def add_loss(self, return_dict, label):
            """BCE and the TF Loss (alpha 0.25, gamma 1, c 0.7), of probabilities as in FuxiCTR."""
            twin = 0.0
            for p, weight, sign in zip(self.heads, (0.25, 0.75), (1, -1), strict=True):
                q = torch.where(label == 1, p, 1 - p)
                factor = 0.7 + q if sign > 0 else 1.3 - q
                bce = torch.nn.functional.binary_cross_entropy(p, label, reduction="none")
                twin = twin + weight * (factor * bce).mean()
            return super().add_loss(return_dict, label) + twin

    return DualMLP()


def train(folder: str, columns: str) -> tuple[float, ...]:
    import ray
    from fuxictr.features import FeatureMap
    from fuxictr.metrics import evaluate_metrics
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    ray.init(logging_level="ERROR", log_to_driver=False)
    features = FeatureMap(Path(folder).name, folder)
    features.load(f"{folder}/feature_map.json", {"group_id": "user"})
    rows = [
        ParquetDataLoader(features, f"{folder}/{split}", batch_size=BATCH, shuffle=split == "train")
        for split in ("train", "valid")
    ]
    model = dual_mlp(features, folder)
    Path(model.model_dir).mkdir(exist_ok=True)
    model.fit(rows[0], epochs=1, validation_data=rows[1])
    started = time.perf_counter()
    model.train_epoch(rows[0])
    epoch, started = time.perf_counter() - started, time.perf_counter()
    metrics = model.evaluate(rows[1], ["AUC", "logloss", "gAUC"])
    evaluation = time.perf_counter() - started
    batches = list(rows[1])
    label, group = (
        [value for batch in batches for value in batch[name].numpy().reshape(-1)]
        for name in (features.labels[0], "user")
    )
    score = model.predict(rows[1])
    started = time.perf_counter()
    gauc = evaluate_metrics(label, score, ["gAUC"], group)["gAUC"]
    assert abs(gauc - metrics["gAUC"]) < 1e-9
    return epoch, evaluation, time.perf_counter() - started, gauc


if __name__ == "__main__":
    print(*globals()[sys.argv[1]](*sys.argv[2:]))
