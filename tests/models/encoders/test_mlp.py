import numpy as np
import pytest
import torch

from conftest import draw_ids
from tf4ctr.errors import InputError
from tf4ctr.models.encoders.mlp import MLP, hidden_layers


def test_equals_the_formula_in_evaluation(schema):
    encoder = MLP(schema, 4, hidden_units=[6, 5], dropout=0.5).double()
    for name, buffer in encoder.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0)
    encoder.eval()
    emb = torch.randn(8, 3, 4, dtype=torch.float64)
    h = emb.reshape(8, 12).numpy()
    for i in (0, 4):
        linear, norm = encoder.layers[i], encoder.layers[i + 1]
        h = h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        h = (h - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        h = h * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        h = np.maximum(h, 0)
    out = encoder(emb, draw_ids(schema, 8))
    assert out.shape == (8, encoder.out_features) == (8, 5)
    np.testing.assert_allclose(out.detach().numpy(), h, atol=1e-12)


def test_dropout_is_used_in_training_only(schema):
    encoder = MLP(schema, 4, hidden_units=[2000], dropout=0.4, batch_norm=False)
    emb, ids = torch.ones(4, 3, 4), draw_ids(schema, 4)
    active = encoder.eval()(emb, ids) > 0
    dropped = encoder.train()(emb, ids) == 0
    assert 0.35 < float(dropped[active].float().mean()) < 0.45


def test_gradients(schema):
    encoder = MLP(schema, 4, hidden_units=[6, 5]).double()
    assert torch.autograd.gradcheck(
        lambda emb: encoder(emb, None), torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("hidden_units", [[], [10, 0]])
def test_layers_without_units_are_refused(schema, hidden_units):
    with pytest.raises(InputError, match="at least one layer"):
        MLP(schema, 4, hidden_units=hidden_units)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_outside_0_to_1_is_refused(schema, dropout):
    with pytest.raises(InputError, match="dropout is"):
        MLP(schema, 4, [8], dropout=dropout)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_biases_are_trained_only_without_a_batch_norm(batch_norm):
    layers = hidden_layers(4, [3, 2], 0.0, batch_norm)
    biases = [layer.bias for layer in layers if isinstance(layer, torch.nn.Linear)]
    assert [bias.requires_grad for bias in biases] == [not batch_norm] * 2
    assert bool(torch.cat(biases).any()) != batch_norm


@pytest.mark.parametrize("trained", [False, True])
def test_evaluation_follows_training_on_small_inputs(trained):
    """With trained biases it does not: Adam moves them by the learning rate."""
    layers = hidden_layers(4, [16, 16], 0.0, batch_norm=True)
    model = torch.nn.Sequential(layers, torch.nn.Linear(16, 1))
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            layer.bias.requires_grad_(trained)
    adam = torch.optim.Adam([part for part in model.parameters() if part.requires_grad], lr=1e-3)
    x_N4 = torch.randn(4096, 4)
    label_N = (x_N4.sum(1) > 0).float()
    loss = torch.nn.BCEWithLogitsLoss()
    for rows in torch.arange(4096).repeat(8).split(256):
        adam.zero_grad()
        loss(model(x_N4[rows] * 1e-5).squeeze(1), label_N[rows]).backward()
        adam.step()
    with torch.no_grad():
        training = float(loss(model(x_N4 * 1e-5).squeeze(1), label_N))
        evaluation = float(loss(model.eval()(x_N4 * 1e-5).squeeze(1), label_N))
    assert (evaluation > 1.3 * training) == trained
