import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from layers import array, sigmoid, softmax
from sequence_checks import Both, check_config, check_exports
from tf4ctr.errors import InputError
from tf4ctr.models.sequences.attention import TargetAttention

LENGTHS = (5, 3, 1, 0, 4)
ACTIVATIONS = ["dice", "prelu", "relu"]


def draw(lengths=LENGTHS, width=5, features=4, dtype=torch.float64):
    """Random histories [B, L, E] of the given lengths, which positions are known, and targets."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    history = torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2)
    return history, known, torch.randn(len(lengths), features, dtype=dtype)


def build(features=4, width=5, hidden_units=(6, 3), **options):
    """A module with random parameters and statistics; float64, training mode."""
    module = TargetAttention(features, width, True, hidden_units=hidden_units, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, buffer in module.named_buffers():
        buffer.uniform_(0.5, 2.0) if "var" in name else buffer.normal_()
    return module


def dense(module, *inputs):
    """The outputs without a gradient: of all positions, with a mask."""
    with torch.no_grad():
        return module(*inputs)


# The equations


def activate(name, parameters, rows, training):
    """An activation of the rows [N, H] of a hidden layer, unit by unit."""
    out = np.zeros_like(rows)
    for h in range(rows.shape[1]):
        for n, s in enumerate(rows[:, h]):
            if name == "relu":
                out[n, h] = max(s, 0)
            elif name == "prelu":
                out[n, h] = s if s > 0 else parameters["weight"][h] * s
            else:
                mean = rows[:, h].mean() if training else parameters["running_mean"][h]
                var = rows[:, h].var() if training else parameters["running_var"][h]
                p = sigmoid((s - mean) / math.sqrt(var + 1e-8))
                out[n, h] = p * s + (1 - p) * parameters["alpha"][h] * s
    return out


def expected(module, histories, targets, activation, training, normalize):
    """The vector of each history [n, E], and the weights of its values [n]."""
    state = {name: array(value) for name, value in module.state_dict().items()}
    rows = np.array(
        [np.concatenate([h, t, h - t, h * t]) for hs, t in zip(histories, targets, strict=True) for h in hs]
    )
    hidden = rows @ state["first.weight"].T + state["first.bias"]
    for place in (0, 2):  # an activation, then a linear layer
        layer = {name.split(".")[2]: state[name] for name in state if name.startswith(f"layers.{place}.")}
        hidden = activate(activation, layer, hidden, training)
        hidden = hidden @ state[f"layers.{place + 1}.weight"].T + state[f"layers.{place + 1}.bias"]
    scores = np.split(hidden[:, 0], np.cumsum([len(history) for history in histories])[:-1])
    if normalize:
        scores = [softmax(score) if len(score) else score for score in scores]
    return [score @ history for score, history in zip(scores, histories, strict=True)], scores


@pytest.mark.parametrize("way", ["packed", "dense"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_equations(activation, training, normalize, way):
    module = build(activation=activation, softmax=normalize).train(training)
    history, known, target = draw()
    histories = [array(values[:length]) for values, length in zip(history, LENGTHS, strict=True)]
    vectors, weights = expected(module, histories, array(target), activation, training, normalize)
    with torch.set_grad_enabled(way == "packed"):
        out, shares = module(history, known, target), module.weights(history, known, target)
    np.testing.assert_allclose(array(out), vectors, rtol=1e-9, atol=1e-12)
    padded = [np.pad(weight, (0, 5 - len(weight))) for weight in weights]
    np.testing.assert_allclose(array(shares), padded, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("activation", "per_unit"), [("dice", 1), ("prelu", 1), ("relu", 0)])
def test_the_parameters_are_those_of_the_paper(activation, per_unit):
    module = TargetAttention(32, 50, True, activation=activation)
    layers = (4 * 32 * 80 + 80) + (80 * 40 + 40) + (40 + 1)
    assert sum(parameter.numel() for parameter in module.parameters()) == layers + per_unit * (80 + 40)
    assert module.first.weight.shape == (80, 4 * 32)
    assert isinstance(module.first, nn.Linear)  # the network initialises it as one layer


# Two ways: the known positions of a batch, or all with a mask


@pytest.mark.parametrize("options", [{}, {"softmax": True, "activation": "prelu", "hidden_units": (4,)}])
def test_both_ways_have_equal_outputs_gradients_and_averages(options):
    torch.compiler.reset()
    packed, inputs = build(**options), draw()
    masked = build(**options)
    masked.load_state_dict(packed.state_dict())
    compiled = torch.compile(masked, backend="aot_eager", fullgraph=True)  # a graph has no packing
    for x in (inputs[0], inputs[2]):
        x.requires_grad_()
    outs = packed(*inputs), compiled(*inputs)
    torch.testing.assert_close(*outs)
    gradients = [
        torch.autograd.grad(out.square().sum(), [inputs[0], inputs[2], *module.parameters()])
        for out, module in zip(outs, (packed, masked), strict=True)
    ]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(packed.state_dict(), masked.state_dict())
    torch.testing.assert_close(packed.eval()(*inputs), dense(packed, *inputs))


def test_training_elsewhere_has_no_shapes_that_depend_on_the_data():
    module = build().to("meta")  # nonzero and item() fail on meta tensors
    history, known, target = (x.to("meta") for x in draw())
    module(history.requires_grad_(), known, target).sum().backward()
    assert history.grad.shape == history.shape


# Gradients, padding and empty histories


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"softmax": True}, {"activation": "prelu"}, {"hidden_units": (4,)}])
def test_gradients(options, training):
    module = build(**options).train(training)
    history, known, target = draw()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(history, target, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (history, known, target))

    assert torch.autograd.gradcheck(function, (history.requires_grad_(), target.requires_grad_(), *parameters))


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 5), (0,), (1,), ()])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_histories_are_zero_and_have_no_gradient(lengths, normalize, training, dtype):
    module = build(softmax=normalize).to(dtype).train(training)
    history, known, target = draw(lengths, dtype=dtype)
    inputs = history.requires_grad_(), known, target.requires_grad_()
    out, empty = module(*inputs), ~known.any(1)
    # with one value, a rounding error of s is multiplied by 1 / sqrt(eps) = 10,000
    tolerance = 1e-2 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(dense(module, *inputs), out, rtol=tolerance, atol=tolerance)
    assert torch.equal(out[empty], torch.zeros(int(empty.sum()), 4, dtype=dtype))
    assert not module.weights(*inputs)[empty].any()
    gradients = torch.autograd.grad(out.square().sum() + out.sum(), [history, target, *module.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][~known].any()
    assert not gradients[1][empty].any()
    if empty.all():
        assert not any(gradient.any() for gradient in gradients)


def test_empty_histories_have_no_gradient_in_a_graph():
    torch.compiler.reset()
    module, (history, known, target) = build(softmax=True), draw((0, 0))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    out = compiled(history.requires_grad_(), known, target.requires_grad_())
    gradients = torch.autograd.grad(out.sum(), [history, target, *module.parameters()])
    assert not any(gradient.any() for gradient in gradients)  # NaN counts as true


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_padding_does_not_matter(training, normalize):
    module, (history, known, target) = build(softmax=normalize).train(training), draw()
    longer = torch.cat([history, torch.zeros(5, 3, 4)], 1)
    known_longer = torch.cat([known, torch.zeros(5, 3, dtype=torch.bool)], 1)
    noise = torch.where(known_longer.unsqueeze(2), longer, 100 * torch.randn(5, 8, 4)).requires_grad_()
    weights = torch.cat([module.weights(history, known, target), torch.zeros(5, 3)], 1)
    for changed in (longer, noise):
        torch.testing.assert_close(module(changed, known_longer, target), module(history, known, target))
        torch.testing.assert_close(dense(module, changed, known_longer, target), module(history, known, target))
        torch.testing.assert_close(module.weights(changed, known_longer, target), weights)
    (gradient,) = torch.autograd.grad(module(noise, known_longer, target).square().sum(), noise)
    assert not gradient[~known_longer].any()


# Dropout


def test_dropout_sets_outputs_of_hidden_layers_to_zero_in_training():
    module, inputs = build(activation="relu", hidden_units=(1,), dropout=0.5), draw((5,) * 200)
    module.layers[-1].bias.data.zero_()
    exact, weights = module.eval().weights(*inputs), module.train().weights(*inputs)
    positive = exact != 0
    dropped = (weights == 0)[positive]
    assert 0.4 < dropped.double().mean() < 0.6
    torch.testing.assert_close(weights[positive][~dropped], 2 * exact[positive][~dropped])


# Types and graphs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_and_autocast(activation, training):
    module, (history, known, target) = build(activation=activation).train(training), draw()
    exact = copy.deepcopy(module)(history, known, target).detach()
    module, history, target = module.float(), history.float().requires_grad_(), target.float()
    out = copy.deepcopy(module)(history, known, target)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        masked, out = dense(copy.deepcopy(module), history, known, target), module(history, known, target)
    for values in (masked, out):
        torch.testing.assert_close(values.double(), exact, rtol=0.1, atol=0.1)
    gradients = torch.autograd.grad(out.sum(), [history, *module.parameters()])
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def inputs_of(lengths):
    return dict(zip(("history", "known", "target"), draw(lengths, dtype=torch.float32), strict=True))


@pytest.mark.parametrize("options", [{"softmax": True}, {"activation": "prelu"}])
def test_exported_graphs_take_any_number_of_rows(options, tmp_path):
    model = Both(build(**options).float()).eval()
    check_exports(model, inputs_of, LENGTHS, tmp_path, rtol=1e-4)


# Options


@pytest.mark.parametrize(
    ("has_target", "options", "message"),
    [
        (False, {}, "sequence=attention needs a target: the values of the history belong to no field (`of`)"),
        (True, {"hidden_units": []}, "sequence.hidden_units is []: it needs at least one layer"),
        (True, {"hidden_units": [8, 0]}, "sequence.hidden_units is [8, 0]: it needs at least one layer"),
        (True, {"activation": "dise"}, "sequence.activation is 'dise': did you mean 'dice'?"),
        (True, {"dropout": 1.0}, "sequence.dropout is 1.0: it is the probability"),
        (True, {"dropout": -0.1}, "sequence.dropout is -0.1: it is the probability"),
    ],
)
def test_invalid_options_are_reported(has_target, options, message):
    with pytest.raises(InputError) as error:
        TargetAttention(4, 5, has_target, **options)
    assert message in str(error.value)


def test_the_config_has_all_options_with_their_defaults():
    module = check_config("attention", TargetAttention)
    assert module(*draw(dtype=torch.float32)).shape == (5, 4)
