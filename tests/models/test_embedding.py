import torch

from conftest import draw_ids
from tf4ctr.models.embedding import FieldEmbedding


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
