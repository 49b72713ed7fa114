"""Every dataset in conf/dataset and every one of its layouts: from small raw files to a batch."""

import gzip

import numpy as np
import polars as pl
import pytest
import torch

from conftest import need_shared
from test_assembly import composed, options, spec_of
from tf4ctr.assembly import build_module, build_network, load_vectors
from tf4ctr.config_checks import check_config
from tf4ctr.data import vectors, vocabulary
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
    (folder / "ratings.dat").write_text("".join(f"{i % 4}::{i % 7}::{i % 5 + 1}::{i // 2}\n" for i in range(ROWS)))
    (folder / "users.dat").write_text("".join(f"{i}::F::25::{i}::1234\n" for i in range(4)))


def ratings_100k(folder):
    (folder / "u.data").write_text("".join(f"{i % 4}\t{i % 7}\t{i % 5 + 1}\t{i // 2}\n" for i in range(ROWS)))
    (folder / "u.user").write_text("".join(f"{i}|{20 + i}|F|other|1234{i}\n" for i in range(4)))
    flags = "|".join("01"[i % 3 == 0] for i in range(19))
    (folder / "u.item").write_text("".join(f"{i}|Film {i}|01-Jan-199{i}||http://film|{flags}\n" for i in range(7)))


def train_and_test(folder, columns):
    for split in ("train", "test"):
        csv(folder, f"{split}.csv", columns)


def images(folder, name, keys):
    """64 numbers for each key, as FuxiCTR writes vectors: key k has k, k + 1, ..."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / name, "w") as file:
        file["key"] = list(keys)
        file["value"] = np.add.outer(list(keys), np.arange(64)).astype(np.float32)


AMAZON = {
    "label": [1, 0],
    "user_id": [0, 0, 1, 1],
    "item_id": [13179, 5, 7],
    "cate_id": [738, 1],
    "item_history": ["17993^5^7", "7", "5^13179"],
    "cate_history": ["1^1^738", "738", "1^738"],
}
TAOBAO = {
    "clk": CLICK,
    "btag_his": ["1^1^2", None, "4"],
    "cate_his": ["10^20^10", None, "30"],
    "brand_his": ["5^6^5", None, "7"],
    "adgroup_id": [100, 200, 300],
    "cate_id": [10, 20, 30, 40],
    "campaign_id": [8, 9],
    "customer": [3, 4, 5],
    "brand": [5, 6, 7],
    "price": ["199.0", "0.5", "88"],
    "pid": ["430548_1007", "430539_1007"],
    "btag": [1],
}
TAOBAO |= {
    name: [1, 2, 3, 0]
    for name in (
        *("userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level"),
        *("shopping_level", "occupation", "new_user_class_level"),
    )
}
KUAI = {
    "timestamp": range(ROWS),
    "user_id": [0, 1, 2, 1],
    "item_id": [4, 5, 6, 7, 8],
    "is_click": CLICK,
    "is_like": [0],
    "is_follow": [0],
    "pos_items": ["4^5", None, "8"],
    "neg_items": [None, "6", "7^7^4"],
}
MICRO = {
    "user_id": [0, 1, 2, 1],
    "item_id": [4, 5, 6, 7, 8],
    "cate_id": [1, 2],
    "is_click": CLICK,
    "clicked_items": ["4^5^9", None, "8"],
    "clicked_categories": ["1^2^1", None, "1"],
    "timestamp": range(ROWS),
}


def kuaivideo(folder):
    train_and_test(folder, KUAI)
    images(folder, "item_visual_emb_dim64.h5", range(12))


def microvideo(folder):
    train_and_test(folder, MICRO)
    images(folder, "item_image_emb_dim64.h5", range(4, 8))


LAYOUTS = {
    "amazon_electronics": [lambda folder: train_and_test(folder, AMAZON)],
    "kuaivideo": [kuaivideo],
    "microvideo": [microvideo],
    "movielens_100k": [ratings_100k],
    "movielens_1m_history": [ratings],
    "taobao_ad": [lambda folder: train_and_test(folder, TAOBAO)],
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
    schema = Schema.load(folder)
    module = build_module(config, schema)
    load_vectors(module.network, schema, folder)
    loss = module.loss(module.network(batch.ids, batch.numbers), batch.label)["loss"]
    assert torch.isfinite(loss)
    numbers = [field for field in spec.fields if field.kind == "number"]
    assert batch.ids.shape[1] == sum(field.width for field in spec.fields if field.kind in ("categorical", "sequence"))
    assert (batch.numbers is None) if not numbers else (batch.numbers.shape[1] == len(numbers))


@pytest.mark.parametrize(
    "name", [name for name in options("dataset") if composed(f"dataset={name}").dataset.get("download")]
)
def test_a_download_has_all_files_of_a_layout(tmp_path, name):
    spec = spec_of(composed(f"dataset={name}"))
    members = spec.download.get("unpack") or spec.download["md5"]
    for member in members:
        (tmp_path / member.split("/")[-1]).touch()
    assert spec.raw_files(tmp_path).files


def prepared(tmp_path, name, write, *overrides):
    """The spec and the folder of a dataset, prepared from small raw files."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw)
    folders = (f"dataset.raw_dir={raw}", f"dataset.prepared_dir={tmp_path}/prepared")
    spec = spec_of(composed(f"dataset={name}", *folders, "dataset.rows=null", "dataset.min_count=1", *overrides))
    return spec, prepare(spec)


def texts(folder, split):
    """The prepared ids of a split as texts: field -> a text or a list of texts for each row."""
    schema, rows = Schema.load(folder), pl.read_parquet(folder / f"{split}.parquet")
    found = {}
    for field in schema.id_fields:
        if field.gaps:
            continue
        known = vocabulary.load(field.of or field.name, folder / "vocabulary").to_list()
        names = [None, *known, "?"]
        ids = rows.select(field.columns).to_numpy() - schema.offset_of(field.name)
        values = [[names[i] for i in row if i] for row in ids]
        found[field.name] = values if field.kind == "sequence" else [value[0] for value in values]
    return found


def test_histories_of_amazon_electronics_are_values_of_items_and_categories(tmp_path):
    _, folder = prepared(tmp_path, "amazon_electronics", lambda raw: train_and_test(raw, AMAZON))
    found = texts(folder, "train")
    assert found["item_id"][:3] == ["13179", "5", "7"]
    assert found["item_history"][:3] == [["?", "5", "7"], ["7"], ["5", "13179"]]  # 17993 is no item of the rows
    assert found["cate_history"][:3] == [["1", "1", "738"], ["738"], ["1", "738"]]


def test_histories_of_taobao_ad_are_three_of_one_length(tmp_path):
    _, folder = prepared(tmp_path, "taobao_ad", lambda raw: train_and_test(raw, TAOBAO))
    found = texts(folder, "train")
    assert found["cate_his"][:3] == [["10", "20", "10"], [], ["30"]]
    assert found["brand_his"][:3] == [["5", "6", "5"], [], ["7"]]
    assert found["btag_his"][:3] == [["1", "1", "2"], [], ["4"]]
    assert [[field.name for field in history] for history in Schema.load(folder).histories] == [
        ["cate_his", "brand_his", "btag_his"]
    ]


def test_taobao_ad_prepares_the_sample_that_fuxictr_ships(tmp_path):
    """100 rows a split. They have one history, of ads, and no btag."""
    raw = need_shared("peers") / "taobao_ad"
    fields = [field.name for field in spec_of(composed("dataset=taobao_ad")).fields]
    ids = [name for name in fields if name not in ("btag", "price") and not name.endswith("_his")]
    history = "{name: click_sequence, kind: sequence, of: adgroup_id, separator: '^', width: 3}"
    config = composed(
        "dataset=taobao_ad",
        f"dataset.raw_dir={raw}",
        f"dataset.prepared_dir={tmp_path}/prepared",
        "dataset.layouts=[{reader: csv, train: train_sample.csv, valid: valid_sample.csv, test: test_sample.csv}]",
        f"dataset.fields=[{','.join(ids)},{{name: price, kind: number, transform: log1p}},{history}]",
        "dataset.rows=null",
        "dataset.min_count=1",
    )
    folder = prepare(spec_of(config))
    for split in ("train", "valid", "test"):
        source = pl.read_csv(raw / f"{split}_sample.csv", infer_schema=False)
        found = texts(folder, split)
        ads = {*vocabulary.load("adgroup_id", folder / "vocabulary")}
        raw_histories = [text.split("^")[-3:] if text else [] for text in source["click_sequence"]]
        assert found["click_sequence"] == [[ad if ad in ads else "?" for ad in row] for row in raw_histories]
        if split == "train":
            assert found["adgroup_id"] == source["adgroup_id"].to_list()


@pytest.mark.parametrize("name", ["kuaivideo", "microvideo"])
def test_the_image_of_a_video_is_the_one_of_its_key(tmp_path, name):
    _, folder = prepared(tmp_path, name, LAYOUTS[name][0])
    known = vocabulary.load("item_id", folder / "vocabulary").to_list()
    assert known == ["4", "5", "6", "7", "8"]
    table = vectors.load("image", folder / "vectors", 64)
    for row, key in enumerate(map(int, known)):
        if name == "microvideo" and key == 8:  # a video without an image
            assert np.isnan(table[row]).all()
        else:
            np.testing.assert_array_equal(table[row], np.arange(key, key + 64))


def test_movielens_100k_by_time_with_histories(tmp_path):
    raw = need_shared("movielens_100k")
    spec = spec_of(composed("dataset=movielens_100k", f"dataset.raw_dir={raw}", f"dataset.prepared_dir={tmp_path}/p"))
    folder = prepare(spec)
    manifest = read_manifest(folder)
    splits = {split: part["rows"] for split, part in manifest["splits"].items()}
    log = pl.read_csv(raw / "u.data", separator="\t", has_header=False, new_columns=["user", "item", "rating", "time"])
    first, second = manifest["moments"]
    by_hand = [log.filter(pl.col("time") < first), log.filter(pl.col("time").is_between(first, second, closed="left"))]
    by_hand.append(log.filter(pl.col("time") >= second))
    assert list(splits.values()) == [len(part) for part in by_hand]
    assert 0.79 < splits["train"] / 100_000 < 0.81
    assert 0.09 < splits["test"] / 100_000 < 0.11
    liked = log.filter(pl.col("rating") >= 4)
    for split, part in zip(splits, by_hand, strict=True):
        found, rows = texts(folder, split), pl.read_parquet(folder / f"{split}.parquet")
        assert rows[LABEL].to_list() == (part["rating"] >= 4).cast(int).to_list()
        known = {*vocabulary.load("item", folder / "vocabulary")}
        for number in range(0, len(part), len(part) // 100):
            user, _, _, time = part.row(number)
            before = liked.filter((pl.col("user") == user) & (pl.col("time") < time))
            items = dict(zip(before["item"].cast(str), before["time"], strict=True))
            history = found["history"][number]
            assert len(history) == min(50, len(before))
            moments = sorted(before["time"])[-50:]
            assert [items[item] for item in history if item != "?"] == [
                moment for item, moment in zip(history, moments, strict=True) if item != "?"
            ]
            assert {item for item in history if item != "?"} <= known & {*items}


BARS = {  # vocabulary sizes in BARS' logs of DIN
    "amazon_electronics": {"item_id": 63_003, "cate_id": 803},
    "taobao_ad": {
        "userid": 403_958,
        "cms_segid": 99,
        "cms_group_id": 15,
        "final_gender_code": 4,
        "age_level": 9,
        "pvalue_level": 6,
        "shopping_level": 5,
        "occupation": 4,
        "new_user_class_level": 7,
        "adgroup_id": 246_851,
        "cate_id": 11_330,
        "campaign_id": 191_771,
        "customer": 132_136,
        "brand": 308_870,
        "pid": 4,
        "btag": 6,
    },
}


@pytest.mark.parametrize(
    ("name", "parameters", "more"),
    [
        # no Dice in the hidden layers; a vector for an empty history
        ("amazon_electronics", 5_403_522, 2 * 64 - (1024 + 512 + 256)),
        # a vector for an empty history; bias and missing value of price; 3 rows of btag_his' own
        ("taobao_ad", 42_263_682, 3 * 32 + 2 * 32 + 3 * 32),
    ],
)
def test_din_has_the_parameters_of_bars_log(name, parameters, more):
    config = composed(f"experiment=din/{name}")
    schema = spec_of(config).stand_in()
    network = build_network(config, schema)
    rows = sum(size - schema[field].vocabulary_size for field, size in BARS[name].items())
    total = sum(parameter.numel() for parameter in network.parameters()) + rows * config.embedding.dim
    assert total == parameters + more


@pytest.mark.parametrize(
    ("name", "dim", "l2", "lr", "dropout", "batch_size", "hidden_units", "batch_norm"),
    [
        ("amazon_electronics", 64, 5e-3, 5e-4, 0.1, 1024, [1024, 512, 256], True),
        ("taobao_ad", 32, 5e-6, 1e-3, 0.1, 8192, [512, 256, 128], False),
        ("kuaivideo", 64, 1e-4, 1e-3, 0.1, 8192, [1024, 512, 256], False),
        ("microvideo", 64, 1e-3, 5e-4, 0.2, 2048, [1024, 512, 256], True),
    ],
)
def test_the_settings_of_din_are_those_of_bars(name, dim, l2, lr, dropout, batch_size, hidden_units, batch_norm):
    config = composed(f"experiment=din/{name}")
    assert (config.embedding.dim, config.embedding.l2, config.optimizer.lr) == (dim, l2, lr)
    assert (config.stream.batch_size, config.backbone.complex.dropout) == (batch_size, dropout)
    assert (config.backbone.complex.hidden_units, config.backbone.complex.batch_norm) == (hidden_units, batch_norm)
    build_module(config, spec_of(config).stand_in())


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
