"""FuxiCTR's part of data.py, criteo_data.py, training.py, histories.py and parity.py.

    python fuxictr_side.py prepare RAW_FOLDER FOLDER COLUMN,... [LABEL] [BLOCK_ROWS] [NUMBER,...]
        [HISTORY=OF,...] [MIN_COUNT]
    python fuxictr_side.py stream FOLDER
    python fuxictr_side.py decode FILE
    python fuxictr_side.py train FOLDER COLUMN,...
    python fuxictr_side.py din FOLDER BATCH WARM STEPS

It runs in its own environment. `prepare` converts train.csv, valid.csv and test.csv to its parquet.
A COLUMN has its type categorical, a NUMBER its type numeric, standardised, with 0 for a gap. A
HISTORY has its type sequence, with the vocabulary and the table of the column OF. A value that
occurs less often than MIN_COUNT is unknown; it is 2, or 1 if there are histories. `stream` reads
one shuffled epoch with its loader, after a warm-up; `decode` reads all row groups of a parquet file
with pyarrow alone. Their last line is `rows seconds`.

`train` trains the dual MLP under TF4CTR with its layers and its loop. It prints the seconds of an
epoch with validation, of an evaluation and of gAUC alone, and the gAUC.

`din` trains DIN with its layers. It prints the seconds of a step alone (the median), those of a
step in its loop with its loader, and the number of parameters. The first WARM steps are not timed.
"""

import sys
import time
from pathlib import Path

BATCH, BLOCK = 10_000, 100_000
WIDTH = 50  # of a history


def processor(folder: str, columns: str, label: str, numbers: str, histories: str, min_count: int):
    from fuxictr.preprocess import FeatureProcessor

    texts = {"active": True, "dtype": "str", "min_categr_count": min_count}
    fields = [{**texts, "type": "categorical", "name": columns.split(",")}]
    for name, column in (history.split("=") for history in histories.split(",") if history):
        shape = {"splitter": "^", "max_len": WIDTH, "feature_encoder": None}
        fields.append({**texts, "type": "sequence", "share_embedding": column, **shape, "name": name})
    if numbers:
        scaled = {"dtype": "float", "type": "numeric", "normalizer": "StandardScaler", "fill_na": 0}
        fields.insert(0, {"active": True, **scaled, "name": numbers.split(",")})
    return FeatureProcessor(
        fields, {"name": label, "dtype": "float"}, dataset_id=Path(folder).name, data_root=str(Path(folder).parent)
    )


def prepare(
    raw: str,
    folder: str,
    columns: str,
    label: str = "click",
    block: str = str(BLOCK),
    numbers: str = "",
    histories: str = "",
    min_count: str = "",
) -> tuple[int, float]:
    from fuxictr.preprocess.build_dataset import build_dataset

    started = time.perf_counter()
    files = {f"{split}_data": f"{raw}/{split}.csv" for split in ("train", "valid", "test")}
    count = int(min_count or (1 if histories else 2))
    features = processor(folder, columns, label, numbers, histories, count)
    build_dataset(features, **files, data_block_size=int(block), min_categr_count=count)
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


def din_model(features, folder: str):
    import torch
    from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    shared = {name: field["share_embedding"] for name, field in features.features.items() if "share_embedding" in field}

    class DIN(BaseModel):
        """DIN of its layers: the package has a DIN only for histories in files of their own."""

        def __init__(self) -> None:
            super().__init__(features, model_root=folder, metrics=["AUC"], verbose=0)
            size = features.default_emb_dim
            self.table = FeatureEmbeddingDict(features, size)
            self.attention = DIN_Attention(size * len(shared), attention_units=[64], hidden_activations="Dice")
            options = {"output_dim": 1, "output_activation": self.output_activation}
            self.dnn = MLP_Block(features.sum_emb_out_dim(), [256, 128], **options)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            x = self.get_inputs(inputs)
            embeddings = self.table(x)
            history, target = (
                torch.cat([embeddings[name] for name in names], -1) for names in (shared, shared.values())
            )
            known = x[next(iter(shared))] != 0
            pooled = self.attention(target, history, known).chunk(len(shared), -1)
            embeddings.update(zip(shared, pooled, strict=True))
            return {"y_pred": self.dnn(self.table.dict2tensor(embeddings, flatten_emb=True))}

    return DIN()


def din(folder: str, batch_size: str, warm: str, steps: str) -> tuple[float, float, int]:
    from itertools import islice
    from statistics import median

    import ray
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    ray.init(logging_level="ERROR", log_to_driver=False)
    features = FeatureMap(Path(folder).name, folder)
    features.load(f"{folder}/feature_map.json", {"embedding_dim": 16})
    rows = int(batch_size) * (int(warm) + int(steps))
    loader = ParquetDataLoader(features, some_files(Path(folder), rows), batch_size=int(batch_size), shuffle=True)
    model = din_model(features, folder)
    model._max_gradient_norm, model._total_steps, model._eval_steps = 10.0, 0, float("inf")  # as fit sets them
    model._stop_training = False
    model.train()
    seconds, losses = [], []
    for batch in list(islice(loader, int(warm) + int(steps))):
        started = time.perf_counter()
        losses.append(model.train_step(batch).item())
        seconds.append(time.perf_counter() - started)
    assert losses[-1] < losses[0], losses
    started = time.perf_counter()
    model.train_epoch(loader)
    loop = (time.perf_counter() - started) / len(loader)
    return median(seconds[int(warm) :]), loop, sum(parameter.numel() for parameter in model.parameters())


def some_files(folder: Path, rows: int) -> str:
    """A folder with links to the first training files, which have `rows` rows together.

    Its loader reads all files before it gives the first batch. Few steps would pay for all of them.
    """
    import shutil

    import pyarrow.parquet as pq

    some = folder / "some"
    shutil.rmtree(some, ignore_errors=True)
    some.mkdir()
    for file in sorted((folder / "train").glob("*.parquet")):
        if rows > 0:
            (some / file.name).symlink_to(file.absolute())
        rows -= pq.ParquetFile(file).metadata.num_rows
    return str(some)


if __name__ == "__main__":
    print(*globals()[sys.argv[1]](*sys.argv[2:]))
