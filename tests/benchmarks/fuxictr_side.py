"""FuxiCTR's part of data.py, run in an environment of its own; prints `rows seconds` as its last line.

python fuxictr_side.py prepare RAW_FOLDER FOLDER COLUMN,...    train.csv, valid.csv, test.csv -> its parquet
python fuxictr_side.py stream FOLDER COLUMN,...                one shuffled epoch of its loader, after one to warm up
python fuxictr_side.py decode FILE                             pyarrow alone: every row group of a parquet file
"""

import sys
import time
from pathlib import Path

BATCH, BLOCK = 10_000, 100_000


def processor(folder: str, columns: str):
    from fuxictr.preprocess import FeatureProcessor

    fields = [{"active": True, "dtype": "str", "type": "categorical", "min_categr_count": 2, "name": columns.split(",")}]
    return FeatureProcessor(fields, {"name": "click", "dtype": "float"}, dataset_id=Path(folder).name, data_root=str(Path(folder).parent))


def prepare(raw: str, folder: str, columns: str) -> tuple[int, float]:
    from fuxictr.preprocess.build_dataset import build_dataset

    started = time.perf_counter()
    files = {f"{split}_data": f"{raw}/{split}.csv" for split in ("train", "valid", "test")}
    build_dataset(processor(folder, columns), **files, data_block_size=BLOCK, min_categr_count=2)
    seconds = time.perf_counter() - started
    return sum(sum(1 for _ in open(path, "rb")) - 1 for path in files.values()), seconds  # noqa: PTH123


def stream(folder: str, columns: str) -> tuple[int, float]:
    import ray
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    ray.init(logging_level="ERROR")
    features = FeatureMap(Path(folder).name, folder)
    features.load(f"{folder}/feature_map.json", {})
    loader = ParquetDataLoader(features, f"{folder}/train", batch_size=BATCH, shuffle=True)
    for _ in range(2):
        started = time.perf_counter()
        rows = sum(len(batch["click"]) for batch in loader)
    return rows, time.perf_counter() - started


def decode(path: str) -> tuple[int, float]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    started = time.perf_counter()
    rows = sum(file.read_row_group(group).num_rows for group in range(file.num_row_groups))
    return rows, time.perf_counter() - started


if __name__ == "__main__":
    print(*globals()[sys.argv[1]](*sys.argv[2:]))
