import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tf4ctr.models.affine import STRETCH, Affine


class Calls(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **(kwargs or {}))


def layers(inputs, outputs, bias=True):
    ours, torchs = Affine(inputs, outputs, bias=bias), nn.Linear(inputs, outputs, bias=bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def gradients(layer, x, weight):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((layer(x) * weight).sum(), [x, *layer.parameters()])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(50, 7),
        torch.randn(1, 7),
        torch.randn(0, 7),
        torch.randn(6, 5, 7),
        torch.randn(5, 6, 7).transpose(0, 1),
        torch.randn(7, 50).T,
        torch.randn(50, 14)[:, ::2],
    ],
    ids=["rows", "one row", "no row", "rows of rows", "turned rows", "columns", "every other column"],
)
def test_it_is_torchs_layer_and_so_are_its_gradients(x, bias):
    ours, torchs = layers(7, 3, bias)
    assert ours(x).shape == (*x.shape[:-1], 3)
    torch.testing.assert_close(ours(x), torchs(x))
    weight = torch.randn(*x.shape[:-1], 3)
    torch.testing.assert_close(gradients(ours, x, weight), gradients(torchs, x, weight))


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 7)])
@pytest.mark.parametrize("rows", [STRETCH, 2 * STRETCH + 1])
def test_the_weights_gradient_of_many_rows(inputs, outputs, rows):
    ours, torchs = (layer.double() for layer in layers(inputs, outputs))
    x, weight = torch.randn(rows, inputs), torch.randn(rows, outputs)
    exact = gradients(torchs, x.double(), weight.double())
    for found, expected in zip(gradients(ours.float(), x, weight), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_float32_is_multiplied_in_full():
    ours, _ = layers(400, 400)
    x = torch.randn(1000, 400)
    exact = nn.functional.linear(x.double(), ours.weight.double(), ours.bias.double())
    assert (ours(x) - exact).abs().max() / exact.abs().max() < 2e-6  # a bfloat16 has 4e-3


def test_onednn_multiplies_forward_and_backward_and_only_what_is_asked_for():
    ours, _ = layers(7, 3)
    with Calls() as calls:
        ours(torch.randn(5, 7, requires_grad=True)).sum().backward()
    assert calls.names.count("mkldnn::_linear_pointwise") == 3
    assert not {"aten::mm", "aten::addmm"} & set(calls.names)
    with Calls() as calls:
        ours(torch.randn(5, 7)).sum().backward()  # raw input: no gradient
    assert calls.names.count("mkldnn::_linear_pointwise") == 2


def test_other_types_and_autocast_are_torchs_own():
    ours, torchs = layers(7, 3)
    x = torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), torchs(x))
    ours, torchs = ours.double(), torchs.double()
    assert torch.equal(ours(x.double()), torchs(x.double()))


def test_the_layer_becomes_part_of_a_graph():
    ours, _ = layers(7, 3)
    x = torch.randn(5, 7)
    graph = torch.export.export(ours, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("mkldnn" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph.module()(torch.randn(0, 7)), torch.empty(0, 3))
    torch.testing.assert_close(graph.module()(x), ours(x))
