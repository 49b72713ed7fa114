import pytest
import torch
from torch import nn

from conftest import draw_ids
from tf4ctr.data.schema import Field, Schema
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.rows import put_rows, take_rows


def test_one_gather_equals_a_table_for_each_field(schema):
    embedding = FieldEmbedding(schema, 4, init_std=1.0)
    ids = draw_ids(schema, 20)
    out = embedding(ids)
    assert out.shape == (20, 3, 4)
    for column, (offset, field) in enumerate(zip(schema.offsets, schema.fields, strict=True)):
        table = embedding.weight[offset : offset + field.vocabulary_size]
        assert torch.equal(out[:, column], table[(ids[:, column] - offset).long()])


def test_padding_rows_are_zero_and_stay_zero_in_training(schema):
    embedding = FieldEmbedding(schema, 4, init_std=1.0)
    before = embedding.weight.detach().clone()
    optimizer = torch.optim.Adam(embedding.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        embedding(draw_ids(schema, 50)).square().sum().backward()
        optimizer.step()
    padding = torch.zeros(len(before), dtype=torch.bool)
    padding[list(schema.offsets)] = True
    assert torch.all(embedding.weight[padding] == 0)
    assert torch.all(embedding.weight[~padding] != before[~padding])


def test_initial_spread(schema):
    weight = FieldEmbedding(schema, 2000, init_std=1e-4).weight
    rows = [row for row in range(schema.num_ids) if row not in schema.offsets]
    assert abs(float(weight[rows].std()) / 1e-4 - 1) < 0.03


def test_a_list_field_is_the_sum_of_its_values_and_padding_stays_zero():
    schema = Schema("toy", (Field("user", 4), Field("tags", 5, width=3), Field("hour", 3)), "click")
    embedding = FieldEmbedding(schema, 2)
    with torch.no_grad():
        embedding.weight.normal_()
        embedding.weight[[0, 4, 9]] = 0.0
    ids = torch.tensor([[1, 5, 7, 4, 10], [3, 8, 4, 4, 11]], dtype=torch.int32)
    out = embedding(ids)
    rows = embedding.weight.detach()
    expected = torch.stack(
        [torch.stack([rows[1], rows[5] + rows[7], rows[10]]), torch.stack([rows[3], rows[8], rows[11]])]
    )
    torch.testing.assert_close(out, expected)
    (gradient,) = torch.autograd.grad((out**2).sum() + out.sum(), embedding.weight)
    assert gradient[[0, 4, 9]].eq(0).all()
    assert gradient[[1, 3, 5, 7, 8, 10, 11]].ne(0).all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dim", [1, 6, 40])
def test_the_gradient_is_that_of_torchs_embedding_to_the_bit(schema, dim, sparse):
    embedding = FieldEmbedding(schema, dim, sparse=sparse)
    starts = torch.tensor(schema.offsets)
    ids = (starts + torch.randint(0, 2, (500, len(starts)))).int()  # every row many times
    weight = torch.randn(500, len(starts), dim)
    ours, torchs = (
        torch.autograd.grad((look(ids) * weight).sum(), embedding.weight)[0]
        for look in (embedding, lambda ids: nn.functional.embedding(ids, embedding.weight, sparse=sparse))
    )
    assert ours.is_sparse == sparse
    assert torch.equal(ours.to_dense(), torchs.to_dense())


def test_a_sparse_gradient_holds_each_row_of_the_batch_once(schema):
    embedding = FieldEmbedding(schema, 4, sparse=True)
    ids = draw_ids(schema, 50)
    embedding(ids).sum().backward()
    gradient = embedding.weight.grad
    assert torch.equal(gradient._indices()[0], ids.unique().long())
    assert torch.equal(gradient._values()[:, 0], ids.unique(return_counts=True)[1].float())  # sum's gradient is one
    with pytest.raises((IndexError, RuntimeError)):
        embedding(ids + schema.num_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 3, 16])
def test_rows_are_taken_and_put_back_to_the_bit(dim, dtype):
    table, rows = torch.randn(30, dim, dtype=dtype), torch.randperm(30)[:12]
    assert torch.equal(take_rows(table, rows), table[rows])
    assert torch.equal(take_rows(table, rows[:0]), table[rows[:0]])
    values = torch.randn(12, dim, dtype=dtype)
    values[0, 0] = float("nan")
    expected = table.clone()
    expected[rows] = values
    put_rows(table, rows, values)
    assert torch.equal(table.nan_to_num(7.0), expected.nan_to_num(7.0))
