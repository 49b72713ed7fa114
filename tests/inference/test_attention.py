from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from conftest import run_script
from tf4ctr.assembly import load_run
from tf4ctr.data import vocabulary
from tf4ctr.data.encoding import value_names
from tf4ctr.data.schema import SEQUENCES, Field, Schema
from tf4ctr.inference import attention
from tf4ctr.inference.attention import by_position, draw_attention, lengths, profiles, shares
from tf4ctr.inference.evaluation import Scores, score
from tf4ctr.inference.examples import evidence, extremes, rows_table
from tf4ctr.models.dfm import Sum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.network import Network
from tf4ctr.models.sequences.attention import TargetAttention
from tf4ctr.models.sequences.interest import InterestEvolution
from tf4ctr.models.sequences.pooling import MeanPooling
from tf4ctr.models.sequences.sdim import HashedAttention
from tf4ctr.models.sequences.transformer import BehaviorTransformer
from tf4ctr.models.ssem import GatingMechanism, MixtureOfExperts, SeparateRepresentation, Shared

WIDTH = 4
SCHEMA = Schema(
    "toy",
    (
        Field("user", 4),
        Field("item", 6),
        Field("history", 6, WIDTH, kind=SEQUENCES, of="item", target="item"),
        Field("gap", 4, WIDTH, kind=SEQUENCES, aligned_with="history"),
        Field("queries", 4, 3, kind=SEQUENCES),
    ),
    "click",
)
USERS, ITEMS, GAPS, QUERIES = ["a", "b"], ["i1", "i2", "i3", "i4"], ["g1", "g2"], ["q1", "q2"]
UNKNOWN = "(out of vocabulary)"


class ByPlace(nn.Module):
    """Weights that depend on the place alone, one number per place."""

    needs_target = False

    def __init__(self, features, width, has_target):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, history_BLE, known_BL, target_BE):
        return (history_BLE * self.weights(history_BLE, known_BL, target_BE).unsqueeze(2)).sum(1)

    def weights(self, history_BLE, known_BL, target_BE):
        return known_BL * self.weight


def build(ssem=Shared, sequence=ByPlace, simple=FM):
    table = partial(FieldEmbedding, sequence=sequence)
    return Network(SCHEMA, table, 4, ssem, {"simple": simple, "complex": partial(MLP, hidden_units=[4])}, Sum).eval()


def draw_rows(rows, seed=0):
    """ids [N, W] of random rows, and the lengths of `history` and `queries`."""
    random = np.random.default_rng(seed)
    past, searched = random.integers(0, WIDTH + 1, rows), random.integers(0, 4, rows)

    def ids(padding, size, width, length):
        values = padding + random.integers(1, size, (rows, width))
        return np.where(np.arange(width) < length[:, None], values, padding)

    one = np.ones(rows, int)
    # the fields' table rows begin at 0, 4, 4 (those of item), 10 and 14
    columns = [ids(0, 4, 1, one), ids(4, 6, 1, one), ids(4, 6, 4, past), ids(10, 4, 4, past), ids(14, 4, 3, searched)]
    return torch.from_numpy(np.concatenate(columns, 1)).int(), past, searched


@pytest.fixture
def folder(tmp_path):
    """A vocabulary/ for SCHEMA."""
    for name, values in (("user", USERS), ("item", ITEMS), ("gap", GAPS), ("queries", QUERIES)):
        vocabulary.save(pl.Series(name, values), tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_lengths_are_the_numbers_of_values():
    ids, past, searched = draw_rows(50)
    for name, expected in (("history", past), ("gap", past), ("queries", searched)):
        assert lengths(ids, SCHEMA, name).tolist() == expected.tolist()


# The shares of the weights


def test_shares_are_the_weights_over_the_sum_of_their_sizes():
    net, (ids, past, searched) = build(), draw_rows(60)
    with torch.no_grad():
        net.ssem.table.histories[1].encoder.weight[0] = 0  # a row with one value has no weight
    found = shares(net, ids)
    assert list(found) == ["history", "queries"]
    for history, length in (("history", past), ("queries", searched)):
        weights = net.ssem.table.histories[["history", "queries"].index(history)].encoder.weight.tolist()
        assert min(weights) < 0
        (share_NL,) = found[history].values()
        for row, n in zip(share_NL.tolist(), length, strict=True):
            total = sum(abs(weight) for weight in weights[:n])
            expected = [abs(weight) / total if total else 0 for weight in weights[:n]] + [0] * (len(weights) - n)
            assert row == pytest.approx(expected, abs=1e-7)
        has_weight = length > (history == "queries")
        np.testing.assert_allclose(share_NL.sum(1), has_weight, atol=1e-9)


@pytest.mark.parametrize(
    ("ssem", "simple", "names"),
    [
        (Shared, FM, [""]),
        (GatingMechanism, FM, [""]),
        (MixtureOfExperts, FM, [""]),
        (SeparateRepresentation, FM, ["simple", "complex"]),
        (SeparateRepresentation, Linear, ["complex"]),
    ],
)
def test_each_table_of_an_encoder_has_its_shares(ssem, simple, names):
    net, (ids, _, _) = build(ssem, simple=simple), draw_rows(20)
    found = shares(net, ids)
    assert list(found["history"]) == list(found["queries"]) == names
    tables = list(net.ssem.tables) if ssem is SeparateRepresentation else [net.ssem.table]
    full = lengths(ids, SCHEMA, "history") == WIDTH
    for table, share_NL in zip(tables, found["history"].values(), strict=True):
        weight = table.histories[0].encoder.weight.detach().abs().double()
        torch.testing.assert_close(share_NL[full], (weight / weight.sum()).expand(int(full.sum()), -1))


def test_there_are_no_shares_without_weights(tmp_path):
    ids, _, _ = draw_rows(20)
    for net in (build(sequence=MeanPooling), build(simple=Linear, sequence=MeanPooling)):
        assert shares(net, ids) == profiles(net, SCHEMA, ids) == {}
    only_linear = Network(SCHEMA, FieldEmbedding, 4, Shared, {"complex": Linear}, Sum)
    assert shares(only_linear, ids) == {}


@pytest.mark.parametrize("sequence", [TargetAttention, InterestEvolution, BehaviorTransformer, HashedAttention])
def test_the_encoders_with_weights_give_shares(sequence):
    schema = Schema("toy", SCHEMA.fields[:4], "click")
    table = partial(FieldEmbedding, sequence=sequence, init_std=1.0)
    net = Network(schema, table, 4, SeparateRepresentation, {"simple": FM, "complex": FM}, Sum).eval()
    ids, past, _ = draw_rows(60)
    for share_NL in shares(net, ids[:, :10])["history"].values():
        assert torch.all(share_NL >= 0)
        assert not share_NL[np.arange(WIDTH) >= past[:, None]].any()
        total_N = share_NL.sum(1)
        if sequence is HashedAttention:  # in some rows no value has the target's hash
            total_N = torch.where(total_N > 0, total_N, torch.from_numpy(past > 0).double())
        np.testing.assert_allclose(total_N, past > 0, atol=1e-6)


def test_batches_give_the_shares_of_all_rows(monkeypatch):
    net, (ids, _, _) = build(SeparateRepresentation), draw_rows(50)
    expected = shares(net, ids)
    monkeypatch.setattr(attention, "BATCH_ROWS", 7)
    for history, of_tables in shares(net, ids).items():
        for table, share_NL in of_tables.items():
            torch.testing.assert_close(share_NL, expected[history][table])


# The listed rows

NAMES = ["(none)", "a", "b", "c", "d", "e", "f", UNKNOWN]


@pytest.mark.parametrize(
    ("row", "share", "expected"),
    [
        ([1, 2, 3, 0], [0.2, 0.5, 0.3, 0.0], "b 0.50, c 0.30, a 0.20"),
        ([1, 2, 1, 2, 7], [0.3, 0.2, 0.1, 0.15, 0.25], "a 0.40, b 0.35, (out of vocabulary) 0.25"),
        ([1, 2, 3, 4, 5, 6], [0.1, 0.11, 0.12, 0.13, 0.14, 0.4], "f 0.40, e 0.14, d 0.13, c 0.12, b 0.11"),
        ([1, 2, 0], [0.996, 0.004, 0.0], "a 1.00"),
        ([2, 1, 3], [0.0, 0.0, 0.0], ""),
        ([0, 0], [0.0, 0.0], ""),
    ],
    ids=["largest first", "a value twice", "at most five", "too small to be shown", "no weight", "empty"],
)
def test_evidence_names_the_values_that_counted_most(row, share, expected):
    assert evidence(row, share, NAMES) == expected


def make_scores(ids):
    logit = torch.linspace(-2, 2, len(ids), dtype=torch.float64)
    return Scores({"fused": logit}, (torch.arange(len(ids)) % 2).float(), None, ids)


def test_listed_rows_have_their_sequences_and_what_counted(folder):
    net, (ids, past, searched) = build(), draw_rows(30, seed=1)
    names = {"history": ["", *ITEMS, UNKNOWN], "gap": ["", *GAPS, UNKNOWN], "queries": ["", *QUERIES, UNKNOWN]}
    columns = {"history": (2, 4, past), "gap": (6, 10, past), "queries": (10, 14, searched)}  # first column, padding
    weights = {
        name: net.ssem.table.histories[["history", "queries"].index(name)].encoder.weight.abs().tolist()
        for name in ("history", "queries")
    }
    for table in extremes(make_scores(ids), SCHEMA, 15, folder, network=net):
        assert table.columns[3:] == [
            *("user", "item", "history", "gap", "queries"),
            *("evidence: history", "evidence: queries"),
        ]
        for row in table.iter_rows(named=True):
            number = row["row"] - 1
            for name, (first, padding, length) in columns.items():
                values = [names[name][ids[number, first + place] - padding] for place in range(length[number])]
                assert row[name] == ", ".join(values)
                if name in weights:
                    total = sum(weights[name][: len(values)])
                    share = {}
                    for value, weight in zip(values, weights[name], strict=False):
                        share[value] = share.get(value, 0) + weight / total
                    found = [text.rsplit(" ", 1) for text in row[f"evidence: {name}"].split(", ") if text]
                    assert {value: float(text) for value, text in found} == pytest.approx(
                        {value: part for value, part in share.items() if part >= 0.005}, abs=0.0051
                    )
                    assert [float(text) for _, text in found] == sorted(
                        (float(text) for _, text in found), reverse=True
                    )


def test_each_encoder_with_a_table_has_its_evidence(folder):
    ids, _, _ = draw_rows(10)
    hardest, _ = extremes(make_scores(ids), SCHEMA, 3, folder, network=build(SeparateRepresentation))
    expected = [f"evidence: {name} ({table})" for name in ("history", "queries") for table in ("simple", "complex")]
    assert hardest.columns[-4:] == expected
    plain, _ = extremes(make_scores(ids), SCHEMA, 3, folder, network=build(sequence=MeanPooling))
    assert plain.equals(hardest[:, :-4])


def test_the_terminal_shows_the_latest_values_of_a_sequence():
    schema = Schema("toy", (Field("title", 5), Field("history", 5, 9, kind=SEQUENCES)), "click")
    rows = pl.DataFrame(
        {"row": [1, 2], "title": ["1, 2, 3, 4, 5, 6", "x"], "history": ["a, b, c, d, e, f, g", "a, b, c, d, e"]}
    )
    table = rows_table("t", rows, ["fused"], schema)
    assert list(table.columns[-1].cells) == [
        "title=1, 2, 3, 4, 5, 6  history=..., c, d, e, f, g",
        "title=x  history=a, b, c, d, e",
    ]


# The picture


def test_a_position_counts_relative_to_the_mean_of_its_row():
    random = np.random.default_rng(3)
    length = random.integers(0, 7, 200)
    share = random.random((200, 6)) * (np.arange(6) < length[:, None])
    share[length == 3] = 0  # rows in which nothing counts
    share /= np.maximum(share.sum(1, keepdims=True), 1e-12)
    points = by_position(torch.from_numpy(share), torch.from_numpy(length))
    assert points.shape == (6, 3)
    for position in range(1, 7):
        counted = [
            share[row, n - position] / (1 / n) for row, n in enumerate(length) if n not in (0, 1, 3) and n >= position
        ]
        expected = [np.percentile(counted, 25), np.mean(counted), np.percentile(counted, 75)]
        assert points[position - 1].tolist() == pytest.approx(expected)


def test_equal_weights_count_1_at_every_position():
    length = torch.arange(9)
    share = (torch.arange(8) < length[:, None]) / length.clamp(min=1)[:, None].double()
    np.testing.assert_allclose(by_position(share, length), np.ones((8, 3)))


def test_positions_of_few_rows_are_left_out():
    length = torch.tensor([2] * 300 + [3] * 3 + [4])  # 304 rows: 4 have a third value, 1 has a fourth
    share = (torch.arange(4) < length[:, None]) / length[:, None].double()
    assert len(by_position(share, length)) == 3
    assert by_position(share[:0], length[:0]).shape == (0, 3)


def test_profiles_are_those_of_rows_with_two_values_from_all_parts_of_the_split(monkeypatch):
    net, (ids, past, _) = build(SeparateRepresentation), draw_rows(2000)
    ids = ids[torch.from_numpy(np.argsort(past, kind="stable"))]  # so the rows' order matters
    found = profiles(net, SCHEMA, ids)
    used = shares(net, ids)
    for history in ("history", "queries"):
        for table in ("simple", "complex"):
            expected = by_position(used[history][table], lengths(ids, SCHEMA, history))
            np.testing.assert_allclose(found[history][table], expected)
    rows = []
    monkeypatch.setattr(attention, "DRAWN_ROWS", 100)
    monkeypatch.setattr(attention, "shares", lambda _, ids: rows.append(ids) or {})
    assert profiles(net, SCHEMA, ids) == {}
    (chosen,) = rows
    assert len(chosen) == 100
    most = torch.stack([lengths(ids, SCHEMA, name) for name in ("history", "queries")]).amax(0)
    most_chosen = torch.stack([lengths(chosen, SCHEMA, name) for name in ("history", "queries")]).amax(0)
    assert int(most_chosen.min()) == 2
    expected = float((lengths(ids, SCHEMA, "history")[most > 1] == WIDTH).double().mean())
    assert float((lengths(chosen, SCHEMA, "history") == WIDTH).double().mean()) == pytest.approx(expected, abs=0.011)
    assert profiles(net, SCHEMA, ids[most < 2]) == {}


def test_the_picture_has_a_panel_per_history_and_a_line_per_table(tmp_path):
    ids, _, _ = draw_rows(200)
    for name, ssem in (("one", Shared), ("two", SeparateRepresentation)):
        draw_attention(profiles(build(ssem), SCHEMA, ids), ["fused", "simple", "complex"], tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# A run


def past_items(folder, width):
    """The last clicked items before each test row, per user in the order of the hours."""
    rows = [row for split in ("train", "valid", "test") for row in pl.read_csv(folder / f"{split}.csv").to_dicts()]
    clicks = sorted((row for row in rows if row["click"]), key=lambda row: row["hour"])
    return [
        [str(one["item"]) for one in clicks if one["user"] == row["user"] and one["hour"] < row["hour"]][-width:]
        for row in rows[-100:]
    ]


def test_the_histories_of_a_run_are_evaluated(toy, tmp_path):
    history = "{name: history, of: item, by: user, order: hour, where: {label: 1}, width: 5}"
    aligned = "{name: gap, gaps: true, aligned_with: history}"
    options = [f"+dataset.histories=[{history},{aligned}]", "sequence=attention", "ssem=shared", "optimizer.lr=0.01"]
    process = run_script("train.py", *toy, *options, "trainer.max_epochs=1", "logger=none")
    assert process.returncode == 0, process.stdout + process.stderr
    process = run_script("evaluate.py", f"run={tmp_path}/run", "by=history_length", "bootstrap=0", "samples=20")
    assert process.returncode == 0, process.stdout + process.stderr
    out = tmp_path / "run" / "evaluation"
    assert (out / "test-attention.png").read_bytes().startswith(b"\x89PNG")
    past = past_items(tmp_path / "raw", 5)
    by_length = pl.read_csv(out / "test-by-history_length.csv", schema_overrides={"value": pl.String})
    counted = dict(by_length.select("value", "rows").iter_rows())
    assert sum(counted.values()) == 100
    for value, rows in counted.items():
        assert rows == sum(int(value[0]) <= len(items) <= int(value[-1]) for items in past)
    network, schema, _ = load_run(tmp_path / "run")
    ids = score(network, schema, tmp_path / "prepared" / "toy", "test", 50).ids
    weights = network.ssem.table.attention(ids)["history"].detach().abs().double()
    names = value_names(schema["item"], tmp_path / "run" / "vocabulary").to_list()
    hardest = pl.read_csv(out / "test-hardest.csv", infer_schema=False)
    for row in hardest.to_dicts():
        number = int(row["row"]) - 1
        expected = [item if item in names else UNKNOWN for item in past[number]]
        assert [item for item in (row["history"] or "").split(", ") if item] == expected
        best = dict.fromkeys(expected, 0.0)
        for item, weight in zip(expected, weights[number].tolist(), strict=False):
            best[item] += weight / float(weights[number].sum())
        found = {text.rsplit(" ", 1)[0]: float(text.rsplit(" ", 1)[1]) for text in _texts(row["evidence: history"])}
        assert found == pytest.approx({item: share for item, share in best.items() if share >= 0.005}, abs=0.0051)


def _texts(cell):
    return cell.split(", ") if cell else []
