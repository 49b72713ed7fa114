import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tf4ctr.models.affine import BLOCK_ROWS, Affine


class Calls(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **(kwargs or {}))


def layers(inputs, outputs, bias=True):
    affine, linear = Affine(inputs, outputs, bias=bias), nn.Linear(inputs, outputs, bias=bias)
    linear.load_state_dict(affine.state_dict())
    return affine, linear


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
    ids=["matrix", "one row", "no rows", "3d", "3d transposed", "transposed", "every other column"],
)
def test_outputs_and_gradients_equal_torchs_layer(x, bias):
    affine, linear = layers(7, 3, bias)
    assert affine(x).shape == (*x.shape[:-1], 3)
    torch.testing.assert_close(affine(x), linear(x))
    weight = torch.randn(*x.shape[:-1], 3)
    torch.testing.assert_close(gradients(affine, x, weight), gradients(linear, x, weight))


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 7)])
@pytest.mark.parametrize("rows", [BLOCK_ROWS, 2 * BLOCK_ROWS + 1])
def test_the_weight_gradient_of_many_rows(inputs, outputs, rows):
    affine, linear = (layer.double() for layer in layers(inputs, outputs))
    x, weight = torch.randn(rows, inputs), torch.randn(rows, outputs)
    exact = gradients(linear, x.double(), weight.double())
    for gradient, expected in zip(gradients(affine.float(), x, weight), exact, strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-4)


def test_products_have_full_float32_precision():
    affine, _ = layers(400, 400)
    x = torch.randn(1000, 400)
    exact = nn.functional.linear(x.double(), affine.weight.double(), affine.bias.double())
    assert (affine(x) - exact).abs().max() / exact.abs().max() < 2e-6  # bfloat16: 4e-3


def test_onednn_computes_all_products_and_only_those_that_are_needed():
    affine, _ = layers(7, 3)
    with Calls() as calls:
        affine(torch.randn(5, 7, requires_grad=True)).sum().backward()
    assert calls.names.count("mkldnn::_linear_pointwise") == 3
    assert not {"aten::mm", "aten::addmm"} & set(calls.names)
    with Calls() as calls:
        affine(torch.randn(5, 7)).sum().backward()  # no gradient of the input is needed
    assert calls.names.count("mkldnn::_linear_pointwise") == 2


def test_other_types_and_autocast_use_torchs_layer():
    affine, linear = layers(7, 3)
    x = torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(x).dtype == torch.bfloat16
        assert torch.equal(affine(x), linear(x))
    affine, linear = affine.double(), linear.double()
    assert torch.equal(affine(x.double()), linear(x.double()))


def test_an_exported_graph_contains_torchs_layer():
    affine, _ = layers(7, 3)
    x = torch.randn(5, 7)
    graph = torch.export.export(affine, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("mkldnn" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph.module()(torch.randn(0, 7)), torch.empty(0, 3))
    torch.testing.assert_close(graph.module()(x), affine(x))


def test_a_vector_is_mapped_as_by_torch():
    affine, linear = layers(7, 3)
    x = torch.randn(7)
    torch.testing.assert_close(affine(x), linear(x))
