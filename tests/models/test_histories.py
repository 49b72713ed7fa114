"""Histories as fields of the network: targets, empty histories, aligned sequences, all of DIN."""

from functools import partial

import numpy as np
import pytest
import torch

from layers import array, sigmoid
from tf4ctr.data.schema import GAP_BUCKETS, SEQUENCES, Field, Schema
from tf4ctr.errors import InputError
from tf4ctr.models.dfm import Sum, WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.losses import BCELoss
from tf4ctr.models.network import Network
from tf4ctr.models.sequences.attention import TargetAttention
from tf4ctr.models.sequences.interest import InterestEvolution
from tf4ctr.models.sequences.pooling import MeanPooling
from tf4ctr.models.ssem import SeparateRepresentation, Shared
from tf4ctr.training.module import CTRModule

WIDTH = 4
USER, ITEM, CATEGORY = Field("user", 6), Field("item", 9), Field("category", 5)
HISTORY = Field("history", 9, WIDTH, SEQUENCES, of="item", target="item")
CATEGORIES = Field("categories", 5, WIDTH, SEQUENCES, of="category", target="category", aligned_with="history")
GAPS = Field("gaps", GAP_BUCKETS + 2, WIDTH, SEQUENCES, aligned_with="history", gaps=True)
SCHEMA = Schema("toy", (USER, HISTORY, ITEM, CATEGORY, CATEGORIES), "click")
LENGTHS = (0, 1, 3, WIDTH, 0, 2)


def draw(schema=SCHEMA, lengths=LENGTHS, seed=0):
    """Valid ids: values first, padding after them; aligned sequences have the same length."""
    random = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), len(schema.columns)), np.int32)
    for field in schema.id_fields:
        first, place = schema.offset_of(field.name), schema.ids_of(field.name)
        ids[:, place] = first + random.integers(1, field.vocabulary_size, (len(lengths), field.width))
        if field.kind == SEQUENCES:
            for row, length in enumerate(lengths):
                ids[row, place][length:] = first
    return torch.from_numpy(ids)


def din(dim=4, **options):
    """DIN: one table, attention, an MLP without batch norm."""
    sequence = partial(TargetAttention, hidden_units=[5], **options)
    embedding = partial(FieldEmbedding, init_std=1.0, sequence=sequence)
    mlp = partial(MLP, hidden_units=[7, 3], dropout=0.0, batch_norm=False)
    return Network(SCHEMA, embedding, dim, Shared, {"complex": mlp}, Sum).double()


def random_parameters(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0)
        network.ssem.table.weight[list(SCHEMA.paddings)] = 0
    return network.eval()


@pytest.mark.parametrize("activation", ["prelu", "dice"])
def test_din_equals_an_implementation_from_the_equations_of_its_paper(activation):
    """Zhou et al., KDD 2018, equation 3 and figure 2, in loops over rows and positions."""
    network, ids = random_parameters(din(activation=activation)), draw()
    table, attention = network.ssem.table, network.ssem.table.histories[0].encoder
    weights = {name: array(parameter) for name, parameter in attention.named_parameters()}
    running = {name.split(".")[-1]: array(buffer) for name, buffer in attention.named_buffers()}

    def unit(h, t):
        s = weights["first.weight"] @ np.concatenate([h, t, h - t, h * t]) + weights["first.bias"]
        alpha = weights["layers.0.weight" if activation == "prelu" else "layers.0.alpha"]
        if activation == "prelu":
            s = np.where(s > 0, s, alpha * s)
        else:
            p = sigmoid((s - running["running_mean"]) / np.sqrt(running["running_var"] + attention.layers[0].eps))
            s = p * s + (1 - p) * alpha * s
        return (weights["layers.1.weight"] @ s + weights["layers.1.bias"]).item()

    rows = array(table.weight)
    layers = [layer for layer in network.encoders["complex"].modules() if isinstance(layer, torch.nn.Linear)]
    expected = []
    for row, length in zip(ids.numpy(), LENGTHS, strict=True):
        user, item, category = (rows[row[SCHEMA.ids_of(name)]][0] for name in ("user", "item", "category"))
        past = [rows[row[SCHEMA.ids_of(name)]] for name in ("history", "categories")]
        target, pooled = np.concatenate([item, category]), np.zeros(8)
        for position in range(length):
            h = np.concatenate([past[0][position], past[1][position]])
            pooled += unit(h, target) * h
        if not length:
            pooled = array(table.histories[0].empty)
        x = np.concatenate([user, pooled[:4], item, category, pooled[4:]])
        for layer in layers:
            x = np.maximum(array(layer.weight) @ x + array(layer.bias), 0)
        expected.append((array(network.dfm.heads[0].weight) @ x + array(network.dfm.heads[0].bias)).item())
    np.testing.assert_allclose(array(network(ids).fused), expected, rtol=1e-9)


def test_din_has_the_parameters_that_its_paper_counts():
    dim, units = 4, 5
    table = sum(field.vocabulary_size for field in (USER, ITEM, CATEGORY)) * dim
    attention = (4 * 2 * dim * units + units) + units + (units + 1)  # first layer, Dice, output
    mlp = (5 * dim * 7 + 7) + (7 * 3 + 3) + (3 + 1)
    empty = 2 * dim
    assert sum(parameter.numel() for parameter in din().parameters()) == table + attention + mlp + empty


def test_an_encoder_meets_sequences_as_fields_in_the_order_of_the_schema():
    embedding = FieldEmbedding(SCHEMA, 3, init_std=1.0)
    ids = draw()
    out = embedding(ids)
    assert out.shape == (len(LENGTHS), 5, 3)
    for place, name in ((0, "user"), (2, "item"), (3, "category")):
        torch.testing.assert_close(out[:, place], embedding.weight[ids[:, SCHEMA.ids_of(name)].long().squeeze(1)])
    for row, length in enumerate(LENGTHS):
        for place, name, empty in ((1, "history", slice(0, 3)), (4, "categories", slice(3, 6))):
            values = embedding.weight[ids[row, SCHEMA.ids_of(name)][:length].long()]
            expected = values.mean(0) if length else embedding.histories[0].empty[empty]
            torch.testing.assert_close(out[row, place], expected)


@pytest.mark.parametrize("sequence", [MeanPooling, TargetAttention, InterestEvolution])
def test_an_empty_history_is_a_vector_of_its_own_and_has_no_other_gradient(sequence):
    embedding = FieldEmbedding(SCHEMA, 2, init_std=1.0, sequence=sequence)
    history = embedding.histories[0]
    ids = draw(lengths=(0, 0, 0))
    out = embedding(ids)
    torch.testing.assert_close(out[:, [1, 4]].flatten(1), history.empty.expand(3, 4))
    out[:, [1, 4]].sum().backward()
    assert (history.empty.grad == 3).all()
    others = [parameter for name, parameter in embedding.named_parameters() if name != "histories.0.empty"]
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in others)


@pytest.mark.parametrize("sparse", [False, True])
def test_padding_never_gets_a_gradient(sparse):
    embedding = FieldEmbedding(SCHEMA, 2, init_std=1.0, sparse=sparse, sequence=TargetAttention)
    embedding(draw()).square().sum().backward()
    gradient = embedding.weight.grad.to_dense() if sparse else embedding.weight.grad
    assert (gradient[list(SCHEMA.paddings)] == 0).all()
    assert (gradient != 0).any()


def test_times_have_no_target():
    """The target of a sequence of times is zero: the weight of a position ignores its columns."""
    schema = Schema("toy", (USER, ITEM, HISTORY, GAPS), "click")
    embedding = FieldEmbedding(schema, 2, init_std=1.0, sequence=TargetAttention)
    history, ids = embedding.histories[0], draw(schema)
    target = history._target(embedding(ids)[:, :2])
    torch.testing.assert_close(target[:, :2], embedding.weight[ids[:, schema.ids_of("item")].long().squeeze(1)])
    assert (target[:, 2:] == 0).all()
    weights = embedding.attention(ids)["history"]
    assert weights.shape == (len(LENGTHS), WIDTH)
    assert [(row != 0).sum().item() for row in weights] == list(LENGTHS)


def test_a_history_of_its_own_vocabulary_has_no_target():
    schema = Schema("toy", (USER, ITEM, Field("tags", 7, WIDTH, SEQUENCES)), "click")
    assert FieldEmbedding(schema, 2)(draw(schema)).shape == (len(LENGTHS), 3, 2)
    with pytest.raises(InputError, match="needs a target"):
        FieldEmbedding(schema, 2, sequence=TargetAttention)


def test_every_encoder_of_the_network_reads_the_history_with_its_own_tables():
    embedding = partial(FieldEmbedding, init_std=1.0, sequence=TargetAttention)
    mlp = partial(MLP, hidden_units=[4], dropout=0.0)
    network = Network(SCHEMA, embedding, 4, SeparateRepresentation, {"simple": mlp, "complex": mlp}, WeightedSum)
    simple, complex_ = network.ssem.tables
    assert simple.histories[0].encoder.first.in_features == 4 * 2 * 2
    assert complex_.histories[0].encoder.first.in_features == 4 * 2 * 4
    network(draw()).simple.sum().backward()
    assert (simple.weight.grad != 0).any()
    assert complex_.weight.grad is None or (complex_.weight.grad == 0).all()


def test_the_linear_encoder_adds_the_mean_weight_of_a_history():
    linear = Linear(SCHEMA, 8)
    torch.nn.init.normal_(linear.weight.weight)
    ids = draw()
    weight = linear.weight.weight.squeeze(1)
    for row, length in enumerate(LENGTHS):
        if length:
            singles = sum(weight[ids[row, SCHEMA.ids_of(name)].item()] for name in ("user", "item", "category"))
            past = sum(
                weight[ids[row, SCHEMA.ids_of(name)][:length].long()].mean() for name in ("history", "categories")
            )
            torch.testing.assert_close(linear(None, (ids, None))[row], (singles + past).view(1))


def test_the_loss_of_an_encoder_of_histories_is_part_of_the_training_loss():
    embedding = partial(FieldEmbedding, init_std=1.0, sequence=InterestEvolution)
    mlp = partial(MLP, hidden_units=[4], dropout=0.0)
    network = Network(SCHEMA, embedding, 4, Shared, {"complex": mlp}, Sum)
    module = CTRModule(SCHEMA, network, BCELoss(), torch.optim.Adam)
    ids, label = draw(), torch.tensor([0.0, 1, 0, 1, 1, 0])
    terms = module._terms_of(ids, label)
    assert terms["auxiliary"] > 0
    torch.testing.assert_close(terms["loss"], terms["bce"] + terms["auxiliary"])
    module.eval()
    network(ids)
    assert network.auxiliary() is None


@pytest.mark.parametrize("sequence", [MeanPooling, partial(TargetAttention, hidden_units=[5])])
def test_a_batch_of_no_rows_has_no_logits(sequence):
    """A rank can have one at the end of a validation."""
    mlp = partial(MLP, hidden_units=[7, 3])
    network = Network(SCHEMA, partial(FieldEmbedding, sequence=sequence), 4, Shared, {"complex": mlp}, Sum).eval()
    assert network(draw(lengths=())).fused.shape == (0,)
