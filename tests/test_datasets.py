"""Every dataset in conf/dataset and every one of its layouts: from small raw files to a batch."""

import gzip

import numpy as np
import polars as pl
import pytest
import torch

from conftest import need_shared
from test_assembly import composed, options, spec_of
from tf4ctr.assembly import build_module, check_config
from tf4ctr.data.datamodule import CTRDataModule
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import LABEL, Schema

ROWS = 60


def csv(folder, name, columns, header=True, separator=",", rows=ROWS):
    """Write a csv file; `columns` is name -> values, which repeat over the rows."""
    frame = pl.DataFrame({column: [values[i % len(values)] for i in range(rows)] for column, values in columns.items()})
    text = frame.write_csv(include_header=header, separator=separator)
    opened = gzip.open if name.endswith(".gz") else open
    with opened(folder / name, "wt") as file:
        file.write(text)


def splits(folder, columns):
    for split in ("train", "valid", "test"):
        csv(folder, f"{split}.csv", columns)


CLICK = [0, 1, 1]
AVAZU = {
    "id": range(100),
    "click": CLICK,
    "hour": [14102100, 14102523],
    **{f"C{i}": [i, 7] for i in (1, *range(14, 22))},
}
AVAZU |= {
    name: ["a1", "b2", "c3"]
    for name in (
        *("banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
        *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    )
}
CRITEO = {
    "label": CLICK,
    **{f"I{i}": [-1, 2, 3, None, 1000] for i in range(1, 14)},
    **{f"C{i}": ["68fd1e64", None, "b"] for i in range(1, 27)},
}
KKBOX = {
    "msno": ["u1", "u2"],
    "song_id": ["s1", "s2", "s3"],
    **{name: ["x", None, "y"] for name in ("source_system_tab", "source_screen_name", "source_type")},
}
SONGS = {"genre_ids": ["465|1259", None], "artist_name": ["A|B|C|D", "B"], "language": ["3.0", "52.0"]}
MEMBERS = {"city": [1, 13], "gender": ["male", None], "registered_via": [7, 9], "bd": [0, 27]}
ISRC = {"isrc": ["TWUM71", None]}


def kkbox_from_kaggle(folder):
    csv(folder, "train.csv", KKBOX | {"target": CLICK})
    csv(folder, "songs.csv", {"song_id": ["s1", "s2"], **SONGS}, rows=2)
    csv(folder, "members.csv", {"msno": ["u1", "u2"], **MEMBERS}, rows=2)
    csv(folder, "song_extra_info.csv", {"song_id": ["s1", "s2"], "name": ["n", "m"], **ISRC}, rows=2)


def libsvm(folder, width):
    for split in ("train", "valid", "test"):
        (folder / f"{split}.libsvm").write_text(
            "".join(f"{i % 2} " + " ".join(f"{j + i % 3}:1" for j in range(width)) + "\n" for i in range(ROWS))
        )


def ratings(folder):
    (folder / "ratings.dat").write_text("".join(f"{i % 4}::{i % 7}::{i % 5 + 1}::0\n" for i in range(ROWS)))
    (folder / "users.dat").write_text("".join(f"{i}::F::25::{i}::1234\n" for i in range(4)))


LAYOUTS = {
    "avazu": [
        lambda folder: splits(folder, AVAZU),
        lambda folder: csv(folder, "train.gz", AVAZU),
        lambda folder: [csv(folder, f"train-{i}.csv", AVAZU) for i in range(2)],
        lambda folder: csv(folder, "train.csv.gz", AVAZU),
    ],
    "criteo": [
        lambda folder: splits(folder, CRITEO),
        lambda folder: csv(folder, "train.txt", CRITEO, header=False, separator="\t"),
        lambda folder: csv(folder, "train.txt.gz", CRITEO, header=False, separator="\t"),
    ],
    "frappe": [
        lambda folder: splits(
            folder, {"label": CLICK, **{name: [1, 2] for name in composed("dataset=frappe").dataset.fields}}
        ),
        lambda folder: libsvm(folder, 10),
    ],
    "kkbox": [lambda folder: splits(folder, KKBOX | {"label": CLICK} | SONGS | MEMBERS | ISRC), kkbox_from_kaggle],
    "movielens_1m": [
        lambda folder: splits(
            folder, {"label": CLICK, **{name: [1, 2] for name in ("UserID", "Gender", "Age", "Occupation", "MovieID")}}
        ),
        ratings,
    ],
    "movielens_tag": [
        lambda folder: splits(folder, {"label": CLICK, **{name: [1, 2] for name in ("user_id", "item_id", "tag_id")}}),
        lambda folder: libsvm(folder, 3),
    ],
}
LAYOUTS["criteo_numbers"] = LAYOUTS["criteo"]


def test_every_dataset_and_layout_is_tested():
    assert {*LAYOUTS, "synthetic", "synthetic_numbers"} == {*options("dataset")}
    for name, writers in LAYOUTS.items():
        assert len(writers) == len(composed(f"dataset={name}").dataset.layouts)


@pytest.mark.parametrize(("name", "number"), [(name, i) for name in LAYOUTS for i in range(len(LAYOUTS[name]))])
def test_a_network_takes_the_batches_of_a_layout(tmp_path, name, number):
    raw = tmp_path / "raw"
    raw.mkdir()
    LAYOUTS[name][number](raw)
    overrides = [
        f"dataset={name}",
        f"dataset.raw_dir={raw}",
        f"dataset.prepared_dir={tmp_path}/prepared",
        "dataset.rows=null",
        "dataset.min_count=1",
    ]
    config = composed(*overrides)
    spec = spec_of(config)
    check_config(config, spec)
    assert spec.raw_files(raw).reader == spec.layouts[number]["reader"]
    folder = prepare(spec)
    total = sum(split["rows"] for split in read_manifest(folder)["splits"].values())
    assert total == ROWS * (3 if "train" in spec.layouts[number] else 2 if (raw / "train-1.csv").exists() else 1)
    batch = next(iter(CTRDataModule(folder, batch_size=32).train_dataloader()))
    module = build_module(config, Schema.load(folder))
    loss = module.loss(module.network(batch.ids, batch.numbers), batch.label)["loss"]
    assert torch.isfinite(loss)
    numbers = [field for field in spec.fields if field.kind == "number"]
    assert batch.ids.shape[1] == sum(field.width for field in spec.fields) - len(numbers)
    assert (batch.numbers is None) if not numbers else (batch.numbers.shape[1] == len(numbers))


def test_kkbox_from_kaggle_equals_the_joined_files(tmp_path):
    ids = []
    for number in (0, 1):
        raw = tmp_path / f"raw{number}"
        raw.mkdir()
        kkbox_from_kaggle(raw)
        if number == 0:  # the same rows, joined by hand
            row = pl.read_csv(raw / "train.csv").rename({"target": "label"})
            for other, key in (("songs.csv", "song_id"), ("members.csv", "msno"), ("song_extra_info.csv", "song_id")):
                row = row.join(pl.read_csv(raw / other), on=key, how="left", maintain_order="left")
            for split in ("train", "valid", "test"):
                row.write_csv(raw / f"{split}.csv")
        overrides = [
            "dataset=kkbox",
            f"dataset.raw_dir={raw}",
            f"dataset.prepared_dir={tmp_path}/p{number}",
            "dataset.rows=null",
            "dataset.min_count=1",
        ]
        folder = prepare(spec_of(composed(*overrides)))
        ids.append(
            {
                tuple(batch)
                for split in ("train", "valid", "test")
                for batch in pl.read_parquet(folder / f"{split}.parquet").drop("__label").rows()
            }
        )
    assert ids[0] == ids[1]


def test_criteo_numbers_differs_from_criteo_in_the_kind_of_13_fields_only():
    first, second = (composed(f"dataset={name}").dataset for name in ("criteo", "criteo_numbers"))
    assert {key for key in first if first[key] != second[key]} == {"name", "prepared_dir", "fields"}
    fields = [spec_of(composed(f"dataset={name}")).fields for name in ("criteo", "criteo_numbers")]
    assert [field.name for field in fields[0]] == [field.name for field in fields[1]]
    assert [field.kind for field in fields[1]] == ["number"] * 13 + ["categorical"] * 26


def test_criteo_numbers_prepares_a_file_with_gaps_and_decimals(tmp_path):
    """200 rows that DeepCTR ships: 260.0, empty cells, -1 in I2."""
    raw = need_shared("peers") / "criteo"
    config = composed(
        "dataset=criteo_numbers",
        f"dataset.raw_dir={raw}",
        f"dataset.prepared_dir={tmp_path}/prepared",
        "dataset.layouts=[{reader: csv, all: criteo_sample.txt}]",
        "dataset.rows=null",
    )
    folder = prepare(spec_of(config))
    schema = Schema.load(folder)
    names = [f"I{i}" for i in range(1, 14)]
    assert schema.number_columns == names
    splits = {split: pl.read_parquet(folder / f"{split}.parquet") for split in ("train", "valid", "test")}
    rows = pl.concat(splits.values())
    source = pl.read_csv(raw / "criteo_sample.txt", schema_overrides=dict.fromkeys(names, pl.Float64))
    assert (len(rows), rows[LABEL].sum()) == (200, source["label"].sum())
    for name in names:
        scaling, value = schema[name].scaling, source[name].drop_nulls().to_numpy()
        assert rows[name].is_nan().sum() == source[name].null_count()
        found = rows[name].drop_nans().sort().to_numpy() * scaling.spread + scaling.center
        np.testing.assert_allclose(found, np.sort(np.sign(value) * np.log1p(np.abs(value))), rtol=1e-4, atol=1e-4)
        assert splits["train"][name].drop_nans().mean() == pytest.approx(0, abs=1e-3)
        assert splits["train"][name].drop_nans().std(ddof=0) == pytest.approx(1, abs=1e-3)


def test_synthetic_numbers_prepares_numbers_and_a_list(tmp_path):
    config = composed(
        "dataset=synthetic_numbers",
        f"dataset.prepared_dir={tmp_path}/prepared",
        "dataset.generator.train=3000",
        "dataset.generator.valid=500",
        "dataset.generator.test=500",
    )
    folder = prepare(spec_of(config))
    schema, manifest = Schema.load(folder), read_manifest(folder)
    assert schema.number_columns == ["price", "age", "noise"]
    assert schema.columns[-4:] == [f"tags.{i}" for i in range(4)]
    assert schema["tags"].vocabulary_size == 32  # 30 tags, padding, out of vocabulary
    assert {split: part["rows"] for split, part in manifest["splits"].items()} == {
        "train": 3000,
        "valid": 500,
        "test": 500,
    }
    assert 0.78 < manifest["best_auc"]["test"] < 0.88
    train = pl.read_parquet(folder / "train.parquet")
    assert 0.15 < train["age"].is_nan().sum() / 3000 < 0.25
    assert train.select(pl.col("price", "noise").is_nan().sum()).row(0) == (0, 0)
    module = build_module(config, schema)
    batch = next(iter(CTRDataModule(folder, batch_size=64).train_dataloader()))
    terms = module.loss(module.network(batch.ids, batch.numbers), batch.label)
    assert torch.isfinite(terms["loss"])
