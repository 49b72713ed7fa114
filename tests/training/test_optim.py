from copy import deepcopy
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from tf4ctr.models.rows import coalesced
from tf4ctr.training import optim
from tf4ctr.training.optim import RowwiseAdam, clip_grad_norm

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}


class Model(nn.Module):
    """A table and a dense layer."""

    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.layer = (
            nn.Embedding(9, 3, sparse=sparse, dtype=torch.float64),
            nn.Linear(3, 1, dtype=torch.float64),
        )

    def forward(self, ids):
        return torch.tanh(self.layer(self.table(ids))).square().mean() * 40

    def optimizer(self, kind, l2):
        return kind(
            [{"params": [self.table.weight], "weight_decay": l2}, {"params": list(self.layer.parameters())}], **SETTINGS
        )


def train(model, optimizer, batches, clip=None):
    for ids in batches:
        optimizer.zero_grad()
        model(ids).backward()
        if clip:
            clip_grad_norm(model.parameters(), clip)
        optimizer.step()


def assert_same(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_adam_if_every_row_is_in_every_batch(l2, clip):
    batches = [torch.cat([torch.arange(9), torch.randint(0, 9, (20,))]) for _ in range(6)]
    rowwise, dense = Model(sparse=True), Model(sparse=False)
    train(rowwise, rowwise.optimizer(RowwiseAdam, l2), batches, clip)
    optimizer = dense.optimizer(torch.optim.Adam, l2)
    for ids in batches:
        optimizer.zero_grad()
        dense(ids).backward()
        if clip:
            nn.utils.clip_grad_norm_(dense.parameters(), clip)
        optimizer.step()
    assert_same(rowwise, dense)


def test_equals_adam_for_dense_gradients():
    batches = [torch.randint(0, 9, (5,)) for _ in range(6)]
    ours, theirs = Model(sparse=False), Model(sparse=False)
    train(ours, ours.optimizer(RowwiseAdam, 0.3), batches)
    train(theirs, theirs.optimizer(torch.optim.Adam, 0.3), batches)
    assert_same(ours, theirs)


def test_equals_sparse_adam_without_l2(monkeypatch):
    monkeypatch.setitem(SETTINGS, "eps", 1e-14)  # SparseAdam adds it at another place of its formula
    batches = [torch.randint(0, 9, (5,)) for _ in range(8)]
    ours, theirs = Model(sparse=True), Model(sparse=True)
    train(ours, ours.optimizer(RowwiseAdam, 0.0), batches)
    table, rest = (
        torch.optim.SparseAdam([theirs.table.weight], **SETTINGS),
        torch.optim.Adam(theirs.layer.parameters(), **SETTINGS),
    )
    for ids in batches:
        theirs.zero_grad()
        theirs(ids).backward()
        table.step()
        rest.step()
    assert_same(ours, theirs)


def test_only_the_rows_of_the_batch_change():
    model = Model(sparse=True)
    optimizer = model.optimizer(RowwiseAdam, 0.5)
    train(model, optimizer, [torch.tensor([0, 1])])
    before = model.table.weight.detach().clone()
    moments = optimizer.state[model.table.weight]["moments"].clone()
    train(model, optimizer, [torch.tensor([1, 2, 2])] * 3)
    others = [0, 3, 4, 5, 6, 7, 8]
    assert torch.equal(model.table.weight[others], before[others])
    assert torch.equal(optimizer.state[model.table.weight]["moments"][others], moments[others])
    assert not torch.equal(optimizer.state[model.table.weight]["moments"][2], moments[2])
    assert not torch.equal(model.table.weight[2], before[2])


def test_one_step_by_hand():
    table = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64))
    optimizer = RowwiseAdam([table], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)
    table.grad = torch.sparse_coo_tensor([[1, 1]], torch.tensor([[1.0, 0.0], [1.0, -3.0]], dtype=torch.float64), (2, 2))
    optimizer.step()
    gradient = torch.tensor([2.0 + 0.5 * 3, -3.0 + 0.5 * 4], dtype=torch.float64)
    mean, square = 0.1 * gradient / (1 - 0.9), 0.01 * gradient**2 / (1 - 0.99)
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) - 0.1 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(table[1], expected)
    assert table[0].tolist() == [1.0, -2.0]


def test_resumes_from_its_state_exactly():
    batches = [torch.randint(0, 9, (5,)) for _ in range(8)]
    whole = Model(sparse=True)
    train(whole, whole.optimizer(RowwiseAdam, 0.2), batches)
    first = Model(sparse=True)
    optimizer = first.optimizer(RowwiseAdam, 0.2)
    train(first, optimizer, batches[:4])
    second = deepcopy(first)
    resumed = second.optimizer(RowwiseAdam, 0.2)
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, batches[4:])
    assert_same(second, whole)


def test_resumes_from_the_moments_of_version_0_1_0():
    batches = [torch.randint(0, 9, (5,)) for _ in range(8)]
    whole, older = Model(sparse=True), Model(sparse=True)
    train(whole, whole.optimizer(RowwiseAdam, 0.2), batches)
    optimizer = older.optimizer(RowwiseAdam, 0.2)
    train(older, optimizer, batches[:4])
    state = optimizer.state[older.table.weight]
    state["exp_avg"], state["exp_avg_sq"] = state.pop("moments").clone().chunk(2, 1)
    train(older, optimizer, batches[4:])
    assert_same(older, whole)


@pytest.mark.parametrize("dim", [1, 3, 4])
def test_rows_in_chunks_equal_rows_at_once(monkeypatch, dim):
    tables = []
    for chunk in (1, 5 * dim, 1000):
        monkeypatch.setattr(optim, "CHUNK", chunk)
        torch.manual_seed(0)
        table = nn.Parameter(torch.randn(50, dim))
        optimizer = RowwiseAdam([table], lr=0.1, weight_decay=0.2)
        for _ in range(3):
            rows = torch.randint(0, 50, (20,))
            table.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), torch.randn(20, dim), (50, dim))
            optimizer.step()
        tables.append(table.detach())
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[1], tables[2])


def test_gradients_of_several_batches_add_up():
    batches = [torch.randint(0, 9, (5,)) for _ in range(3)]
    gradients = []
    for sparse in (True, False):
        model = Model(sparse=sparse)
        for ids in batches:
            model(ids).backward()
        clip_grad_norm(model.parameters(), 0.01)
        gradient = model.table.weight.grad
        gradients.append(gradient.to_dense() if sparse else gradient)
    torch.testing.assert_close(*gradients)


def test_the_norm_counts_a_row_that_occurs_twice_as_its_sum():
    table, other = nn.Parameter(torch.zeros(4, 1)), nn.Parameter(torch.zeros(2))
    table.grad = torch.sparse_coo_tensor([[2, 2, 0]], torch.tensor([[1.0], [2.0], [4.0]]), (4, 1))
    other.grad = torch.tensor([0.0, 12.0])
    assert clip_grad_norm([table, other], 6.5) == 13
    torch.testing.assert_close(table.grad.to_dense(), torch.tensor([[2.0], [0], [1.5], [0]]))
    torch.testing.assert_close(other.grad, torch.tensor([0.0, 6.0]))


def test_on_an_accelerator_the_rows_of_a_gradient_are_not_read():
    sparse = Mock(device=torch.device("cuda"), **{"is_coalesced.return_value": False})
    assert coalesced(sparse) is sparse.coalesce.return_value
    assert [call[0] for call in sparse.method_calls] == ["coalesce"]


def test_the_step_is_on_the_host_after_loading():
    """A fused optimiser loads it to the parameters' device."""
    model = Model(sparse=True)
    optimizer = model.optimizer(RowwiseAdam, 0.0)
    train(model, optimizer, [torch.arange(4)] * 2)
    step = optimizer.state[model.table.weight]["step"]
    optimizer.state[model.table.weight]["step"] = Mock(**{"cpu.return_value": step})
    train(model, optimizer, [torch.arange(4)])
    assert torch.equal(optimizer.state[model.table.weight]["step"], torch.tensor(3.0))
