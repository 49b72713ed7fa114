import pytest
import torch

from conftest import draw_ids
from tf4ctr.data.schema import Field, Schema
from tf4ctr.models.embedding import FieldEmbedding


def test_one_lookup_equals_one_table_per_field(schema):
    embedding = FieldEmbedding(schema, 4, init_std=1.0)
    ids = draw_ids(schema, 20)
    out = embedding(ids)
    assert out.shape == (20, 3, 4)
    for column, (offset, field) in enumerate(zip(schema.offsets, schema.fields, strict=True)):
        table = embedding.weight[offset : offset + field.vocabulary_size]
        assert torch.equal(out[:, column], table[(ids[:, column] - offset).long()])


def test_padding_rows_stay_zero_in_training(schema):
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


def test_initial_standard_deviation(schema):
    weight = FieldEmbedding(schema, 2000, init_std=1e-4).weight
    rows = [row for row in range(schema.num_ids) if row not in schema.offsets]
    assert abs(float(weight[rows].detach().std()) / 1e-4 - 1) < 0.03


def test_a_list_field_is_the_sum_of_its_values_without_padding():
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
def test_the_gradient_is_sparse_if_the_option_says_so(schema, sparse):
    embedding = FieldEmbedding(schema, 4, sparse=sparse)
    embedding(draw_ids(schema, 50)).sum().backward()
    assert embedding.weight.grad.is_sparse == sparse
