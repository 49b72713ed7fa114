import pytest
import torch
from torch import nn

from tf4ctr.data.schema import IDS, NUMBERS, SEQUENCES, VECTORS, Field, Schema
from tf4ctr.inference.evaluation import Scores
from tf4ctr.inference.importance import draw_importance, importance, importance_table, shuffled_columns
from tf4ctr.models.network import Logits

SCHEMA = Schema(
    "toy",
    (
        Field("user", 4),
        Field("likes", 5, 3, kind=SEQUENCES),
        Field("price", 0, kind=NUMBERS),
        Field("tags", 4, 2, kind=IDS),
        Field("ages", 5, 3, kind=SEQUENCES, aligned_with="likes"),
        Field("photo", 0, 2, kind=VECTORS),
        Field("cover", 0, 2, kind=VECTORS, of="user"),
    ),
    "click",
)  # ids: user, tags (2), likes (3), ages (3); numbers: price, photo (2)


def test_the_columns_of_a_field_and_of_a_history_are_together():
    assert shuffled_columns(SCHEMA) == [
        ("user", [0], []),
        ("likes", [3, 4, 5, 6, 7, 8], []),
        ("price", [], [0]),
        ("tags", [1, 2], []),
        ("photo", [], [1, 2]),
    ]


class Planted(nn.Module):
    """A network of two columns: the fused logit is their sum, or whether they are equal."""

    def __init__(self, kind, first, second, equal=False):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))  # has the device
        self.kind, self.first, self.second, self.equal = kind, first, second, equal

    def forward(self, ids_BW, numbers_BN):
        values = (ids_BW if self.kind == "ids" else numbers_BN).float()
        first_B, second_B = values[:, self.first], values[:, self.second]
        fused_B = (first_B == second_B).float() if self.equal else first_B + second_B
        return Logits(fused_B, fused_B, fused_B)


def make_scores(network, rows=2000):
    """Random rows whose label is whether the logit of `network` is above its median."""
    ids, numbers = torch.randint(1, 4, (rows, 9)), torch.rand(rows, 3)
    logit = network(ids, numbers).fused.double()
    return Scores({"fused": logit}, (logit > logit.median()).float(), None, ids, numbers)


@pytest.mark.parametrize(
    ("kind", "first", "second", "planted"),
    [
        ("ids", 0, 0, "user"),
        ("ids", 1, 2, "tags"),
        ("ids", 3, 8, "likes"),
        ("numbers", 0, 0, "price"),
        ("numbers", 1, 2, "photo"),
    ],
)
def test_only_the_planted_field_is_important(kind, first, second, planted):
    network = Planted(kind, first, second)
    table = importance(network, SCHEMA, make_scores(network), 300, None, seed=1)
    losses = dict(table.select("field", "auc_loss").rows())
    assert table["field"][0] == planted
    assert losses.pop(planted) == pytest.approx(0.5, abs=0.05)  # AUC was 1, and is that of chance
    assert set(losses.values()) == {0.0}


def test_the_columns_of_a_field_move_together():
    """A label by what both columns say together: shuffled one by one, all pairs would be there."""
    network = Planted("ids", 1, 2, equal=True)
    scores = make_scores(network)
    equal = scores._replace(ids=scores.ids.clone())
    equal.ids[:, 2] = equal.ids[:, 1]  # in each row, so whatever row they come from
    table = importance(network, SCHEMA, equal, 300, None, seed=1)
    assert set(table["auc_loss"]) == {0.0}


def test_a_part_of_the_rows_with_their_weights_is_enough(tmp_path):
    network = Planted("ids", 0, 0)
    scores = make_scores(network)
    scores = scores._replace(weight=torch.where(scores.ids[:, 0] == 1, 0.0, 1.0))
    tables = [importance(network, SCHEMA, scores, 300, 500, seed) for seed in (1, 1, 2)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert tables[0]["field"][0] == "user"
    assert tables[0]["deviation"][0] > 0
    assert list(importance_table(tables[0]).columns[0].cells) == tables[0]["field"].to_list()
    draw_importance(tables[0], tmp_path / "i.png")
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")
