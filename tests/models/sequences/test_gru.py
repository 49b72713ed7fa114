import logging

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.func import functional_call

from layers import array, randomized, sigmoid
from sequence_checks import check_config
from tf4ctr.errors import InputError
from tf4ctr.models.sequences.gru import GRU, LastState


def draw(lengths, width=6, features=4, dtype=torch.float64):
    """Random histories [B, L, E], 0 at the padding, and which positions are known [B, L]."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2), known


def states(layer, values):
    """The states of a GRU after each of the values [length, E], by the equations."""
    w, v = (np.split(array(linear.weight), 3) for linear in (layer.input, layer.hidden))
    b, c = (np.split(array(linear.bias), 3) for linear in (layer.input, layer.hidden))
    state, result = np.zeros(len(b[0])), []
    for x in values:
        reset, keep = (sigmoid(w[i] @ x + b[i] + v[i] @ state + c[i]) for i in (0, 1))
        new = np.tanh(w[2] @ x + b[2] + reset * (v[2] @ state + c[2]))
        state = (1 - keep) * new + keep * state
        result.append(state)
    return result


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_result_is_the_state_after_the_last_value(num_layers):
    encoder = randomized(LastState(4, 6, has_target=False, num_layers=num_layers))
    lengths = [6, 1, 3, 0, 5]
    history, known = draw(lengths)
    for row, length, result in zip(array(history), lengths, array(encoder(history, known, None)), strict=True):
        values = list(row[:length])
        for layer in encoder.layers:
            values = states(layer, values)
        np.testing.assert_allclose(result, values[-1] if length else np.zeros(4), rtol=1e-10, atol=1e-12)


def test_the_states_are_those_of_torch():
    ours, theirs = randomized(GRU(4)), nn.GRU(4, 4, batch_first=True).double()
    names = {"weight_ih_l0": "input.weight", "weight_hh_l0": "hidden.weight"}
    names |= {"bias_ih_l0": "input.bias", "bias_hh_l0": "hidden.bias"}
    theirs.load_state_dict({name: ours.state_dict()[ours_name] for name, ours_name in names.items()})
    history, _ = draw([6, 6, 6])
    torch.testing.assert_close(ours(history), theirs(history)[0])


def test_the_weights_are_those_of_linear_layers():
    encoder = LastState(4, 6, has_target=False, num_layers=2)
    linear = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert set(encoder.parameters()) == {parameter for layer in linear for parameter in layer.parameters()}


def test_gradients():
    encoder = randomized(LastState(3, 4, has_target=False, num_layers=2))
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    history, known = draw([4, 2, 0], width=4, features=3)

    def function(history, *parameters):
        return functional_call(encoder, dict(zip(names, parameters, strict=True)), (history, known, None))

    assert torch.autograd.gradcheck(function, (history.requires_grad_(), *parameters))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_padding_does_not_matter(num_layers):
    encoder = randomized(LastState(4, 6, has_target=False, num_layers=num_layers))
    history, known = draw([6, 1, 3, 0])
    expected = encoder(history, known, None)
    filled = torch.where(known.unsqueeze(2), history, torch.randn_like(history)).requires_grad_()
    result = encoder(filled, known, None)
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    assert torch.equal(filled.grad.any(2), known)
    longer = torch.cat([history, torch.randn(4, 3, 4).double()], 1)
    torch.testing.assert_close(encoder(longer, torch.nn.functional.pad(known, (0, 3)), None), expected)


@pytest.mark.parametrize("lengths", [[0, 0, 0], [2, 0, 6]])
def test_an_empty_history_gives_zeros_and_no_gradient(lengths):
    encoder = LastState(4, 6, has_target=False, num_layers=2)
    history, known = draw(lengths, dtype=torch.float32)
    result = encoder(history.requires_grad_(), known, None)
    assert torch.equal(result.any(1), known.any(1))
    result.square().sum().backward()
    for tensor in (history, *encoder.parameters()):
        assert tensor.grad.isfinite().all()
    assert torch.equal(history.grad.any(2), known)


def test_dropout_is_between_the_layers_in_training():
    encoder = randomized(LastState(4, 6, has_target=False, num_layers=2, dropout=0.5))
    history, known = draw([6, 6, 6])
    first, second = encoder.layers
    torch.testing.assert_close(encoder(history, known, None), second(first(history))[:, -1])
    encoder.train()
    torch.manual_seed(1)
    result = encoder(history, known, None)
    torch.manual_seed(1)
    torch.testing.assert_close(result, second(encoder.dropout(first(history)))[:, -1])
    assert not torch.allclose(result, second(first(history))[:, -1])


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_rows(rows, dtype):
    encoder = LastState(4, 6, has_target=False).to(dtype)
    history, known = draw([3] * rows, dtype=dtype)
    result = encoder(history, known, None)
    assert result.shape == (rows, 4)
    assert result.dtype == dtype


def test_autocast():
    encoder = LastState(4, 6, has_target=False, num_layers=2)
    history, known = draw([6, 1, 0], dtype=torch.float32)
    expected = encoder(history, known, None)
    with torch.autocast("cpu", torch.bfloat16):
        result = encoder(history.requires_grad_(), known, None)
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)
    result.float().sum().backward()
    assert history.grad.isfinite().all()


def test_exported_graphs_take_any_number_of_rows(tmp_path, monkeypatch):
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)
    encoder = LastState(4, 6, has_target=False, num_layers=2).eval()
    example, batch = (*draw([6, 0, 3], dtype=torch.float32), None), {0: torch.export.Dim("batch")}
    graph = torch.export.export(encoder, example, dynamic_shapes=(batch, batch, None))
    program = torch.onnx.export(graph, example, input_names=["history", "known"], dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for lengths in ([], [2], [0] * 4, [6, 5, 4, 3, 2, 1, 0]):  # ONNX Runtime's GRU does not survive an empty batch
        history, known = draw(lengths, dtype=torch.float32)
        expected = encoder(history, known, None)
        torch.testing.assert_close(graph.module()(history, known, None), expected)
        (result,) = session.run(None, {"history": array(history), "known": array(known)})
        np.testing.assert_allclose(result, array(expected), atol=1e-5)


def test_a_compiled_encoder_has_the_same_outputs_and_gradients():
    torch.compiler.reset()
    encoder = LastState(4, 2, has_target=False)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    history, known = draw([2, 0, 1], width=2, dtype=torch.float32)
    out, expected = compiled(history, known, None), encoder(history, known, None)
    torch.testing.assert_close(out, expected)
    gradients, exact = (torch.autograd.grad(values.square().sum(), encoder.parameters()) for values in (out, expected))
    torch.testing.assert_close(gradients, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "sequence.num_layers is 0: expected at least 1"),
        ({"num_layers": 2, "dropout": 1.0}, "sequence.dropout is 1.0: it is the probability"),
        ({"num_layers": 2, "dropout": -0.1}, "sequence.dropout is -0.1: it is the probability"),
        ({"dropout": 0.1}, "sequence.dropout is 0.1 and sequence.num_layers is 1: dropout is between layers"),
    ],
)
def test_invalid_options_are_reported(options, message):
    with pytest.raises(InputError, match=message):
        LastState(4, 6, has_target=True, **options)


def test_the_config_has_all_options_with_their_defaults():
    module = check_config("gru", LastState)
    assert not module.needs_target
