from functools import partial

import pytest
import torch

from conftest import draw_ids
from tf4ctr.errors import InputError
from tf4ctr.models.dfm import Sum, WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.fm import FM
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.inputs import Inputs
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import GatingMechanism, MixtureOfExperts, SeparateRepresentation, Shared

mlp = partial(MLP, hidden_units=[8, 6])


def network(schema, ssem=SeparateRepresentation, simple=FM, complex_=mlp, dfm=WeightedSum, **others):
    encoders = {"complex": complex_, "simple": simple, **others}
    return Network(schema, partial(FieldEmbedding, init_std=1e-4), 4, ssem, encoders, dfm)


@pytest.mark.parametrize("ssem", [Shared, SeparateRepresentation])
@pytest.mark.parametrize("dfm", [Sum, WeightedSum])
@pytest.mark.parametrize("simple", [FM, mlp])
def test_every_combination_gives_three_logits_and_all_parameters_get_a_gradient(schema, ssem, dfm, simple):
    net = network(schema, ssem, simple, mlp, dfm)
    logits = net(draw_ids(schema, 64))
    assert [logit.shape for logit in (logits.fused, logits.simple, logits.complex)] == [(64,)] * 3
    assert list(logits.heads()) == net.heads == ["simple", "complex"]
    logits.fused.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def test_plain_deepfm_equals_its_formula(schema):
    """ssem=shared, dfm=sum: y = y_linear + y_FM + w . MLP(e) + b, with one table."""
    net = network(schema, Shared, FM, mlp, Sum).eval()
    ids = draw_ids(schema, 16)
    emb = net.ssem.table.weight[ids.long()]
    expected = net.encoders["simple"](emb, Inputs(ids)) + net.dfm.heads[1](net.encoders["complex"](emb, ids))
    assert torch.allclose(net(ids).fused, expected[:, 0])


def test_tables_include_the_linear_weights(schema):
    net = network(schema)
    shapes = sorted(tuple(table.shape) for table in net.tables())
    assert shapes == [
        (16, 1),
        (16, 2),
        (16, 4),
    ]  # the linear weights, the simple encoder's and the complex encoder's table


@pytest.mark.parametrize(
    ("ssem", "simple", "complex_", "readers"),
    [
        (SeparateRepresentation, FM, mlp, ["simple", "complex", "simple"]),  # the last one has FM's linear weights
        (SeparateRepresentation, Linear, mlp, ["complex", "simple"]),
        (Shared, FM, mlp, [None, "simple"]),
        (Shared, Linear, mlp, ["complex", "simple"]),
        (GatingMechanism, FM, mlp, [None, "simple"]),
        (MixtureOfExperts, Linear, mlp, [None, "simple"]),  # the experts read the table, too
    ],
)
def test_a_table_is_of_the_encoder_that_reads_it_alone(schema, ssem, simple, complex_, readers):
    net = network(schema, ssem, simple, complex_)
    assert net.readers() == readers
    alone = Network(schema, FieldEmbedding, 4, Shared, {"only": FM}, Sum)
    assert alone.readers() == ["only", "only"]


def test_all_tables_have_sparse_gradients(schema):
    encoders = {"simple": Linear, "complex": mlp}
    net = Network(schema, partial(FieldEmbedding, sparse=True), 4, SeparateRepresentation, encoders, WeightedSum)
    net(draw_ids(schema, 8)).fused.sum().backward()
    assert [table.grad.is_sparse for table in net.tables()] == [True, True]


def test_linear_layers_start_from_xavier_normal_and_zero_bias(schema):
    net = Network(schema, FieldEmbedding, 16, Shared, {"complex": partial(MLP, hidden_units=[400])}, Sum)
    layer = net.encoders["complex"].layers[0]
    assert torch.all(layer.bias == 0)
    assert float(layer.weight.std()) == pytest.approx((2 / (48 + 400)) ** 0.5, rel=0.03)


def test_three_encoders_are_ordered_from_simple_to_complex_with_one_head_each(schema):
    net = network(schema, middle=mlp)
    logits = net(draw_ids(schema, 16))
    assert list(logits.heads()) == net.heads == ["simple", "middle", "complex"]
    assert isinstance(net.encoders["simple"], FM)
    assert len(net.ssem.tables) == 3
    weighted = sum(w * z for w, z in zip(net.dfm.weight, logits.heads().values(), strict=True))
    assert torch.allclose(logits.fused, weighted)


def test_the_head_of_one_encoder_is_the_fused_logit(schema):
    net = Network(schema, FieldEmbedding, 4, Shared, {"complex": mlp}, Sum)
    logits = net(draw_ids(schema, 16))
    assert net.heads == []
    assert torch.equal(logits.fused, logits.simple)
    assert torch.equal(logits.fused, logits.complex)


@pytest.mark.parametrize(("ssem", "dfm"), [(SeparateRepresentation, Sum), (Shared, WeightedSum)])
def test_one_encoder_needs_framework_plain(schema, ssem, dfm):
    with pytest.raises(InputError, match="add framework=plain"):
        Network(schema, FieldEmbedding, 4, ssem, {"simple": mlp}, dfm)


def test_several_encoders_must_include_a_simple_and_a_complex_one(schema):
    with pytest.raises(InputError, match=r"encoders \['simple', 'deep'\]"):
        Network(schema, FieldEmbedding, 4, Shared, {"simple": mlp, "deep": mlp}, Sum)


@pytest.mark.parametrize("name", ["fused", "uncalibrated"])
def test_a_head_does_not_take_the_name_of_another_metric(schema, name):
    with pytest.raises(InputError, match=f"backbone.{name} is an encoder.*another name"):
        network(schema, **{name: mlp})


def test_a_hidden_layer_of_one_unit_is_no_logit(schema):
    one = partial(MLP, hidden_units=[8, 1])
    with pytest.raises(InputError, match="backbone.complex ends with one unit, which dfm=sum"):
        network(schema, Shared, FM, one, Sum)
    network(schema, Shared, FM, one, WeightedSum)  # it has a linear layer for each head
