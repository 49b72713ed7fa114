"""init=RUN: the weights of a run on data with new values."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from conftest import make_spec, run_script
from inference.fixtures import KINDS, kinds_rows
from tf4ctr.assembly import build_network, load_run, load_vectors
from tf4ctr.data import vocabulary
from tf4ctr.data.encoding import RowEncoder
from tf4ctr.data.growth import Base
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.errors import InputError
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation
from tf4ctr.training.warm_start import WarmStart

SPLITS = ("train", "valid", "test")
LISTS = {"user": list("abc"), "tag": ["x", "y"]}  # the known values of the run


def save_values(folder, values):
    for name, known in values.items():
        vocabulary.save(pl.Series(name, known), folder / "vocabulary")
    return folder


def lists_schema(values):
    sizes = {name: len(known) + 2 for name, known in values.items()}
    return Schema(
        "toy",
        (
            Field("user", sizes["user"]),
            Field("ip", 6, hashed=True),
            Field("tag", sizes["tag"], 3, pooling="mean"),
            Field("last", sizes["tag"], of="tag"),
        ),
        "click",
    )


def two_tables(schema, dim=4):
    """A network with tables of sizes D/2 and D, and the linear encoder's."""
    encoders = {"simple": Linear, "complex": partial(MLP, hidden_units=[8]), "middle": partial(MLP, hidden_units=[4])}
    network = Network(schema, partial(FieldEmbedding, init_std=0.3), dim, SeparateRepresentation, encoders, WeightedSum)
    for parameter in network.parameters():
        parameter.data.normal_()
    return network.eval()


def lists_run(folder):
    schema = lists_schema(LISTS)
    network = two_tables(schema)
    return WarmStart(Base(save_values(folder, LISTS), schema), (), network.state_dict()), network


def test_values_move_to_their_new_rows_and_new_values_get_fresh_ones(tmp_path):
    """Order, growth, a removed value ('c'), lists, a shared vocabulary, hashes, three tables."""
    warm, old = lists_run(tmp_path / "run")
    values = {"user": ["A", "a", "ab", "b"], "tag": ["w", "x", "xy", "y", "z"]}
    schema = lists_schema(values)
    new = two_tables(schema)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    table = warm.load(new, schema, save_values(tmp_path / "new", values))
    assert [list(column.cells) for column in table.columns] == [
        ["user", "ip", "tag"],
        ["4", "6", "4"],  # padding and out of vocabulary are kept, too
        ["2", "0", "3"],
        ["1", "0", "0"],
    ]
    old_state, new_state = old.state_dict(), new.state_dict()
    tables = [name for name in new_state if new_state[name].shape != old_state[name].shape]
    assert len(tables) == 3
    assert {old_state[name].shape[1] for name in tables} == {1, 4}
    for name in tables:
        weights, before = new_state[name], old_state[name]
        for row, source in {0: 0, 2: 1, 4: 2, 5: 4, 6: 5, 11: 10, 12: 11, 14: 12, 16: 13, 18: 14}.items():
            assert torch.equal(weights[row], before[source]), row
        for row in (1, 3, 13, 15, 17):
            assert torch.equal(weights[row], fresh[name][row]), row
    # user b, hash row 3, tags [y, x], last y: the same values in both
    ids = torch.tensor([[2, 5 + 3, 11 + 2, 11 + 1, 11, 11 + 2]]), torch.tensor([[4, 6 + 3, 12 + 4, 12 + 2, 12, 12 + 4]])
    torch.testing.assert_close(new(ids[1]), old(ids[0]), rtol=0, atol=0)


def test_a_network_that_does_not_fit_is_refused_with_its_weights(tmp_path):
    warm, _ = lists_run(tmp_path)
    schema = lists_schema({"user": ["a"], "tag": ["x"]})
    warm.check(two_tables(schema))
    with pytest.raises(
        InputError, match=r"(?s)the network differs from the run's:.*was \[rows, 4\] and is \[rows, 8\]"
    ):
        warm.check(two_tables(schema, dim=8))
    encoders = {"simple": Linear, "complex": partial(MLP, hidden_units=[8, 8])}
    other = Network(schema, FieldEmbedding, 4, SeparateRepresentation, encoders, WeightedSum)
    with pytest.raises(InputError, match=r"(?s)encoders.complex.* is new.*and \d+ more"):
        warm.check(other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["user", "item", "shop"], "field shop is new"),
        (["user"], "field item is missing"),
        (["user", {"name": "item", "kind": "number"}], "item.kind was 'categorical' and is 'number'"),
        (["user", {"name": "item", "hash": 9}], "item.hash was None and is 9"),
        (["item", "user"], "the order of the fields was user, item and is item, user"),
        (["user", {"name": "item", "min_count": 3, "max_values": 5}], None),
    ],
)
def test_other_fields_are_refused(tmp_path, fields, message):
    run = WarmStart(Base(tmp_path, Schema("toy", (), "click")), make_spec(tmp_path, fields=["user", "item"]).fields, {})
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        run.grow(make_spec(tmp_path, fields=fields))


def kinds_spec(trained, folder, rows):
    """The dataset of a run, with other raw rows."""
    (folder / "raw").mkdir(parents=True)
    for split in SPLITS:
        rows.write_parquet(folder / "raw" / f"{split}.parquet")
    config = OmegaConf.to_container(trained.dataset, resolve=True)
    return DatasetSpec.from_config({**config, "raw_dir": folder / "raw", "prepared_dir": folder / "prepared"})


@pytest.fixture
def grown(make_run, tmp_path):
    """A run with fields of every kind, and the network that begins from it on other rows."""
    fields = [{**field, "max_values": None} if field["name"] == "item" else field for field in KINDS]
    run = make_run(kinds_rows(), fields, "parquet", weight="w", null_values=["NA", "-1"])
    old, _, config = load_run(run)
    rows = kinds_rows(seed=1).with_columns(pl.col("price") * 7 + 1, pl.col("item") + "x", pl.col("user") + 4)
    warm = WarmStart.of_run(run)
    spec = replace(kinds_spec(config, tmp_path / "grown", rows), base=warm.base)
    warm.grow(spec)
    prepared = prepare(spec)
    schema = Schema.load(prepared)
    new = build_network(config, schema).eval()
    warm.load(new, schema, prepared)
    return run, old, new, spec, schema


def test_known_values_and_numbers_give_the_same_logits_as_the_run(grown):
    """Numbers are scaled as in the run, though the new ones are larger."""
    run, old, new, spec, schema = grown
    base = spec.base.schema
    assert schema["price"].scaling == base["price"].scaling
    assert schema["rank"].scaling == base["rank"].scaling
    assert schema["item"].vocabulary_size == 2 + 5 + 5
    assert schema["liked"].vocabulary_size == schema["item"].vocabulary_size
    assert set(spec.base.values["user"]) < set(vocabulary.load("user", spec.prepared_dir / "vocabulary"))
    texts = {"user", "item", "ip", "clicks"}
    rows = kinds_rows(500, seed=2)
    rows = rows.with_columns(pl.col(*texts).cast(pl.String))
    rows = rows.filter(pl.col("user").is_in(spec.base.values["user"].implode()) | pl.col("user").is_null())
    logits = []
    for network, own, folder in ((old, base, run), (new, schema, spec.prepared_dir)):
        encoder = RowEncoder(own, spec.fields, folder / "vocabulary")
        logits.append(network(torch.from_numpy(encoder.ids(rows)), torch.from_numpy(encoder.numbers(rows))).fused)
    assert len(rows) > 300
    assert logits[0].std() > 0.1
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-6)


def test_a_dataset_with_and_without_a_base_is_prepared_again(grown):
    *_, spec, schema = grown
    stamp = (spec.prepared_dir / "manifest.json").stat().st_mtime_ns
    prepare(spec)
    assert (spec.prepared_dir / "manifest.json").stat().st_mtime_ns == stamp
    alone = prepare(replace(spec, base=None))
    assert Schema.load(alone)["item"].vocabulary_size == 2 + 5
    assert Schema.load(alone)["price"].scaling != schema["price"].scaling
    assert Schema.load(prepare(spec)) == schema


def test_max_values_keeps_the_most_frequent_values_of_the_new_rows():
    counts = vocabulary.Counts("f")
    counts.add(pl.DataFrame({"f": ["new", "rare", "old"], "count": [5, 1, 1]}, schema_overrides={"count": pl.UInt64}))
    kept = pl.Series(["absent", "gone", "old"])
    assert counts.seen(2, None, kept).rows() == [("absent", 0), ("gone", 0), ("new", 5), ("old", 1)]
    assert counts.seen(2, 3, kept).get_column("f").to_list() == ["absent", "new", "old"]
    assert counts.seen(2).rows() == [("new", 5)]


@pytest.mark.parametrize("frozen", [True, False])
def test_given_vectors_come_from_the_file_and_trained_ones_from_the_run(tmp_path, frozen):
    """Of i3 both have a vector, the new file lacks that of i1, and i99 is new."""
    text = {"name": "text", "kind": "vector", "width": 2, "of": "item", "file": "texts.parquet", "frozen": frozen}
    layout = {"reader": "parquet", **{split: f"{split}.parquet" for split in SPLITS}}

    def dataset(name, items, vectors, base=None):
        (tmp_path / name / "raw").mkdir(parents=True)
        for split in SPLITS:
            rows = pl.DataFrame({"click": [0, 1] * len(items), "item": items * 2})
            rows.write_parquet(tmp_path / name / "raw" / f"{split}.parquet")
        pl.DataFrame({"item": [*vectors], "text": [*vectors.values()]}).write_parquet(
            tmp_path / name / "raw" / "texts.parquet"
        )
        options = {"fields": ["item", text], "layouts": [layout], "min_count": 1, "group": None}
        prepared_dir = tmp_path / name / "prepared"
        spec = make_spec(tmp_path / name / "raw", prepared_dir=prepared_dir, **options)
        prepared = prepare(replace(spec, base=base))
        schema = Schema.load(prepared)
        network = Network(
            schema, FieldEmbedding, 4, SeparateRepresentation, {"simple": encoder, "complex": encoder}, WeightedSum
        )
        load_vectors(network, schema, prepared)
        return spec, prepared, schema, network

    encoder = partial(MLP, hidden_units=[4])
    spec, prepared, schema, network = dataset("old", ["i1", "i2", "i3"], {"i1": [1.0, 1.0], "i3": [3.0, 3.0]})
    tables = [table.vectors_of("text").table_NV for table in network.embeddings()]
    with torch.no_grad():
        for table in tables:
            table += 0.5
    warm = WarmStart(Base(prepared, schema), spec.fields, network.state_dict())
    _, prepared, schema, network = dataset("new", ["i3", "i99"], {"i3": [7.0, 7.0], "i99": [9.0, 9.0]}, warm.base)
    warm.load(network, schema, prepared)
    for table in network.embeddings():
        vectors = table.vectors_of("text")
        assert vectors.given_N.tolist() == [False, True, False, True, True, False]
        assert vectors.table_NV[[1, 3, 4], 0].tolist() == [1.5, 7.0 if frozen else 3.5, 9.0]


def test_init_names_the_run_of_a_checkpoint(tmp_path, run):
    checkpoint = run / "checkpoints" / "best.ckpt"
    with pytest.raises(InputError, match=re.escape(f"{checkpoint} is a file: name the run's folder, init={run}")):
        WarmStart.of_run(checkpoint)
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(InputError, match="name the run's folder, init=RUN"):
        WarmStart.of_run(tmp_path / "a.ckpt")


def test_init_names_what_is_missing(tmp_path, run):
    with pytest.raises(InputError, match="there is no config.yaml"):
        WarmStart.of_run(tmp_path)
    for name in ("config.yaml", "checkpoints"):
        (tmp_path / name).symlink_to(run / name)
    with pytest.raises(InputError, match="user.parquet is missing"):
        WarmStart.of_run(tmp_path)


def test_untrained_runs_measure_as_the_run_they_begin_from(toy, tmp_path):
    """With learning rate 0, in two processes with sharded tables.

    Then on other data with sparse gradients, resumed to the same end, and refused.
    """
    toy = [*toy, "logger=csv", "backbone.complex.batch_norm=false", "backbone.complex.dropout=0"]
    options = {option.partition("=")[0]: option for option in toy}
    first = tmp_path / "first"

    def train(folder, *more, status=0):
        chosen = {**options, **{option.partition("=")[0]: option for option in more}}
        result = run_script("train.py", *chosen.values(), f"hydra.run.dir={folder}")
        assert result.returncode == status, result.stdout + result.stderr
        metrics = folder / "metrics.json"
        return result, {
            name: value
            for name, value in (json.loads(metrics.read_text()) if metrics.exists() else {}).items()
            if name.startswith(("val/", "test/"))
        }

    options.pop("hydra.run.dir")
    _, metrics = train(first, "optimizer.lr=0.01", "trainer.max_epochs=1")
    untrained = [f"init={first}", "optimizer.lr=0", "trainer.max_epochs=1", "loss=bce", "stream.eval_batch_size=100"]
    _, same = train(tmp_path / "sharded", *untrained, "embedding=sharded", "trainer=ddp_cpu")
    assert same == {name: pytest.approx(value, abs=1e-6) for name, value in metrics.items()}
    _, same = train(tmp_path / "dense", *untrained, f"init={tmp_path}/sharded")
    assert same == {name: pytest.approx(value, abs=1e-6) for name, value in metrics.items()}

    for split in SPLITS:  # other users, beside the known ones
        path = tmp_path / "raw" / f"{split}.csv"
        pl.read_csv(path).with_columns(pl.col("user") + 9).write_csv(path)
    rowwise = [f"init={first}", "embedding=rowwise", "calibrate=true"]  # which the first run is not
    whole, _ = train(tmp_path / "whole", *rowwise, "trainer.max_epochs=2")
    assert "Rows of the table" in whole.stdout
    train(tmp_path / "parts", *rowwise, "trainer.max_epochs=1")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    train(tmp_path / "parts", *rowwise, f"ckpt={last}", "trainer.max_epochs=2")
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    state = torch.load(last, weights_only=True)["optimizer_states"][0]["state"][0]
    assert state["step"] == 14  # moments start anew
    refused, _ = train(tmp_path / "other", f"init={first}", "embedding.dim=8", status=2)
    assert "the network differs from the run's" in refused.stderr
    refused, _ = train(tmp_path / "other", f"ckpt={first}/checkpoints/last.ckpt", status=2)
    assert f"init={first} begins a new run" in " ".join(refused.stderr.split())
