from functools import partial

import numpy as np
import pytest
import torch

from conftest import draw_ids
from layers import randomized, run
from tf4ctr.errors import InputError
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.inputs import Inputs
from tf4ctr.models.ssem import GatingMechanism, MixtureOfExperts, SeparateRepresentation, Shared

table = partial(FieldEmbedding, init_std=1.0)


@pytest.mark.parametrize("encoders", [1, 2, 3])
def test_shared_gives_all_encoders_the_same_embeddings(schema, encoders):
    ssem = Shared(schema, table, 6, [True] * encoders)
    views = ssem(Inputs(draw_ids(schema, 5)))
    assert ssem.dims == [6] * encoders
    assert len(views) == encoders
    assert all(view is views[0] for view in views)
    assert views[0].shape == (5, schema.num_fields, 6)


@pytest.mark.parametrize("encoders", [2, 3])
def test_ser_has_one_table_per_encoder(schema, encoders):
    ssem = SeparateRepresentation(schema, table, 6, [True] * encoders)
    ids = draw_ids(schema, 5)
    views = ssem(Inputs(ids))
    assert ssem.dims == [3, 6, 6][:encoders]
    for view, dim, own_table in zip(views, ssem.dims, ssem.tables, strict=True):
        assert view.shape == (5, 3, dim)
        assert torch.equal(view, own_table.weight[ids.long()])
    views[0].sum().backward()
    assert ssem.tables[-1].weight.grad is None


def test_ser_needs_an_even_embedding_size(schema):
    with pytest.raises(InputError, match=r"embedding.dim is 5.*must be even"):
        SeparateRepresentation(schema, table, 5, [True, True])


def test_an_encoder_without_embeddings_has_no_parameters(schema):
    ids = draw_ids(schema, 5)
    assert list(Shared(schema, table, 6, [False]).parameters()) == []
    assert Shared(schema, table, 6, [False])(Inputs(ids)) == [None]
    ser = SeparateRepresentation(schema, table, 6, [False, True])
    assert [view is None for view in ser(Inputs(ids))] == [True, False]
    assert [own_table.dim for own_table in ser.tables] == [6]
    moe = MixtureOfExperts(schema, table, 6, [False, True])
    assert [view is None for view in moe(Inputs(ids))] == [True, False]
    assert len(moe.gates) == 1


def test_gm_divides_each_sample_between_two_encoders(schema):
    ssem = randomized(GatingMechanism(schema, table, 4, [True] * 2, dropout=0.5))
    ids = draw_ids(schema, 6)
    simple, complex_ = ssem(Inputs(ids))
    emb = ssem.table.weight.detach().numpy()[ids.numpy()]
    for row in range(6):
        gate = 1 / (1 + np.exp(-run(ssem.gate, emb[row].reshape(1, -1))[0, 0]))
        np.testing.assert_allclose(simple[row].detach(), gate * emb[row], atol=1e-12)
        np.testing.assert_allclose(complex_[row].detach(), (1 - gate) * emb[row], atol=1e-12)


def test_gm_divides_each_sample_between_three_encoders_by_a_softmax(schema):
    ssem = randomized(GatingMechanism(schema, table, 4, [True] * 3))
    ids = draw_ids(schema, 6)
    views = ssem(Inputs(ids))
    emb = ssem.table.weight.detach().numpy()[ids.numpy()]
    score = np.exp(np.append(run(ssem.gate, emb.reshape(6, -1)), np.zeros((6, 1)), 1))
    for number, view in enumerate(views):
        share = score[:, number] / score.sum(1)
        np.testing.assert_allclose(view.detach(), share[:, None, None] * emb, atol=1e-12)


@pytest.mark.parametrize("encoders", [2, 3])
def test_moe_has_one_expert_and_one_gate_per_encoder(schema, encoders):
    ssem = randomized(MixtureOfExperts(schema, table, 4, [True] * encoders, dropout=0.5))
    ids = draw_ids(schema, 6)
    views = ssem(Inputs(ids))
    emb = ssem.table.weight.detach().numpy()[ids.numpy()]
    assert len(ssem.experts) == encoders
    for row in range(6):
        flat = emb[row].reshape(1, -1)
        experts = [run(expert, flat)[0] for expert in ssem.experts]
        for number in range(encoders):
            score = np.exp(run(ssem.gates[number], flat)[0])
            expected = sum(s / score.sum() * expert for s, expert in zip(score, experts, strict=True))
            np.testing.assert_allclose(views[number][row].detach().numpy().ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("encoders", [2, 3])
@pytest.mark.parametrize("ssem_class", [GatingMechanism, MixtureOfExperts])
def test_gradients_of_the_selection(schema, ssem_class, encoders):
    ssem = randomized(ssem_class(schema, table, 4, [True] * encoders))
    ids = draw_ids(schema, 5)
    weight = ssem.table.weight.detach().clone().requires_grad_()

    def select(weight):
        return tuple(torch.func.functional_call(ssem, {"table.weight": weight}, (Inputs(ids),)))

    assert torch.autograd.gradcheck(select, weight)
