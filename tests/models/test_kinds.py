"""The table with fields of every kind: lists that are pooled, shared and hashed fields, numbers."""

import pytest
import torch

from tf4ctr.data.schema import NUMBERS, Field, Scaling, Schema
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.inputs import Inputs
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import SeparateRepresentation

SCALING = Scaling("standard", 3.0, 2.0, tuple(float(value) for value in range(257)))


def number(name):
    return Field(name, 0, kind=NUMBERS, scaling=SCALING)


SCHEMA = Schema(
    "toy",
    (
        number("price"),
        Field("item", 5),
        Field("liked", 5, 3, of="item", pooling="mean"),
        Field("seen", 5, 2, of="item", pooling="max"),
        number("age"),
        Field("ip", 7, hashed=True),
        Field("tags", 4, 2),
    ),
    "click",
)
# rows: item 0..4, shared by liked and seen; ip 5..11; tags 12..15
IDS = torch.tensor([[1, 1, 2, 0, 3, 0, 6, 13, 14], [4, 4, 0, 0, 1, 2, 11, 15, 12]], dtype=torch.int32)
VALUES = torch.tensor([[0.5, -1.0], [torch.nan, 2.0]])


def test_shared_fields_own_no_rows():
    assert SCHEMA.num_ids == 16
    assert SCHEMA.paddings == (0, 5, 12)
    assert [SCHEMA.offset_of(name) for name in ("item", "liked", "seen", "ip", "tags")] == [0, 0, 0, 5, 12]
    assert SCHEMA.columns[SCHEMA.ids_of("seen")] == ["seen.0", "seen.1"]


def test_every_field_is_a_row_in_the_order_of_the_schema():
    embedding = FieldEmbedding(SCHEMA, 4, init_std=1.0)
    out, table = embedding(IDS, VALUES), embedding.weight
    assert out.shape == (2, 7, 4)
    numbers = embedding.numbers(VALUES)
    expected = [
        [
            numbers[0, 0],
            table[1],
            (table[1] + table[2]) / 2,
            table[3],
            numbers[0, 1],
            table[6],
            table[13] + table[14],
        ],
        [
            numbers[1, 0],
            table[4],
            table[4],
            torch.maximum(table[1], table[2]),
            numbers[1, 1],
            table[11],
            table[15],
        ],
    ]
    torch.testing.assert_close(out, torch.stack([torch.stack(row) for row in expected]))
    assert torch.isfinite(out).all()


def test_no_gradient_reaches_padding():
    embedding = FieldEmbedding(SCHEMA, 4, init_std=1.0)
    embedding(IDS, VALUES).square().sum().backward()
    assert (embedding.weight.grad[list(SCHEMA.paddings)] == 0).all()


def test_sparse_and_dense_gradients_agree():
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(3)
        embedding = FieldEmbedding(SCHEMA, 4, init_std=1.0, sparse=sparse)
        embedding(IDS, VALUES).square().sum().backward()
        gradient = embedding.weight.grad
        gradients.append(gradient.to_dense() if sparse else gradient)
    torch.testing.assert_close(*gradients)


def test_the_first_order_part_weighs_numbers():
    linear = Linear(SCHEMA, 4)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.normal_()
        linear.weight.weight[list(SCHEMA.paddings)] = 0
    out = linear(None, Inputs(IDS, VALUES))
    table, numbers = linear.weight.weight[:, 0], linear.weight.numbers
    ids = [table[1] + (table[1] + table[2]) / 2 + table[3] + table[6] + table[13] + table[14]]
    value = ids[0] + numbers(VALUES)[0].sum() + linear.bias
    torch.testing.assert_close(out[0], value)
    more = VALUES + torch.tensor([[1.0, 0.0]])
    slope = linear(None, Inputs(IDS, more))[0] - out[0]
    torch.testing.assert_close(linear(None, Inputs(IDS, more + torch.tensor([[1.0, 0.0]])))[0] - out[0], 2 * slope)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_network_takes_every_kind(rows):
    net = Network(
        SCHEMA,
        FieldEmbedding,
        4,
        SeparateRepresentation,
        {"simple": Linear, "complex": lambda schema, dim: MLP(schema, dim, hidden_units=[8], batch_norm=False)},
        WeightedSum,
    )
    logits = net(IDS[:rows], VALUES[:rows])
    assert torch.isfinite(logits.fused).all()
    logits.fused.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters() if parameter.grad is not None)
    everything_missing = net(IDS[:rows], torch.full((rows, 2), torch.nan))
    assert torch.isfinite(everything_missing.fused).all()
