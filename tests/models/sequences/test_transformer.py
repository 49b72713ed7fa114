import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call

from layers import array, randomized, softmax
from sequence_checks import Both, check_config, check_exports
from tf4ctr.errors import InputError
from tf4ctr.models.sequences.transformer import BehaviorTransformer

LENGTHS = (5, 3, 1, 0, 4)
TARGET = pytest.mark.parametrize("has_target", [True, False], ids=["target", "no target"])


def draw(lengths=LENGTHS, width=5, features=4, dtype=torch.float64):
    """Random histories [B, L, E] of the given lengths, which positions are known, and targets."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    history = torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2)
    return history, known, torch.randn(len(lengths), features, dtype=dtype)


def build(has_target, width=5, features=4, **options):
    return randomized(BehaviorTransformer(features, width, has_target, **options))


def call(module, history, known, target):
    return module(history, known, target if module.has_target else None)


def weights_of(module, history, known, target):
    return module.weights(history, known, target if module.has_target else None)


# The equations


def layer_norm(x, norm):
    return (x - x.mean()) / math.sqrt(x.var() + norm.eps) * array(norm.weight) + array(norm.bias)


def leaky_relu(x):
    return np.where(x > 0, x, 0.01 * x)


def layer_output(layer, x, kept):
    """One layer at the vectors x: its outputs, and the attention of each to each, over the heads.

    `kept` replaces dropout: the outputs of attention and of feed-forward are multiplied by it.
    """
    query, key, value, out = (array(part.weight) for part in (layer.query, layer.key, layer.value, layer.out))
    first, second = layer.feed_forward[0], layer.feed_forward[2]
    size = len(query) // layer.heads
    outputs, attention = [], np.zeros((len(x), len(x)))
    for q, x_q in enumerate(x):
        mixed = np.zeros(len(x_q))
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            scores = [(query @ x_q)[part] @ (key @ x_k)[part] / math.sqrt(size) for x_k in x]
            shares = softmax(np.array(scores))
            attention[q] += shares / layer.heads
            for share, x_k in zip(shares, x, strict=True):
                mixed[part] += share * (value @ x_k)[part]
        s = layer_norm(x_q + kept * (out @ mixed), layer.norm_attention)
        hidden = leaky_relu(array(first.weight) @ s + array(first.bias))
        fed = array(second.weight) @ hidden + array(second.bias)
        outputs.append(layer_norm(s + kept * fed, layer.norm_feed_forward))
    return outputs, attention


def expected(module, history, target, kept=1.0):
    """The vector of one history [n, E], and the weight of each of its values [n]."""
    x = [*history] if target is None else [target, *history]
    if module.position is not None:
        distances = range(len(history), 0, -1) if target is None else [0, *range(len(history), 0, -1)]
        first = 1 if target is None else 0
        x = [x_k + array(module.position)[d - first] for x_k, d in zip(x, distances, strict=True)]
    for layer in module.layers:
        x, attention = layer_output(layer, x, kept)
    if target is None:
        return np.mean(x, 0), attention.mean(0)
    return x[0], attention[0, 1:]


def check(module, lengths=LENGTHS, kept=1.0):
    history, known, target = draw(lengths)
    out, weights = array(call(module, history, known, target)), array(weights_of(module, history, known, target))
    assert out.shape == (len(lengths), 4)
    assert weights.shape == (len(lengths), 5)
    for row, length in enumerate(lengths):
        if length == 0 and not module.has_target:
            vector, shares = np.zeros(4), np.zeros(0)
        else:
            row_target = array(target[row]) if module.has_target else None
            vector, shares = expected(module, array(history[row, :length]), row_target, kept)
        np.testing.assert_allclose(out[row], vector, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(weights[row], np.pad(shares, (0, 5 - length)), rtol=1e-9, atol=1e-12)


@TARGET
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 1},
        {"heads": 4, "num_layers": 3},
        {"feed_forward": 3},
        {"positions": False},
        {"num_layers": 2, "positions": False},
    ],
    ids=str,
)
def test_the_equations(has_target, options):
    check(build(has_target, **options))


@TARGET
def test_dropout_is_applied_to_the_outputs_of_attention_and_feed_forward(has_target):
    class Tripled(torch.nn.Module):
        def forward(self, x):
            return 3 * x

    module = build(has_target, num_layers=2)
    for layer in module.layers:
        layer.dropout = Tripled()
    check(module, kept=3.0)


@TARGET
def test_dropout_has_its_probability_and_is_off_in_evaluation(has_target):
    module, inputs = build(has_target, num_layers=2, dropout=0.3), draw()
    assert [layer.dropout.probability for layer in module.layers] == [0.3, 0.3]
    plain = build(has_target, num_layers=2)
    plain.load_state_dict(module.state_dict())
    assert torch.equal(call(module, *inputs), call(plain, *inputs))
    assert torch.equal(call(plain.train(), *inputs), call(module, *inputs))
    assert not torch.allclose(call(module.train(), *inputs), call(plain, *inputs))


def test_the_feed_forward_part_has_four_times_the_features_by_default():
    assert build(True, features=6).layers[0].feed_forward[0].weight.shape == (24, 6)


@TARGET
def test_positions_start_at_zero(has_target):
    module = BehaviorTransformer(4, 5, has_target)
    assert torch.equal(module.position, torch.zeros(6 if has_target else 5, 4))


@TARGET
def test_only_positions_depend_on_the_order(has_target):
    history, known, target = draw((5, 4))
    order = torch.tensor([[3, 0, 4, 1, 2], [2, 3, 1, 0, 4]])  # padding stays last
    shuffled = history.gather(1, order.unsqueeze(2).expand_as(history))
    for positions in (True, False):
        module = build(has_target, num_layers=2, positions=positions)
        same = torch.allclose(call(module, history, known, target), call(module, shuffled, known, target))
        assert same is not positions


@TARGET
def test_the_weights_are_shares(has_target):
    history, known, target = draw()
    weights = weights_of(build(has_target, num_layers=2), history, known, target)
    assert torch.equal(weights > 0, known)
    if has_target:  # the rest is the share of the target
        assert (weights.sum(1) < 1).all()
    else:
        torch.testing.assert_close(weights.sum(1), known.any(1).double())


# Gradients, padding and empty histories


@TARGET
def test_gradients(has_target):
    module = build(has_target, width=3, num_layers=2, feed_forward=3)
    names, parameters = zip(*module.named_parameters(), strict=True)
    history, known, target = draw((3, 1, 0), width=3)

    def function(history, target, *parameters):
        given = target if has_target else None
        out = functional_call(module, dict(zip(names, parameters, strict=True)), (history, known, given))
        return out if has_target else out + 0 * target  # gradcheck wants each input to be used

    assert torch.autograd.gradcheck(function, (history.requires_grad_(), target.requires_grad_(), *parameters))


@TARGET
@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 5), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_histories_are_finite_and_change_no_other_row(has_target, lengths, dtype):
    module = build(has_target, num_layers=2).to(dtype).train()
    history, known, target = draw(lengths, dtype=dtype)
    out = call(module, history.requires_grad_(), known, target.requires_grad_())
    assert out.isfinite().all()
    assert weights_of(module, history, known, target).isfinite().all()
    # the caller replaces the vectors of empty histories
    kept = torch.where(known.any(1, keepdim=True), out, torch.ones(4, dtype=dtype)).square().sum()
    gradients = torch.autograd.grad(kept, [history, *module.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(gradients[0].abs().sum(2) > 0, known)
    for row in known.any(1).nonzero().flatten():
        alone = call(module, history[row : row + 1], known[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(alone.squeeze(0), out[row])


@TARGET
def test_padding_does_not_matter(has_target):
    module, (history, known, target) = build(has_target, num_layers=2), draw((5, 3, 1, 4))
    longer = torch.cat([history, torch.zeros(4, 3, 4)], 1)
    known_longer = torch.cat([known, torch.zeros(4, 3, dtype=torch.bool)], 1)
    noise = torch.where(known_longer.unsqueeze(2), longer, 100 * torch.randn(4, 8, 4)).requires_grad_()
    for changed in (longer, noise):
        torch.testing.assert_close(
            call(module, changed, known_longer, target), call(module, history, known, target), rtol=1e-12, atol=1e-12
        )
        weights = weights_of(module, changed, known_longer, target)
        torch.testing.assert_close(weights[:, :5], weights_of(module, history, known, target))
        assert not weights[:, 5:].any()
    (gradient,) = torch.autograd.grad(call(module, noise, known_longer, target).square().sum(), noise)
    assert not gradient[~known_longer].any()


# Types and graphs


@TARGET
def test_float32_and_autocast(has_target):
    module, (history, known, target) = build(has_target, num_layers=2), draw()
    exact = call(module, history, known, target)
    module, history, target = module.float(), history.float(), target.float()
    for mode in (module.train(), module.eval()):
        torch.testing.assert_close(call(mode, history, known, target).double(), exact, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            out = call(mode, history, known, target)
        torch.testing.assert_close(out.double(), exact, rtol=0.1, atol=0.1)


def inputs_of(has_target, lengths):
    names = ("history", "known", "target") if has_target else ("history", "known")
    return dict(zip(names, draw(lengths, dtype=torch.float32), strict=False))


@TARGET
def test_exported_graphs_take_any_number_of_rows(has_target, tmp_path):
    model = Both(build(has_target, num_layers=2 if has_target else 1).float())  # both attend from all positions
    check_exports(model, partial(inputs_of, has_target), LENGTHS, tmp_path, copies=20)


@TARGET
def test_a_compiled_module_has_the_same_outputs_and_gradients(has_target):
    torch.compiler.reset()
    module, (history, known, target) = build(has_target).train(), draw()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    outs = [call(module, history, known, target), compiled(history, known, target if has_target else None)]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), module.parameters()) for out in outs))


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "sequence.heads is 3: it must divide 8, the number of aligned sequences of the history"),
        ({"heads": 0}, "sequence.heads is 0: it must divide 8"),
        ({"num_layers": 0}, "sequence.num_layers is 0: expected at least 1"),
        ({"feed_forward": 0}, "sequence.feed_forward is 0: expected at least 1, or null for 4 E = 32"),
        ({"dropout": 1.0}, "sequence.dropout is 1.0: it is the probability that an output is set to zero"),
        ({"dropout": -0.1}, "sequence.dropout is -0.1"),
    ],
)
def test_invalid_options_are_reported(options, message):
    with pytest.raises(InputError, match=message):
        BehaviorTransformer(8, 5, True, **options)


def test_the_config_has_all_options_with_their_defaults():
    module = check_config("transformer", BehaviorTransformer)
    assert module(*draw(dtype=torch.float32)).shape == (5, 4)
