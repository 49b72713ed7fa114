import logging

import numpy as np
import onnxruntime
import pytest
import torch
from torch.func import functional_call

from layers import array, randomized, sigmoid, softmax
from sequence_checks import check_config
from tf4ctr.errors import InputError
from tf4ctr.models.sequences.interest import InterestEvolution

CELLS = ["augru", "agru"]


def build(features=4, width=6, **options):
    return randomized(InterestEvolution(features, width, has_target=True, **options))


def draw(lengths, width=6, features=4, dtype=torch.float64):
    """Random histories [B, L, E], 0 at the padding, the known positions [B, L], targets [B, E]."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    history = torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2)
    return history, known, torch.randn(len(lengths), features, dtype=dtype)


# The equations, for the known values of one row


def interests(encoder, values):
    """The states of the first GRU, [length, E]."""
    layer = encoder.extractor
    w, v = (np.split(array(linear.weight), 3) for linear in (layer.input, layer.hidden))
    b, c = (np.split(array(linear.bias), 3) for linear in (layer.input, layer.hidden))
    state, result = np.zeros(len(b[0])), []
    for x in values:
        reset, keep = (sigmoid(w[i] @ x + b[i] + v[i] @ state + c[i]) for i in (0, 1))
        state = keep * state + (1 - keep) * np.tanh(w[2] @ x + b[2] + reset * (v[2] @ state + c[2]))
        result.append(state)
    return result


def attention(encoder, states, target):
    """The attention weights of the states [length, E]."""
    return softmax(np.array([state @ array(encoder.query.weight) @ target for state in states]))


def evolution(encoder, states, weights, cell):
    """The last state of the second GRU."""
    layer, count = encoder.evolution, {"augru": 3, "agru": 2}[cell]
    w, b, v = (np.split(array(p), count) for p in (layer.input.weight, layer.input.bias, layer.hidden.weight))
    state = np.zeros(len(b[0]))
    for x, weight in zip(states, weights, strict=True):
        reset = sigmoid(w[0] @ x + b[0] + v[0] @ state)
        update = weight * sigmoid(w[1] @ x + b[1] + v[1] @ state) if cell == "augru" else weight
        new = np.tanh(w[-1] @ x + b[-1] + reset * (v[-1] @ state))
        state = (1 - update) * state + update * new
    return state


@pytest.mark.parametrize("cell", CELLS)
def test_the_result_is_the_last_state_of_the_second_gru(cell):
    encoder, lengths = build(cell=cell), [6, 1, 3, 0, 5]
    history, known, target = draw(lengths)
    results, all_weights = array(encoder(history, known, target)), array(encoder.weights(history, known, target))
    for row, length in enumerate(lengths):
        expected, weights = np.zeros(4), np.zeros(6)
        if length:
            states = interests(encoder, array(history[row, :length]))
            weights[:length] = attention(encoder, states, array(target[row]))
            expected = evolution(encoder, states, weights[:length], cell)
        np.testing.assert_allclose(all_weights[row], weights, rtol=1e-10)
        np.testing.assert_allclose(results[row], expected, rtol=1e-10)


def test_a_second_gru_with_weights_of_one_is_a_gru():
    encoder = build()
    inputs, _, _ = draw([6, 6])
    layer, theirs = encoder.evolution, torch.nn.GRU(4, 4, batch_first=True).double()
    # torch's gate is the share of the old state, not of the new one: 1 - sigmoid(x) = sigmoid(-x)
    sign = torch.tensor([1.0, -1.0, 1.0]).double().repeat_interleave(4)
    weights = {
        "weight_ih_l0": layer.input.weight * sign.unsqueeze(1),
        "bias_ih_l0": layer.input.bias * sign,
        "weight_hh_l0": layer.hidden.weight * sign.unsqueeze(1),
        "bias_hh_l0": torch.zeros(12),
    }
    theirs.load_state_dict(weights)
    torch.testing.assert_close(layer(inputs, torch.ones(2, 6).double()), theirs(inputs)[1][0])


# The auxiliary loss


def auxiliary_of(encoder, history, lengths):
    """The auxiliary loss, pair by pair."""
    terms = []
    for row, length in enumerate(lengths):
        before = (row or len(lengths)) - 1
        states = interests(encoder, array(history[row, :length]))
        for position in range(1, length):
            if before != row and position < lengths[before]:
                positive = sigmoid(states[position - 1] @ array(history[row, position]))
                negative = sigmoid(states[position - 1] @ array(history[before, position]))
                terms.append(np.log(positive) + np.log(1 - negative))
    return -np.mean(terms) if terms else 0.0


@pytest.mark.parametrize(
    "lengths", [[6, 4, 2, 5], [6, 0, 3, 3], [3, 3], [1, 1, 1], [1, 6], [1, 6, 1], [2, 0, 2, 0], [0, 0], [5], [1], [0]]
)
def test_the_auxiliary_loss(lengths):
    encoder = build(auxiliary=0.7).train()
    history, known, target = draw(lengths)
    result = encoder(history.requires_grad_(), known, target)
    assert encoder.auxiliary.shape == ()
    expected = auxiliary_of(encoder, history, lengths)
    np.testing.assert_allclose(array(encoder.auxiliary), 0.7 * expected, rtol=1e-10)
    (result.sum() + encoder.auxiliary).backward()
    for tensor in (history, target, *encoder.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_a_batch_without_rows_has_an_auxiliary_loss_of_zero():
    encoder = build().train()
    assert encoder(*draw([])).shape == (0, 4)
    assert encoder.auxiliary == 0


def test_there_is_no_auxiliary_loss_in_evaluation_or_with_a_weight_of_zero():
    encoder, inputs = build(), draw([3, 4])
    assert encoder.auxiliary is None
    result = encoder.train()(*inputs)
    assert encoder.auxiliary > 0
    torch.testing.assert_close(encoder.eval()(*inputs), result)
    assert encoder.auxiliary is None
    without = InterestEvolution(4, 6, has_target=True, auxiliary=0.0).double().train()
    without(*inputs)
    assert without.auxiliary is None


def test_the_auxiliary_loss_trains_only_the_first_gru_and_the_embeddings():
    encoder = build().train()
    history, known, target = draw([3, 4])
    encoder(history.requires_grad_(), known, target.requires_grad_())
    encoder.auxiliary.backward()
    trained = {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert trained == {"extractor"}
    assert target.grad is None
    assert history.grad[0, :3].any(1).all()
    assert not history.grad[~known].any()


# Both


@pytest.mark.parametrize("cell", CELLS)
def test_gradients(cell):
    encoder = build(3, 4, cell=cell).train()
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    history, known, target = draw([4, 3, 0, 1], width=4, features=3)

    def function(history, target, *parameters):
        result = functional_call(encoder, dict(zip(names, parameters, strict=True)), (history, known, target))
        return result, encoder.auxiliary

    assert torch.autograd.gradcheck(function, (history.requires_grad_(), target.requires_grad_(), *parameters))


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_matter(cell):
    encoder = build(cell=cell).train()
    history, known, target = draw([6, 1, 3, 0])
    expected, auxiliary = encoder(history, known, target), encoder.auxiliary
    filled = torch.where(known.unsqueeze(2), history, torch.randn_like(history)).requires_grad_()
    result = encoder(filled, known, target)
    torch.testing.assert_close((result, encoder.auxiliary), (expected, auxiliary))
    (result.square().sum() + encoder.auxiliary).backward()
    assert torch.equal(filled.grad.any(2), known)
    longer = torch.cat([history, torch.randn(4, 3, 4).double()], 1)
    longer_known = torch.nn.functional.pad(known, (0, 3))
    torch.testing.assert_close((encoder(longer, longer_known, target), encoder.auxiliary), (expected, auxiliary))
    weights = encoder.weights(longer, longer_known, target)
    assert not weights[~longer_known].any()
    torch.testing.assert_close(weights.sum(1), known.any(1).double())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [[0, 0, 0], [2, 0, 6]])
def test_an_empty_history_gives_zeros_and_no_gradient(lengths, cell):
    encoder = InterestEvolution(4, 6, has_target=True, cell=cell)
    history, known, target = draw(lengths, dtype=torch.float32)
    result = encoder(history.requires_grad_(), known, target.requires_grad_())
    assert torch.equal(result.any(1), known.any(1))
    (result.square().sum() + encoder.auxiliary).backward()
    for tensor in (history, target, *encoder.parameters()):
        assert tensor.grad.isfinite().all()
    assert torch.equal(history.grad.any(2), known)
    assert torch.equal(target.grad.any(1), known.sum(1) > 1)  # one value has a weight of 1 in any case


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_rows(rows, dtype):
    encoder = InterestEvolution(4, 6, has_target=True).to(dtype).eval()
    result = encoder(*draw([3] * rows, dtype=dtype))
    assert result.shape == (rows, 4)
    assert result.dtype == dtype


@pytest.mark.parametrize("cell", CELLS)
def test_autocast(cell):
    encoder = InterestEvolution(4, 6, has_target=True, cell=cell)
    history, known, target = draw([6, 1, 0], dtype=torch.float32)
    expected, auxiliary = encoder(history, known, target), encoder.auxiliary
    with torch.autocast("cpu", torch.bfloat16):
        result = encoder(history.requires_grad_(), known, target)
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(encoder.auxiliary.float(), auxiliary, rtol=0.02, atol=0.02)
    (result.float().sum() + encoder.auxiliary).backward()
    assert history.grad.isfinite().all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.filterwarnings("error:The tensor attribute")  # of the export
def test_exported_graphs_take_any_number_of_rows(tmp_path, monkeypatch, cell):
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)
    encoder = InterestEvolution(4, 3, has_target=True, cell=cell)
    example, names = draw([3, 0, 2], width=3, dtype=torch.float32), ["history", "known", "target"]
    encoder(*example)  # a loss of training is left
    graph = torch.export.export(encoder.eval(), example, dynamic_shapes=({0: torch.export.Dim("batch")},) * 3)
    program = torch.onnx.export(graph, example, input_names=names, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for lengths in ([], [2], [0] * 4, [3, 2, 1, 0]):
        inputs = draw(lengths, width=3, dtype=torch.float32)
        expected = encoder(*inputs)
        torch.testing.assert_close(graph.module()(*inputs), expected)
        (result,) = session.run(None, dict(zip(names, map(array, inputs), strict=True)))
        np.testing.assert_allclose(result, array(expected), atol=1e-5)


def test_a_compiled_encoder_has_the_same_outputs_and_gradients():
    torch.compiler.reset()
    encoder = InterestEvolution(4, 2, has_target=True)

    def function(*inputs):
        return encoder(*inputs).square().sum() + encoder.auxiliary

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for lengths in ([2, 0, 2], [1, 2, 2]):  # twice: a loss is left from the first call
        inputs = draw(lengths, width=2, dtype=torch.float32)
        out, expected = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(out, expected)
        gradients, exact = (torch.autograd.grad(value, encoder.parameters()) for value in (out, expected))
        torch.testing.assert_close(gradients, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"has_target": False}, "sequence=interest needs a target: the values of the history belong to no field"),
        ({"cell": "agur"}, "sequence.cell is agur: did you mean 'a"),
        ({"auxiliary": -1.0}, "sequence.auxiliary is -1.0: expected a weight of 0 or more"),
        ({"auxiliary": float("nan")}, "sequence.auxiliary is nan: expected a weight of 0 or more"),
    ],
)
def test_invalid_options_are_reported(options, message):
    with pytest.raises(InputError, match=message):
        InterestEvolution(4, 6, **{"has_target": True, **options})


def test_the_config_has_all_options_with_their_defaults():
    module = check_config("interest", InterestEvolution)
    assert module.needs_target
