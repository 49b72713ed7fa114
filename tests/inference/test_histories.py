"""Prediction, exports and HTTP of datasets with histories and other sequences."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

import tf4ctr
from conftest import ROOT
from tf4ctr import __version__
from tf4ctr.assembly import build, build_network, load_run
from tf4ctr.data import encoding
from tf4ctr.data.preparation import prepare
from tf4ctr.data.schema import SEQUENCES, Field, Schema
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS
from tf4ctr.data.transforms import moment
from tf4ctr.errors import InputError
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.inference import exporting
from tf4ctr.inference.evaluation import score
from tf4ctr.inference.exporting import Probability, export, load_safetensors, random_ids, random_inputs
from tf4ctr.inference.findings import Findings, unknown_table, unknown_warnings
from tf4ctr.inference.input_rows import open_rows, own_columns, prepared_values, raw_columns, raw_files
from tf4ctr.inference.prediction import predict
from tf4ctr.inference.request_rows import _moment, cell_type, example_row, request_columns, row_type
from tf4ctr.inference.serving import ServedModel, create_app
from tf4ctr.models.embedding import FieldEmbedding

WIDTH = 5  # of all sequences: no user has more events
PARTS = ("dataset", "embedding", "number", "sequence", "backbone", "ssem", "dfm", "loss", "stream")
FIELDS = [
    "item",
    "category",
    {"name": "age", "kind": "number"},
    {"name": "seen", "kind": "sequence", "of": "item", "width": WIDTH, "separator": "|"},
    {"name": "places", "kind": "sequence", "aligned_with": "seen", "width": WIDTH, "separator": "|"},
]
HISTORIES = [
    {"name": "history", "of": "item", "by": "user", "order": "time", "where": {"label": 1}, "width": WIDTH},
    {"name": "history_category", "of": "category", "aligned_with": "history"},
    {"name": "history_gap", "gaps": True, "aligned_with": "history"},
]
ENCODERS = sorted(path.stem for path in (ROOT / "conf" / "sequence").glob("*.yaml"))
WRITERS = {
    ".csv": lambda rows, path: as_csv(rows).write_csv(path),
    ".parquet": pl.DataFrame.write_parquet,
    ".ndjson": pl.DataFrame.write_ndjson,
    ".arrow": pl.DataFrame.write_ipc,
}


def log_rows(count=200):
    """A log of 40 users with 5 rows each; some items are too rare to be known."""
    random = np.random.default_rng(0)

    def lists(lengths, letters):
        return [random.choice(list(letters), length).tolist() for length in lengths]

    lengths = random.integers(0, 7, count)
    return pl.DataFrame(
        {
            "click": random.integers(0, 2, count),
            "user": random.permutation(count) % 40,
            "item": (random.zipf(1.5, count) % 60).astype(str),
            "category": random.choice(list("abcd"), count),
            "age": random.integers(18, 80, count),
            "time": random.integers(0, 5_000, count) // 9 * 9,
            "seen": [[f"{ord(letter) - 95}" for letter in row] for row in lists(lengths, "abcdefg")],
            "places": lists(lengths, "xyz"),
        }
    )


def as_csv(rows):
    """The rows with their lists as text."""
    lists = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.List)]
    texts = pl.element().cast(pl.String).fill_null("")
    return rows.with_columns(pl.col(name).list.eval(texts).list.join("|") for name in lists)


LOG = log_rows()


def past(user, moment=None):
    """The history of a user as the input has it: items, categories and times since the events."""
    events = LOG.filter(pl.col("click") == 1, user=user).sort("time", maintain_order=True).to_dicts()
    events = [event for event in events if moment is None or event["time"] < moment]
    gaps = None if moment is None else [moment - event["time"] for event in events]
    return {
        "history": [event["item"] for event in events],
        "history_category": [event["category"] for event in events],
        "history_gap": gaps,
    }


@pytest.fixture(autouse=True, scope="module")
def _few_calls():
    """The latency of an export is not of interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "LATENCY", {1: 3})
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of the prepared log, with its raw file in raw/ beside it."""
    folder = tmp_path_factory.mktemp("histories")
    (folder / "raw").mkdir()
    as_csv(LOG).write_csv(folder / "raw" / "log.csv")
    return prepare(DatasetSpec.from_config(dataset(folder)))


def dataset(folder):
    return {
        "name": "log",
        "raw_dir": str(folder / "raw"),
        "prepared_dir": str(folder / "prepared"),
        "fields": FIELDS,
        "histories": HISTORIES,
        "label": "click",
        "min_count": 2,
        "layouts": [{"reader": "csv", "all": "log.csv"}],
        "split": {"by": "time", "valid": 0.2, "test": 0.2},
    }


@pytest.fixture(scope="module")
def run_with(prepared, tmp_path_factory):
    """`run_with(encoder)` is the folder of a run with random weights (read only)."""
    runs = {}

    def run(encoder):
        if encoder not in runs:
            runs[encoder] = write_run(tmp_path_factory.mktemp(encoder), prepared, encoder)
        return runs[encoder]

    return run


def write_run(folder, prepared, encoder):
    register_resolvers()
    overrides = ["dataset=frappe", f"sequence={encoder}", "embedding.dim=4", "backbone=fm", "framework=plain"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides)
    config = OmegaConf.to_container(OmegaConf.masked_copy(config, PARTS), resolve=True)
    config = OmegaConf.create({**config, "dataset": dataset(prepared.parent)})
    schema = Schema.load(prepared)
    torch.manual_seed(0)
    network = build_network(config, schema)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(config, folder / "config.yaml")
    encoding.keep(prepared, folder)
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint = {"schema": schema.to_dict(), "state_dict": weights, "tf4ctr": __version__}
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def run(run_with):
    return run_with("attention")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(run, "onnx", tmp_path_factory.mktemp("served") / "onnx").folder


@pytest.fixture(scope="module")
def client(exported):
    with TestClient(create_app(ServedModel(exported))) as client:
        yield client


def predicted(run, rows, path):
    """The probabilities that `predict` writes for rows in a file of some format, and its result."""
    WRITERS[path.suffix](rows, path)
    result = predict(run, path, path.with_suffix(".out.parquet"))
    return pl.read_parquet(path.with_suffix(".out.parquet"))["p"].to_list(), result


NEW = LOG.drop("click", "user", "time")[:12]  # without what histories are made of
OPTIONAL = ["user", "time", "history", "history_category", "history_gap"]
EMPTY = 5  # a row with an empty history of a user who has one


def mixed_rows():
    """Rows with joined and given histories, of known and unknown users, and unseen values."""
    given = [past(user) for user in range(4)]
    odd = [{"history": ["never seen", None], "history_category": ["a", "never"], "history_gap": [None, 1e12]}]
    odd += [{"history": [], "history_category": [], "history_gap": []}] * 2
    histories = [*given, *odd, *[dict.fromkeys(given[0])] * 5]
    rows = NEW.with_columns(
        user=pl.Series([0, None, 2, 3, 4, 5, None, 7, 8, 9, 999, None]),
        time=pl.Series([None, None, 10, None, None, 50, None, 2_500, None, 4_999, 4_000, None]),
        **{name: pl.Series([history[name] for history in histories], strict=False) for name in histories[0]},
    )
    unseen = [["never", None, "2"], ["2"] * 7, None, []]
    return rows.with_columns(
        seen=pl.Series([*unseen, *rows["seen"][4:]]),
        places=pl.Series([["x", "never", None], ["y"] * 7, None, [], *rows["places"][4:]]),
        item=pl.Series(["never", None, *rows["item"][2:]]),
    )


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_history_of_the_input_gives_the_probabilities_of_the_joined_one(run, tmp_path, suffix):
    rows = LOG.drop("click", "time").unique("user", maintain_order=True)
    given = pl.DataFrame([past(user) for user in rows["user"]]).drop("history_gap")
    assert given["history"].list.len().min() == 0
    joined, result = predicted(run, rows, tmp_path / f"user{suffix}")
    assert [times.field for times in result.findings[0].unknown_times] == ["history_gap"]
    both = pl.concat([rows.with_columns(user=-1), given], how="horizontal")
    if suffix == ".csv":  # there an empty history is null
        both = both.with_columns(pl.lit("").alias("user"))
    assert predicted(run, both, tmp_path / f"both{suffix}")[0] == joined
    assert predicted(run, both.drop("user"), tmp_path / f"given{suffix}")[0] == joined


@pytest.mark.filterwarnings("ignore:.*all its times are unknown")
def test_a_frame_has_the_histories_of_a_file(run, tmp_path):
    model = tf4ctr.load(run)
    for number, rows in enumerate((mixed_rows(), LOG.drop("time"), LOG.with_columns(time=2_500))):
        assert model.predict(rows).to_list() == predicted(run, rows, tmp_path / f"{number}.parquet")[0]
    empty = pl.lit([], pl.List(pl.String))
    given = model.predict(LOG.with_columns(history=empty, history_category=empty))
    assert not given.equals(model.predict(LOG))
    assert model.embedding("history")["value"].equals(model.embedding("item")["value"])


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_row_with_a_moment_gets_the_events_before_it(run, tmp_path, suffix):
    rows = LOG.drop("click").unique("user", maintain_order=True).with_columns(time=pl.lit(2_500))
    given = pl.DataFrame([past(user, 2_500) for user in rows["user"]])
    joined, result = predicted(run, rows, tmp_path / f"joined{suffix}")
    assert result.findings[0].unknown_times == []
    assert joined != predicted(run, rows.with_columns(time=pl.lit(5_001)), tmp_path / f"all{suffix}")[0]
    both = pl.concat([rows.drop("user", "time"), given], how="horizontal")
    assert predicted(run, both, tmp_path / f"given{suffix}")[0] == joined
    dates = pl.lit("1970-01-01T02:41:40.7+02:00")
    assert predicted(run, rows.with_columns(time=dates), tmp_path / f"dates{suffix}")[0] == joined


def test_the_rows_of_the_test_split_get_the_probabilities_of_the_evaluation(run, prepared, tmp_path):
    """The state has all events: no user has more than a history holds."""
    assert max(len(past(user)["history"]) for user in range(40)) <= WIDTH
    network, schema, _ = load_run(run)
    expected = torch.sigmoid(score(network, schema, prepared, "test", 64).logits["fused"]).numpy()
    first = json.loads((prepared / "manifest.json").read_text())["moments"][1]
    rows = LOG.filter(pl.col("time") >= first)
    assert len(rows) == len(expected) > 30
    for suffix in WRITERS:
        p, result = predicted(run, rows, tmp_path / f"test{suffix}")
        np.testing.assert_allclose(p, expected, atol=1e-6)
        assert result.findings[0].empty_histories == result.findings[0].all_unknown == []


def test_prediction_onnx_and_http_agree(run, exported, client, tmp_path):
    rows = mixed_rows()
    expected, result = predicted(run, rows, tmp_path / "rows.parquet")
    assert len({*expected}) == len(rows)
    for suffix in WRITERS:  # an empty cell of csv is null: the history is joined
        places = [number for number in range(len(rows)) if suffix != ".csv" or number != EMPTY]
        p, again = predicted(run, rows[places], tmp_path / f"again{suffix}")
        np.testing.assert_allclose(p, np.array(expected)[places], atol=1e-6)
        assert suffix == ".csv" or again.findings[0].out_of_vocabulary == result.findings[0].out_of_vocabulary

    model = ServedModel(exported)
    assert model.encoder.columns == ["item", "category", "age", "seen", "places"]
    assert model.encoder.optional == OPTIONAL
    texts = rows.with_columns(pl.col("user").cast(pl.String), pl.col("history_gap").cast(pl.List(pl.String)))
    for place in (slice(0, 12), slice(4, 5), slice(EMPTY, EMPTY + 1), slice(10, 12)):
        np.testing.assert_allclose(model(texts[place]).p, expected[place], atol=1e-6)

    bodies = [
        rows.to_dicts(),
        [
            {name: value for name, value in row.items() if value is not None or name not in OPTIONAL}
            for row in rows.to_dicts()
        ],
        [
            row if number == EMPTY else {name: value or None for name, value in row.items()}
            for number, row in enumerate(as_csv(rows).to_dicts())
        ],
    ]
    for body in bodies:
        p = client.post("/predict", json={"rows": body}).json()["p"]
        np.testing.assert_allclose(p, expected, atol=1e-6)


def test_users_and_moments_are_found_in_whatever_form_they_are_written(run, tmp_path):
    rows = NEW.with_columns(user=pl.Series(range(12)), time=pl.lit(2_500))
    expected, _ = predicted(run, rows, tmp_path / "integers.parquet")
    for name, types in {
        "floats.parquet": {"user": pl.Float64, "time": pl.Float32},
        "floats.csv": {"user": pl.Float64, "time": pl.Float64},
        "texts.arrow": {"user": pl.String, "time": pl.String},
        "dates.parquet": {"time": pl.Datetime("ms", "UTC")},
    }.items():
        moments = rows.with_columns(time=pl.col("time") * (1000 if name == "dates.parquet" else 1))
        p = predicted(run, moments.cast(types), tmp_path / name)[0]
        np.testing.assert_allclose(p, expected, atol=1e-6)


@pytest.mark.parametrize("suffix", WRITERS)
def test_bad_histories_and_moments_are_bad_rows_with_line_and_reason(run, tmp_path, suffix):
    misaligned = "column '{}' has another number of values than '{}', to which it is aligned"
    texts = pl.List(pl.String)
    changes = {
        2: {"time": "later"},
        3: {"history": ["1"]},
        4: {"history": None},
        5: {"history_gap": ["1", "x"]},
        6: {"history_gap": ["1"]},
        7: {"seen": ["1", "2"]},
        8: {"history_gap": None, "time": None},
    }
    base = {"user": "3", "time": "1970-01-01", "history": ["1", "2"], "history_category": ["a", "b"]}
    base |= {"history_gap": ["1", None], "seen": ["1"], "places": ["x"], "item": "1", "category": "a", "age": 30}
    rows = [{**base, **changes.get(number, {})} for number in range(10)]
    lists = dict.fromkeys(("history", "history_category", "history_gap", "seen", "places"), texts)
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](pl.DataFrame(rows, schema_overrides=lists), path)
    first = 2 if suffix == ".csv" else 1
    unit = "line" if suffix in (".csv", ".ndjson") else "row"
    with pytest.raises(InputError, match=f"{unit} {2 + first}: column 'time' is 'later', expected a number or an ISO"):
        predict(run, path, tmp_path / "scores.parquet")
    result = predict(run, path, tmp_path / "scores.parquet", bad_rows="skip")
    assert (result.rows, result.set_aside) == (4, 6)
    bad = pl.read_csv(tmp_path / "scores.parquet.bad.csv")
    assert bad["line"].to_list() == [number + first for number in range(2, 8)]
    gaps = "1|x" if suffix == ".csv" else "[1, x]"
    assert bad["reason"].to_list() == [
        "column 'time' is 'later', expected a number or an ISO date",
        misaligned.format("history_category", "history"),
        misaligned.format("history_category", "history"),
        f"column 'history_gap' is '{gaps}', expected numbers",
        misaligned.format("history_gap", "history"),
        misaligned.format("places", "seen"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"history": ["1"]}, "have column 'history' of the history 'history', but not 'history_category': give"),
        ({"user": 1, "history_gap": [1]}, "'history_gap' of the history .* but not 'history', 'history_category'"),
        ({}, "'history' needs column 'user', whose history is kept, or .* in column 'history', 'history_category'"),
        ({"user": [1]}, "its column 'user' is a list, expected one value per row"),
        ({"user": 1, "time": [1]}, "its column 'time' is a list"),
        ({"user": 1, "time": {"at": 1}}, "column 'time' is Struct"),
    ],
)
def test_columns_from_which_no_history_can_be_made_are_refused_before_scoring(run, tmp_path, columns, message):
    rows = NEW.head(1).with_columns(**{name: pl.Series([value]) for name, value in columns.items()})
    rows.write_parquet(tmp_path / "new.parquet")
    with pytest.raises(InputError, match=message):
        predict(run, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


def test_ndjson_whose_first_lines_have_no_history(run, tmp_path):
    """A key is read as it is in all lines; keys of objects too."""
    rows = NEW.head(1).select(pl.all().repeat_by(1_200).explode()).with_columns(user=pl.lit(3))
    lines = [{**row, "places": row["seen"]} for row in rows.to_dicts()]
    lines[-1] |= {name: value for name, value in past(5).items() if value}
    (tmp_path / "new.ndjson").write_text("\n".join(map(json.dumps, lines)))
    predict(run, tmp_path / "new.ndjson", tmp_path / "scores.parquet")
    p = pl.read_parquet(tmp_path / "scores.parquet")["p"]
    assert p[:-1].n_unique() == 1
    assert p[0] != p[-1]
    assert predicted(run, pl.DataFrame([{**lines[0], "user": 5}]), tmp_path / "one.parquet")[0] == [p[-1]]


def test_unknown_values_of_a_sequence_are_counted_among_its_values(run, tmp_path):
    rows = NEW.head(4).with_columns(
        seen=pl.Series([["never", None, "2"], ["2"], [], None]),
        places=pl.Series([["x", "x", "x"], ["x"], [], None]),
        history=pl.Series([["1", "never"], [], [], []]),
        history_category=pl.Series([["a", "b"], [], [], []]),
    )
    _, result = predicted(run, rows, tmp_path / "new.parquet")
    shares = {
        name: result.findings[0].out_of_vocabulary[name] for name in ("seen", "places", "history", "history_category")
    }
    assert shares == {"seen": 0.5, "places": 0.0, "history": 0.5, "history_category": 0.0}
    assert [*result.findings[0].out_of_vocabulary] == ["item", "category", *shares, "history_gap"]
    assert "50.00%" in str(list(unknown_table(result.findings[0]).columns[1].cells))
    assert result.findings[0].all_unknown == result.findings[0].empty_histories == []
    assert result.findings[0].missing == {"age": 0.0}


def test_sequences_without_a_known_value_are_reported(run, tmp_path):
    """An empty sequence is not unknown, and a joined history has the values of the log."""
    rows = NEW.head(4).with_columns(
        seen=pl.Series([["s1", "s2"], ["s2"], [], []]), places=pl.Series([["x", "x"], ["x"], [], []])
    )
    own = {"history": [["i1"], [], None, None], "history_category": [["a"], [], None, None]}
    given = rows.with_columns(user=pl.lit("3"), **{name: pl.Series(value) for name, value in own.items()})
    _, result = predicted(run, given, tmp_path / "given.parquet")
    assert [unknown.field for unknown in result.findings[0].all_unknown] == ["seen", "history"]
    assert [sorted(unknown.values) for unknown in result.findings[0].all_unknown] == [["s1", "s2"], ["i1"]]
    assert result.findings[0].all_unknown[0].known == result.findings[0].all_unknown[1].known
    _, result = predicted(run, rows.with_columns(user=pl.lit("3")), tmp_path / "joined.parquet")
    assert [unknown.field for unknown in result.findings[0].all_unknown] == ["seen"]


def test_users_who_have_no_history_are_reported(run, tmp_path):
    rows = NEW.with_columns(user=pl.Series([None, *["nobody"] * 11]))
    _, result = predicted(run, rows, tmp_path / "new.parquet")
    assert result.findings[0].empty_histories == [("history", "user", ["nobody"], ["0", "1"])]
    assert result.findings[0].all_unknown == result.findings[0].unknown_times == []
    _, early = predicted(run, NEW.with_columns(user=pl.lit(1), time=pl.lit(-1)), tmp_path / "early.parquet")
    assert [empty.users for empty in early.findings[0].empty_histories] == [["1"]]
    _, found = predicted(run, rows.with_columns(user=pl.Series([*["nobody"] * 11, "1"])), tmp_path / "found.parquet")
    assert found.findings[0].empty_histories == []
    assert [times.column for times in found.findings[0].unknown_times] == ["time"]
    assert unknown_warnings(
        Findings({}, [], {}, [], result.findings[0].empty_histories, found.findings[0].unknown_times)
    ) == [
        "history 'history': it is empty in all rows that have a user. The input has 'nobody' in column 'user';"
        " histories are kept of '0', '1'. Check that both write the users in the same form, and that the rows are not"
        " before all events",
        "field 'history_gap': all its times are unknown, and training has seen few of these or none. Give the rows"
        " their moments in column 'time', or times in column 'history_gap'",
    ]


TOY = Schema(
    "toy",
    (
        Field("history", 9, WIDTH, SEQUENCES, of="item", target="item"),
        Field("item", 9),
        Field("category", 6),
        Field("history_category", 6, WIDTH, SEQUENCES, of="category", aligned_with="history", target="category"),
        Field("history_gap", 66, WIDTH, SEQUENCES, aligned_with="history", gaps=True),
        Field("seen", 7, 3, SEQUENCES, target="item"),
    ),
    "click",
)


def test_random_histories_are_values_and_then_padding():
    ids = random_ids(TOY, 2_000, 0)
    lengths = {}
    for field in TOY.sequence_fields:
        own = ids[:, TOY.ids_of(field.name)] - TOY.offset_of(field.name)
        lengths[field.name] = (own > 0).sum(1)
        for row, length in zip(own, lengths[field.name], strict=True):
            assert (row[:length] > 0).all()
            assert (row[length:] == 0).all()
        assert {*own.flat} == {*range(field.vocabulary_size)}
    shares = np.bincount(lengths["history"]) / 2_000
    np.testing.assert_allclose(shares, [0.1, *[0.9 / WIDTH] * WIDTH], atol=0.03)
    for name in ("history_category", "history_gap"):
        np.testing.assert_array_equal(lengths[name], lengths["history"])
    assert (lengths["seen"] != np.minimum(lengths["history"], 3)).any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_can_be_exported(tmp_path, encoder):
    """Histories of all lengths, in any batch."""
    sequence = build(OmegaConf.load(ROOT / "conf" / "sequence" / f"{encoder}.yaml"))
    schema = Schema("toy", TOY.fields[:-1], "click")
    model = FieldEmbedding(schema, 4, sequence=sequence).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    ids = random_ids(schema, 300, 0)
    empty = int(np.flatnonzero(ids[:, schema.ids_of("history")][:, 0] == schema.offset_of("history"))[0])
    session = exporting._to_onnx(model, {"ids": torch.from_numpy(ids[:64])}, tmp_path)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).numpy()
    for place in (slice(0, 300), slice(empty, empty + 1), slice(0, 1)):
        np.testing.assert_allclose(session(ids[place]), expected[place], rtol=1e-4, atol=1e-6)


def test_the_other_exports_take_histories_too(run, tmp_path):
    network, schema, _ = load_run(run)
    inputs = [torch.from_numpy(part) for part in random_inputs(schema, 37, 5).values()]
    with torch.inference_mode():
        expected = torch.sigmoid(network(*inputs).fused)
        for form in ("torch_export", "safetensors"):
            assert export(run, form, tmp_path / form).difference <= 1e-6
            assert (tmp_path / form / "histories" / "history.parquet").exists()
        torch.testing.assert_close(
            torch.export.load(tmp_path / "torch_export" / "model.pt2").module()(*inputs), expected
        )
        torch.testing.assert_close(Probability(load_safetensors(tmp_path / "safetensors"))(*inputs), expected)


ROW = {"item": "1", "category": "a", "age": 30, "seen": ["1"], "places": ["x"]}
PAST = {"history": ["1", "2"], "history_category": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"time": "noon"}, "time", "expected a number, an ISO date or null, found 'noon'"),
        ({"time": "nan"}, "time", "found 'nan'"),
        ({"time": float("inf")}, "time", "found 'inf'"),
        ({"time": True}, "time", "found 'true'"),
        ({"time": [1]}, "time", "found a list"),
        ({"user": ["1"]}, "user", "found a list"),
        ({"history": [["1"]], "history_category": ["a"]}, "history", "found a list"),
        ({"history": {"1": 2}, "history_category": ["a"]}, "history", "found an object"),
        ({"history": ["1", "2"]}, "history_category", "expected 2 values, as many as 'history' has, found 0"),
        ({"user": "1", "history_category": ["a"]}, "history_category", "expected 0 values, as many as 'history' has"),
        ({"history": "1|2|3", "history_category": "a|b"}, "history_category", "expected 3 values"),
        ({**PAST, "history_gap": [1]}, "history_gap", "expected 2 values, as many as 'history' has, found 1"),
        ({**PAST, "history_gap": []}, "history_gap", "found 0"),
        ({**PAST, "history_gap": [1, "x"]}, "history_gap", "expected a finite number, its text or null, found 'x'"),
        ({**PAST, "history_gap": "1|x"}, "history_gap", "found 'x'"),
        ({**PAST, "history_gap": [1, [2]]}, "history_gap", "found a list"),
        ({"seen": ["1", "2"]}, "places", "expected 2 values, as many as 'seen' has, found 1"),
        ({"histroy": ["1"]}, "histroy", "Extra inputs are not permitted"),
    ],
)
def test_an_invalid_row_is_422_with_the_fields_name(client, change, field, message):
    content = json.dumps({"rows": [ROW, {**ROW, **change}]})
    answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", "rows", 1, field]
    assert message in fault["msg"]


def test_values_of_a_request_that_mean_the_same(client):
    unknown = {"history_gap": [None, None]}
    for rows in (
        [
            {},
            {"user": None},
            {"user": "nobody"},
            {"time": 5},
            {"history": [], "history_category": None},
            {"user": 3, "history": "", "history_category": []},
        ],
        [
            {"user": user, "time": time}
            for user in (3, 3.0, "3", "3.0")
            for time in (2_500, "2500", "2.5e3", "1970-01-01T00:41:40", "1970-01-01 00:41:40.5Z")
        ],
        [
            PAST,
            {**PAST, "user": 3, "time": 9},
            {**PAST, **unknown},
            {"history": "1|2", "history_category": "a|b", "history_gap": "|"},
        ],
        [{**PAST, "history_gap": gaps} for gaps in ([3, 7], [3.0, "7"], "3|7", "6.9|8e0", [-1 + 4, 14])],
        [{"user": 3}, {"user": 3, "time": None, "history": None}, {"user": 3, "time": float("nan")}],
    ):
        content = json.dumps({"rows": [{**ROW, **row} for row in rows]})
        answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        assert len({*answer.json()["p"]}) == 1, (rows, answer.json()["p"])


def test_the_example_row_can_be_sent_and_is_in_the_docs(exported, client):
    row = example_row(ServedModel(exported).encoder)
    assert {*row} == {*ROW, *OPTIONAL}
    assert [len(row[name]) for name in ("history", "history_category", "history_gap", "seen", "places")] == [1] * 5
    assert (row["user"], row["time"]) == ("0", LOG.filter(click=1)["time"].max())
    joined = {name: value for name, value in row.items() if not name.startswith("history")}
    for some in (row, joined):
        assert client.post("/predict", json={"rows": [some]}).status_code == 200
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Row"]
    assert {*schema["required"]} == {*ROW}
    assert {name: value["examples"] for name, value in schema["properties"].items()} == {
        name: [value] for name, value in row.items()
    }


def test_unknown_values_and_values_of_sequences_are_counted(exported):
    with TestClient(create_app(ServedModel(exported))) as client:
        rows = [{**ROW, **PAST, "history": ["1", "never"]}, {**ROW, "history": [], "history_category": []}]
        client.post("/predict", json={"rows": rows})
        metrics = client.get("/metrics").text
    assert 'tf4ctr_out_of_vocabulary_total{column="history"} 1.0' in metrics
    assert 'tf4ctr_out_of_vocabulary_total{column="history_gap"} 2.0' in metrics
    assert 'tf4ctr_sequence_values_total{column="history"} 2.0' in metrics
    assert 'tf4ctr_sequence_values_total{column="item"}' not in metrics


MOMENTS = ["5", "-1.5e3", "2020-01-05", "2020-1-5", "2020-01-05 1:02", "2020-01-05T10:02", "2020-01-05 10:02:03"]
MOMENTS += ["2020-01-05T10:02:03.5+02:00", "2020-01-05 10:02:03 UTC", "0.5", ".5", "1969-12-31"]
NO_MOMENTS = [
    "",
    "noon",
    "inf",
    "nan",
    "-NaN",
    "2020-02-30",
    "2020-01-05 10:02:03 and more",
    "2020-01-05 24:00",
    "2020-01-05T",
    "2020-01-05T10:02Z",
    "1_0",
]


def test_a_moment_has_the_texts_that_preparation_reads():
    texts = [*MOMENTS, *NO_MOMENTS]
    numbers = pl.DataFrame({"x": texts}).select(moment(pl.col("x"))).to_series().to_list()
    assert [_moment(text) for text in MOMENTS] == numbers[: len(MOMENTS)]
    assert numbers[len(MOMENTS) :] == [None] * len(NO_MOMENTS)
    for text in NO_MOMENTS:
        with pytest.raises(ValueError, match="expected a number, an ISO date or null"):
            _moment(text)


def encoder_of(folder, log, fields, **history):
    """The dataset of a log with a history of its items, and its encoder."""
    (folder / "raw").mkdir()
    log.write_ndjson(folder / "raw" / "log.ndjson")
    options = {"by": "user", "order": "time", "of": "item", "width": WIDTH, **history}
    layouts = [{"reader": "ndjson", "all": "log.ndjson"}]
    more = {"fields": fields, "histories": [{"name": "history", **options}], "layouts": layouts, "split": None}
    spec = DatasetSpec.from_config({**dataset(folder), "min_count": 1, **more})
    return spec, encoding.RowEncoder(Schema.load(prepare(spec)), spec.fields, folder / "prepared" / "vocabulary")


def test_columns_that_fields_and_histories_share(tmp_path):
    """The user is a number and an id too, the moment a number and a text; every item is known."""
    log = LOG.select("click", "user", "item").with_columns(time=pl.Series([14102100 + n % 24 for n in range(200)]))
    fields = [
        "user",
        {"name": "cohort", "column": "user", "kind": "number", "scale": "none"},
        {"name": "item", "hash": 50},
        {"name": "moment", "column": "time", "kind": "number", "scale": "none"},
        {"name": "hour", "column": "time", "transform": "hour_of_day"},
    ]
    _, encoder = encoder_of(tmp_path, log, fields)
    assert (encoder.columns, encoder.optional) == (["user", "item", "time"], ["history"])
    row, dtypes = row_type(encoder), {name: cell_type(name, encoder) for name in request_columns(encoder)}
    assert example_row(encoder) == {"user": "0", "item": "1", "time": "14102100", "history": ["1"]}

    def encoded(*rows):
        cells = [list(vars(row.model_validate(one)).values()) for one in rows]
        frame = pl.DataFrame(cells, schema=dtypes, orient="row")
        return encoder.ids(frame), encoder.numbers(frame)

    events = log.filter(pl.col("time") < 14102112, user=3).sort("time", maintain_order=True)["item"].to_list()
    some = {"item": "1", "time": 14102112}
    ids, numbers = encoded({**some, "user": 3}, {**some, "user": "3.0"}, {**some, "user": 3, "history": events})
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2])
    assert (ids[0, encoder.schema.ids_of("history")] != encoder.schema.offset_of("history")).any()
    assert numbers.tolist() == [[3, 14102112]] * 3
    for change in ({"user": "u3"}, {"time": "2014-10-21"}, {"time": "now"}, {"time": 14102124}):
        with pytest.raises(ValidationError):
            row.model_validate({**some, "user": 3, **change})


def test_users_and_moments_that_are_keys_of_objects(tmp_path):
    log = LOG.select("click", "item", who=pl.struct(id="user"), at=pl.struct("time"))
    spec, encoder = encoder_of(tmp_path, log, ["item"], by="who.id", order="at.time")
    log.drop("click").write_ndjson(tmp_path / "new.ndjson")
    rows = open_rows(spec, raw_files(spec, tmp_path / "new.ndjson"), encoder).collect()
    assert raw_columns(encoder, rows.columns) == ["item", "who.id", "at.time"]
    assert rows.select(own_columns(rows.columns)).equals(log.drop("click"))
    values = rows.select(prepared_values(spec, rows.schema, raw_columns(encoder, rows.columns)))
    expected = pl.concat([pl.read_parquet(tmp_path / "prepared" / f"{split}.parquet") for split in SPLITS])
    assert sorted(encoder.ids(values).tolist()) == sorted(map(list, expected.select(encoder.schema.columns).rows()))
