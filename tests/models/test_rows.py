import pytest
import torch
from torch.nn import functional as F

from tf4ctr.models.rows import look_up, put_rows, take_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 3, 16])
def test_rows_are_read_and_written_bitwise(dim, dtype):
    table, rows = torch.randn(30, dim, dtype=dtype), torch.randperm(30)[:12]
    assert torch.equal(take_rows(table, rows), table[rows])
    assert torch.equal(take_rows(table, rows[:0]), table[rows[:0]])
    values = torch.randn(12, dim, dtype=dtype)
    values[0, 0] = float("nan")
    expected = table.clone()
    expected[rows] = values
    put_rows(table, rows, values)
    assert torch.equal(table.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dim", [1, 6, 40])
def test_a_lookup_and_its_gradient_are_bitwise_equal_to_torchs_embedding(dim, sparse):
    table = torch.randn(16, dim, requires_grad=True)
    ids = torch.randint(0, 6, (500, 3), dtype=torch.int32)  # every row many times
    weight = torch.randn(500, 3, dim)
    rows, expected_rows = look_up(table, ids, sparse), F.embedding(ids, table, sparse=sparse)
    assert torch.equal(rows, expected_rows)
    gradient, expected = (torch.autograd.grad((out * weight).sum(), table)[0] for out in (rows, expected_rows))
    assert gradient.is_sparse == sparse
    assert torch.equal(gradient.to_dense(), expected.to_dense())


def test_a_sparse_gradient_contains_each_row_of_the_batch_once():
    table, ids = torch.randn(16, 4, requires_grad=True), torch.randint(0, 16, (50, 3), dtype=torch.int32)
    look_up(table, ids, sparse=True).sum().backward()
    rows, counts = ids.unique(return_counts=True)
    assert torch.equal(table.grad._indices()[0], rows.long())
    assert torch.equal(table.grad._values()[:, 0], counts.float())  # the gradient of a sum is one per id


@pytest.mark.parametrize("training", [True, False])
def test_an_id_outside_the_table_is_refused(training):
    with torch.set_grad_enabled(training), pytest.raises((IndexError, RuntimeError)):
        look_up(torch.randn(16, 4, requires_grad=True), torch.tensor([[3, 16]], dtype=torch.int32), sparse=False)
