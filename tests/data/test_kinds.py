"""Numbers, weights, labels from ratings, splits by a column, shared and hashed fields."""

import gzip
import json
import logging
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from conftest import make_spec
from tf4ctr.data import vocabulary
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.manifest import read_manifest
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import WEIGHT, Schema
from tf4ctr.data.stream import DiskStream, MemoryStream
from tf4ctr.errors import InputError

SPLITS = ("train", "valid", "test")
PARQUET = {"reader": "parquet", **{split: f"{split}.parquet" for split in SPLITS}}
PRICE = {"name": "price", "kind": "number", "transform": "log1p"}
ALL_KINDS = [
    "user",
    {"name": "item", "max_values": 3},
    PRICE,
    {"name": "age", "kind": "number", "scale": "minmax", "clip": [18, 90]},
    {"name": "liked", "width": 2, "separator": "|", "of": "item", "pooling": "mean"},
    {"name": "ip", "hash": 50},
]


def rows(count=200, seed=0):
    random = np.random.default_rng(seed)
    missing = random.random(count) < 0.2
    price = [
        None if gap else round(float(value), 2)
        for gap, value in zip(missing, random.exponential(9, count), strict=True)
    ]
    return pl.DataFrame(
        {
            "click": random.integers(0, 2, count),
            "user": random.integers(0, 9, count),
            "item": random.choice(["a", "b", "c", "d", "e"], count, p=[0.1, 0.2, 0.3, 0.3, 0.1]),
            "price": price,
            "age": random.integers(0, 120, count),
            "liked": [
                [str(item) for item in random.choice(list("abcde"), number)] for number in random.integers(0, 4, count)
            ],
            "ip": [f"10.0.{number}.1" for number in random.integers(0, 99, count)],
            "w": random.random(count).round(3),
        }
    )


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed, split in enumerate(SPLITS):
        rows(seed=seed).write_parquet(folder / f"{split}.parquet")
    return folder


def spec_of(raw, **options):
    return make_spec(
        raw, **{"fields": ALL_KINDS, "layouts": [PARQUET], "min_count": 1, "group": None, "weight": "w", **options}
    )


def test_every_kind_is_prepared_as_described(raw):
    folder = prepare(spec_of(raw))
    train, schema = pl.read_parquet(folder / "train.parquet"), Schema.load(folder)
    source = pl.read_parquet(raw / "train.parquet")
    assert schema.columns == ["user", "item", "liked.0", "liked.1", "ip"]
    assert schema.number_columns == ["price", "age"]
    price = np.log1p(source["price"].to_numpy())
    expected = (price - np.nanmean(price)) / np.nanstd(price)
    np.testing.assert_allclose(train["price"].to_numpy(), expected, rtol=1e-4, atol=1e-4)
    assert train["price"].is_nan().sum() == source["price"].null_count()
    np.testing.assert_allclose(train["age"], (source["age"].clip(18, 90) - 18) / 72, atol=1e-5)
    np.testing.assert_allclose(train[WEIGHT], source["w"] / source["w"].mean(), rtol=1e-5)
    assert vocabulary.load("item", folder / "vocabulary").to_list() == ["b", "c", "d"]  # the three most frequent ones
    assert not (folder / "vocabulary" / "liked.parquet").exists()
    first = schema.offset_of("item")
    places = {"b": first + 1, "c": first + 2, "d": first + 3}
    liked = [[places.get(item, first + 4) for item in items[:2]] for items in source["liked"]]
    assert [[value for value in row if value != first] for row in train.select("liked.0", "liked.1").rows()] == [
        items or [first + 4] for items in liked
    ]
    hashed = train["ip"] - schema.offset_of("ip")
    assert hashed.is_between(1, 50).all()
    assert hashed.n_unique() > 30
    assert len(pl.DataFrame({"ip": source["ip"], "row": hashed}).unique()) == source["ip"].n_unique()
    assert read_manifest(folder)["splits"]["valid"]["missing"].keys() == {"price", "age"}
    assert "| price |" in (folder / "report.md").read_text()


def test_the_hash_is_the_same_everywhere(raw):
    """xxHash64 of the text, with seed 0: known values of its reference implementation."""
    frame = pl.DataFrame({"x": ["", "a", "abc"]})
    found = frame.select(pl.col("x").nchash.xxhash64()).to_series().to_list()
    assert found == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]


def test_streams_have_numbers_and_weights(raw):
    folder = prepare(spec_of(raw))
    table = pl.read_parquet(folder / "train.parquet")
    numbers = table.select("price", "age").to_numpy()
    for stream in (MemoryStream(folder, "train", 64), DiskStream(folder, "train", 64, shuffle_rows=128)):
        batches = list(stream)
        np.testing.assert_array_equal(np.concatenate([batch.numbers.numpy() for batch in batches]), numbers)
        np.testing.assert_array_equal(np.concatenate([batch.weight.numpy() for batch in batches]), table[WEIGHT])
    shuffled = MemoryStream(folder, "train", 64, shuffle=True)
    taken = next(iter(shuffled))
    place = shuffled._order()[:64]
    np.testing.assert_array_equal(taken.numbers.numpy(), numbers[place])


def test_the_same_rows_through_every_format_are_the_same_prepared_rows(raw, tmp_path):
    texts = {
        split: pl.read_parquet(raw / f"{split}.parquet").with_columns(pl.col("liked").list.join("|"))
        for split in SPLITS
    }
    for split, frame in texts.items():
        whole = pl.read_parquet(raw / f"{split}.parquet")
        frame.write_csv(raw / f"{split}.csv")
        (raw / f"{split}.csv.gz").write_bytes(gzip.compress((raw / f"{split}.csv").read_bytes()))
        whole.write_ndjson(raw / f"{split}.ndjson")
        whole.write_ipc(raw / f"{split}.arrow")
    layouts = {
        "parquet": PARQUET,
        "csv": {"reader": "csv", **{split: f"{split}.csv" for split in SPLITS}},
        "gz": {"reader": "csv", **{split: f"{split}.csv.gz" for split in SPLITS}},
        "ndjson": {"reader": "ndjson", **{split: f"{split}.ndjson" for split in SPLITS}},
        "arrow": {"reader": "arrow", **{split: f"{split}.arrow" for split in SPLITS}},
    }
    folders = [
        prepare(spec_of(raw, layouts=[layout], prepared_dir=tmp_path / name)) for name, layout in layouts.items()
    ]
    for folder in folders[1:]:
        for split in SPLITS:
            assert (folder / f"{split}.parquet").read_bytes() == (folders[0] / f"{split}.parquet").read_bytes()
        assert (folder / "schema.json").read_text() == (folders[0] / "schema.json").read_text()


def test_both_engines_prepare_every_kind_alike(raw, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    folders = [prepare(spec_of(raw, prepared_dir=tmp_path / engine), engine) for engine in ("polars", "ray")]
    for name in (*(f"{split}.parquet" for split in SPLITS), "schema.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_raw_rows_get_the_ids_and_numbers_that_preparation_gave_them(raw):
    spec = spec_of(raw)
    folder = prepare(spec)
    schema, table = Schema.load(folder), pl.read_parquet(folder / "test.parquet")
    encoder = RowEncoder(schema, spec.fields, folder / "vocabulary")
    source = pl.read_parquet(raw / "test.parquet").with_columns(pl.col("user").cast(pl.String))
    np.testing.assert_array_equal(encoder.ids(source), table.select(schema.columns).to_numpy())
    expected = table.select(schema.number_columns).to_numpy()
    np.testing.assert_array_equal(encoder.numbers(source), expected)
    faulty = pl.DataFrame({"price": ["1.5", "cheap", None, "inf"], "age": ["7", "8", "9", "1"]})
    reasons = faulty.with_columns(**{name: pl.lit("1") for name in ("user", "item", "liked", "ip")}).select(
        encoder.fault()
    )
    assert [reason and reason[:25] for reason in reasons.to_series()] == [
        None,
        "column 'price' is 'cheap'",
        None,
        "column 'price' is 'inf', ",
    ]


@pytest.mark.parametrize("text", ["cheap", "inf", "1,5"])
def test_a_text_that_is_not_a_number_is_named_with_its_line(tmp_path, text):
    (tmp_path / "raw").mkdir()
    for split in SPLITS:
        lines = ["click,price,user", *(f"{i % 2};{i}.5;u".replace(";", ",") for i in range(9))]
        if split == "train":
            lines[4] = f'0,"{text}",u'
        (tmp_path / "raw" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    csv = {"reader": "csv", **{split: f"{split}.csv" for split in SPLITS}}
    options = {"layouts": [csv], "group": None, "fields": ["user", {"name": "price", "kind": "number"}]}
    with pytest.raises(InputError, match=rf"train\.csv, line 5: column 'price' is '{text}', expected a finite number"):
        prepare(make_spec(tmp_path / "raw", **options))
    options["fields"] = ["user", {"name": "price", "kind": "number", "invalid": "missing"}]
    folder = prepare(make_spec(tmp_path / "raw", **options))
    assert pl.read_parquet(folder / "train.parquet")["price"].is_nan().sum() == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -0.5], r"row 2: column 'w' is -0\.5, expected a finite number from 0 on"),
        ([1.0, float("inf")], "expected a finite number from 0 on"),
        ([1.0, None], "column 'w' is missing, expected a finite number"),
        ([0.0, 0.0], "is 0 in all training rows"),
    ],
)
def test_weights_that_cannot_be_are_refused(raw, weights, message):
    frame = pl.read_parquet(raw / "train.parquet")
    frame.with_columns(w=pl.Series(weights * 100)).write_parquet(raw / "train.parquet")
    with pytest.raises(InputError, match=message):
        prepare(spec_of(raw))


@pytest.mark.parametrize(
    ("label", "clicks"),
    [
        ({"column": "age", "positive": ">= 60"}, lambda row: row["age"] >= 60),
        ({"column": "age", "positive": "< 30.5"}, lambda row: row["age"] < 30.5),
        ({"column": "item", "positive": ["a", "c"]}, lambda row: row["item"] in "ac"),
    ],
)
def test_a_label_made_of_another_column(raw, label, clicks):
    folder = prepare(spec_of(raw, label=label, fields=["user", "ip"]))
    source = pl.read_parquet(raw / "train.parquet")
    expected = [int(clicks(row)) for row in source.iter_rows(named=True)]
    assert pl.read_parquet(folder / "train.parquet")["__label"].to_list() == expected


def test_a_rating_that_is_no_number_is_named(raw):
    frame = pl.read_parquet(raw / "valid.parquet").with_columns(age=pl.lit("old"))
    frame.write_parquet(raw / "valid.parquet")
    with pytest.raises(InputError, match=r"valid\.parquet, row 1: column 'age' is 'old', expected a number"):
        prepare(spec_of(raw, label={"column": "age", "positive": ">= 60"}, fields=["user"]))


BEGIN = datetime(2026, 1, 1)
MOMENTS = {
    "numbers": [number // 3 for number in range(300)],
    "seconds": [1_767_225_600 + 60 * (number // 3) for number in range(300)],
    "milliseconds": [1_767_225_600_000 + 60_000 * (number // 3) for number in range(300)],
    "dates": [(BEGIN + timedelta(days=number // 3)).strftime("%Y-%m-%d") for number in range(300)],
    "ISO": [(BEGIN + timedelta(minutes=number // 3)).isoformat() + "Z" for number in range(300)],
    "datetimes": [BEGIN + timedelta(minutes=number // 3) for number in range(300)],
}


@pytest.mark.parametrize("engine", ["polars", "ray"])
@pytest.mark.parametrize("kind", MOMENTS)
def test_files_are_split_by_time(tmp_path, kind, engine, caplog):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra ray")
        if kind not in ("numbers", "ISO"):
            pytest.skip("one kind of each: the engines share the expressions")
    caplog.set_level(logging.INFO)
    frame = pl.DataFrame({"click": [0, 1] * 150, "user": ["a"] * 300, "number": range(300), "time": MOMENTS[kind]})
    frame = frame.sample(fraction=1, shuffle=True, seed=0)
    (tmp_path / "raw").mkdir()
    frame[:100].write_parquet(tmp_path / "raw" / "a.parquet")
    frame[100:].write_parquet(tmp_path / "raw" / "b.parquet")
    layout = {"reader": "parquet", "all": "*.parquet"}
    fields = ["user", {"name": "number", "kind": "number", "scale": "none"}]
    split = {"by": "time", "valid": 0.1, "test": 0.2}
    folder = prepare(make_spec(tmp_path / "raw", layouts=[layout], fields=fields, group=None, split=split), engine)
    numbers = {name: sorted(pl.read_parquet(folder / f"{name}.parquet")["number"].to_list()) for name in SPLITS}
    assert numbers == {"train": list(range(210)), "valid": list(range(210, 240)), "test": list(range(240, 300))}
    assert "validation begins at time =" in caplog.text
    assert (f"({BEGIN:%Y}-" in caplog.text) == (kind != "numbers")  # a date as a date
    assert len(read_manifest(folder)["moments"]) == 2


def test_files_are_split_by_the_values_of_a_column(tmp_path):
    frame = pl.DataFrame({"click": [0, 1] * 30, "user": ["a"] * 60, "day": [1, 2, 3, 4, 5, 6] * 10})
    (tmp_path / "raw").mkdir()
    frame.write_csv(tmp_path / "raw" / "log.csv")
    options = {"layouts": [{"reader": "csv", "all": "log.csv"}], "fields": ["user"], "group": None}
    values = {"train": [1, 2, 3, 4], "valid": [5], "test": [6]}
    folder = prepare(make_spec(tmp_path / "raw", split={"by": "day", "values": values}, **options))
    assert {name: split["rows"] for name, split in read_manifest(folder)["splits"].items()} == {
        "train": 40,
        "valid": 10,
        "test": 10,
    }
    with pytest.raises(
        InputError, match=r"line 7: column 'day' is '6', expected one of dataset.split.values \(10 such"
    ):
        prepare(make_spec(tmp_path / "raw", split={"by": "day", "values": {**values, "test": [9]}}, **options))


def test_a_row_without_a_moment_is_named(tmp_path):
    (tmp_path / "raw").mkdir()
    lines = ["click,user,time", *(f"{i % 2},u,{i}" for i in range(50)), "1,u,yesterday"]
    (tmp_path / "raw" / "log.csv").write_text("\n".join(lines) + "\n")
    options = {"layouts": [{"reader": "csv", "all": "log.csv"}], "fields": ["user"], "group": None}
    with pytest.raises(InputError, match="line 52: column 'time' is 'yesterday', expected a number or an ISO date"):
        prepare(make_spec(tmp_path / "raw", split={"by": "time", "valid": 0.1, "test": 0.1}, **options))


def test_null_values_are_missing(raw):
    frame = pl.read_parquet(raw / "train.parquet").with_columns(pl.col("price").cast(pl.String).fill_null("NA"))
    frame.with_columns(item=pl.when(pl.col("item") == "a").then(pl.lit("-")).otherwise("item")).write_parquet(
        raw / "train.parquet"
    )
    folder = prepare(spec_of(raw, null_values=["NA", "-"]))
    assert pl.read_parquet(folder / "train.parquet")["price"].is_nan().sum() == (frame["price"] == "NA").sum()
    folder = prepare(spec_of(raw, null_values=["NA", "-"], fields=["item", PRICE], prepared_dir=raw.parent / "other"))
    assert "-" not in vocabulary.load("item", folder / "vocabulary").to_list()


def test_an_empty_text_is_a_missing_value_in_every_format(tmp_path):
    """csv cannot tell them apart, and users without a name would share one history."""
    frame = pl.DataFrame(
        {
            "click": [1, 0, 1, 0] * 20,
            "user": ["", "u1", "", "u2"] * 20,
            "item": ["", "a", "b", "c"] * 20,
            "price": ["1", "", "2.5", "3"] * 20,
            "tags": ["x|y", "", "y", "x"] * 20,
            "time": range(80),
        }
    ).with_columns(kind=pl.col("item").cast(pl.Categorical))
    (tmp_path / "raw").mkdir()
    price = {"name": "price", "kind": "number", "scale": "none"}
    tags = {"name": "tags", "separator": "|", "width": 2}
    history = {"name": "history", "of": "item", "by": "user", "order": "time", "width": 3}
    found = {}
    for suffix in ("csv", "parquet", "ipc", "ndjson"):
        getattr(frame, f"write_{suffix}")(tmp_path / "raw" / f"log.{suffix}")
        spec = make_spec(
            tmp_path / "raw",
            layouts=[{"reader": "arrow" if suffix == "ipc" else suffix, "all": f"log.{suffix}"}],
            fields=["user", "item", "kind", {"name": "hashed", "column": "item", "hash": 9}, price, tags],
            histories=[history],
            group="user",
            prepared_dir=tmp_path / suffix,
        )
        folder = prepare(spec)
        found[suffix] = [pl.read_parquet(folder / f"{name}.parquet").to_dict(as_series=False) for name in SPLITS]
        assert vocabulary.load("user", folder / "vocabulary").to_list() == ["u1", "u2"]
        assert pl.read_parquet(folder / "histories" / "history.parquet")["__user"].sort().to_list() == ["u1", "u2"]
    for rows in found.values():
        assert str(rows) == str(found["csv"])  # NaN is no NaN


@pytest.mark.parametrize("several", [False, True])
def test_durations_are_refused(raw, several):
    for split in SPLITS:
        rows = pl.read_parquet(raw / f"{split}.parquet").with_columns(spent=pl.duration(seconds=pl.col("age")))
        rows = rows.with_columns(pl.concat_list("spent")) if several else rows
        rows.write_parquet(raw / f"{split}.parquet")
    field = {"name": "spent", "width": 2} if several else {"name": "spent", "kind": "number"}
    with pytest.raises(InputError, match="column 'spent' is .*Duration.*: write its durations as numbers"):
        prepare(spec_of(raw, fields=["user", field]))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("written", [int, float])
def test_a_whole_number_of_the_yaml_is_the_value_in_both_spellings(tmp_path, suffix, written):
    """csv has 4.0 where a missing value made the column a float, and parquet's 4.0 becomes 4."""
    ratings = [-1.0, 4.0, 4.5, 5.0, 3.0, 2.0] * 10
    frame = pl.DataFrame({"click": [0, 1] * 30, "user": ["a", "b"] * 30, "rating": ratings, "time": range(60)})
    (tmp_path / "raw").mkdir()
    getattr(frame, f"write_{suffix}")(tmp_path / "raw" / f"log.{suffix}")
    positive = [written(4), 4.5, written(5)]

    def prepared(**options):
        layouts = [{"reader": suffix, "all": f"log.{suffix}"}]
        folder = prepare(
            make_spec(tmp_path / "raw", **{"fields": ["user"], "layouts": layouts, "group": None, **options})
        )
        return folder, pl.concat([pl.read_parquet(folder / f"{name}.parquet") for name in SPLITS])

    _, rows = prepared(label={"column": "rating", "positive": positive})
    assert rows["__label"].sum() == 30
    history = {"name": "history", "of": "user", "by": "user", "order": "time", "width": 50}
    folder, _ = prepared(histories=[{**history, "where": {"rating": positive}}])
    assert pl.read_parquet(folder / "histories" / "history.parquet")["history"].list.len().sum() == 30
    rating = {"name": "rating", "kind": "number", "scale": "none"}
    _, rows = prepared(fields=["user", rating], null_values=[written(-1)])
    assert (rows["rating"].is_nan().sum(), rows["rating"].drop_nans().min()) == (10, 2)
    values = {"train": [4.5, written(-1), written(4)], "valid": [written(5)], "test": [written(2), written(3)]}
    folder, _ = prepared(split={"by": "rating", "values": values})
    assert [read_manifest(folder)["splits"][name]["rows"] for name in SPLITS] == [30, 10, 20]


def test_ndjson_names_nested_keys_by_dots_and_a_broken_line(tmp_path):
    (tmp_path / "raw").mkdir()
    records = [
        {"click": i % 2, "user": {"id": i % 7, "geo": {"city": f"c{i % 3}"}}, "tags": ["x"] * (i % 3)}
        for i in range(60)
    ]
    for split in SPLITS:
        (tmp_path / "raw" / f"{split}.ndjson").write_text("\n".join(map(json.dumps, records)) + "\n")
    fields = ["user.id", {"name": "city", "column": "user.geo.city"}, {"name": "tags", "width": 2}]
    layout = {"reader": "ndjson", **{split: f"{split}.ndjson" for split in SPLITS}}
    options = {"layouts": [layout], "group": None, "min_count": 1}
    folder = prepare(make_spec(tmp_path / "raw", fields=fields, **options))
    assert vocabulary.load("city", folder / "vocabulary").to_list() == ["c0", "c1", "c2"]
    assert vocabulary.load("user.id", folder / "vocabulary").to_list() == [str(i) for i in range(7)]
    with pytest.raises(InputError, match=r"no key .user.name. in the first lines .did you mean .user.\?"):
        prepare(make_spec(tmp_path / "raw", fields=["user.name"], **options))
    with (tmp_path / "raw" / "test.ndjson").open("a") as file:
        file.write('{"click": 1, "user"\n')
    with pytest.raises(InputError, match=r"line 61: expected a JSON object, found \{\"click\": 1, \"user\""):
        prepare(make_spec(tmp_path / "raw", fields=fields, **options))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"kind": "numeric"}, "x.kind is 'numeric': did you mean 'number'"),
        ({"kind": "number", "transform": "log"}, "x.transform is 'log': did you mean 'log1p'"),
        ({"kind": "number", "min_count": 2}, "min_count is 2: a field of kind number has no such option"),
        ({"clip": [0, 1]}, "a field of kind categorical has no such option"),
        ({"kind": "number", "clip": [1, 0]}, r"expected \[lowest, highest\]"),
        ({"pooling": "mean"}, "only a list field"),
        ({"hash": 10, "min_count": 3}, "a field with hash has no vocabulary"),
        ({"of": "y", "max_values": 3}, "the vocabulary is that of y: set it there"),
        ({"of": "z"}, "x.of is 'z', expected a field with a vocabulary of its own"),
        ({"hash": 0}, "expected a whole number from 1 on"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, field, message):
    with pytest.raises(InputError, match=message):
        make_spec(tmp_path, fields=["y", {"name": "x", **field}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": {"column": "rating"}}, r"expected a column, or \{column: rating, positive"),
        ({"label": {"column": "rating", "positive": "more than 4"}}, "expected a column, or"),
        ({"split": {"by": "time"}}, "expected {by: COLUMN, valid: 0.1, test: 0.1}"),
        ({"split": {"by": "time", "valid": 0.5, "test": 0.5}}, "expected {by: COLUMN"),
        ({"split": {"by": "time", "vaild": 0.5}}, "vaild is not an option, did you mean 'valid'"),
        ({"split": {"by": "day", "values": [1, 2, 3]}}, r"split.values is \[1, 2, 3\]: expected {train: \[...\]"),
        ({"split": {"by": "day", "values": {"train": [1], "valid": 3, "test": [4]}}}, r"valid is 3: .* as in \[3\]"),
        ({"split": {"by": "day", "values": {"train": "012", "valid": [3], "test": [4]}}}, "train is '012': expected a"),
        ({"split": {"by": "day", "values": {"train": [1, 3], "valid": [3], "test": [4]}}}, "'3' is in train and in v"),
        (
            {"split": {"by": "day", "values": {"train": [1], "valid": [3], "test": [1.0]}}},
            "'1' is in train and in t",
        ),
        ({"split": {"by": "click", "valid": 0.1, "test": 0.1}}, "each split would have one class"),
        ({"fields": [PRICE]}, "at least one categorical field"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        make_spec(tmp_path, **options)


def test_nan_is_a_missing_number(raw):
    frame = pl.read_parquet(raw / "train.parquet").with_columns(pl.col("price").fill_null(float("nan")))
    frame.write_parquet(raw / "train.parquet")
    folder = prepare(spec_of(raw))
    prices = pl.read_parquet(folder / "train.parquet")["price"]
    assert prices.is_nan().sum() == frame["price"].is_nan().sum() > 0
    assert not prices.null_count()


def test_a_hashed_whole_number_is_the_same_with_and_without_a_fraction(raw):
    folder = prepare(spec_of(raw))
    encoder = RowEncoder(Schema.load(folder), spec_of(raw).fields, folder / "vocabulary")
    rows = pl.DataFrame({name: ["7", "7.0"] for name in ("user", "item", "liked", "ip", "price", "age")})
    first, second = encoder.ids(rows)
    assert first.tolist() == second.tolist()


def test_a_column_may_be_an_id_and_a_number(tmp_path):
    (tmp_path / "raw").mkdir()
    for split in SPLITS:
        lines = ["click,age", *(f"{i % 2},{i % 5}" for i in range(50))]
        (tmp_path / "raw" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    csv = {"reader": "csv", **{split: f"{split}.csv" for split in SPLITS}}
    fields = ["age", {"name": "years", "column": "age", "kind": "number", "scale": "none"}]
    folder = prepare(make_spec(tmp_path / "raw", layouts=[csv], fields=fields, group=None, min_count=1))
    assert vocabulary.load("age", folder / "vocabulary").to_list() == ["0", "1", "2", "3", "4"]
    assert pl.read_parquet(folder / "train.parquet")["years"].to_list() == [float(i % 5) for i in range(50)]
