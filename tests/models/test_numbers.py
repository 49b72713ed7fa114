import inspect
import itertools
import math
import warnings

import hydra.utils
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.func import functional_call

from conftest import ROOT
from tf4ctr.data.schema import Field, Scaling
from tf4ctr.errors import InputError
from tf4ctr.models.numbers import (
    LIMIT,
    AutoDisNumbers,
    BinNumbers,
    LinearNumbers,
    PeriodicNumbers,
    PiecewiseNumbers,
)

NAN, INF = math.nan, math.inf
CLASSES = [LinearNumbers, BinNumbers, PiecewiseNumbers, PeriodicNumbers, AutoDisNumbers]
SMOOTH = [LinearNumbers, PiecewiseNumbers, PeriodicNumbers, AutoDisNumbers]  # those with a gradient by x


def number(values, **scaling):
    """The field of a number with these values in the training split."""
    ranks = np.linspace(0, 1, 257)
    quantiles = np.quantile(values, ranks, method="inverted_cdf").tolist() if len(values) else []
    return Field(
        "price", 0, kind="number", scaling=Scaling(**{"kind": "none", "quantiles": tuple(quantiles), **scaling})
    )


NORMAL = np.random.default_rng(0).normal(size=1000)
FIELDS = (
    number(NORMAL),
    number(np.exp(NORMAL)),
    number([0.0] * 500 + [1.0] * 300 + [2.0] * 190 + [7.0] * 10),
    number([3.0] * 20),  # constant
    number([]),  # all missing
)


def build(cls, fields=FIELDS, dim=4, **options):
    """A module with random parameters instead of the small or zero initial ones."""
    module = cls(fields, dim, **options)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def draw(rows, fields=FIELDS, missing=0.0):
    """Random numbers float32 [rows, N]."""
    numbers = 2 * torch.randn(rows, len(fields))
    return numbers.masked_fill(torch.rand(rows, len(fields)) < missing, NAN)


def arrays(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def check(module, embed, numbers):
    """Compare a module with embed(n, x, arrays) -> [D], for each row and number."""
    state, out = arrays(module), module.double()(numbers.double()).detach().numpy()
    assert out.shape == (*numbers.shape, 4)
    for row, values in enumerate(numbers.double().tolist()):
        for n, x in enumerate(values):
            expected = state["missing"][n] if math.isnan(x) else embed(n, x, state)
            np.testing.assert_allclose(out[row, n], expected, rtol=1e-6, atol=1e-6)


# The equations


def test_linear_is_the_number_times_a_vector_plus_a_bias():
    check(build(LinearNumbers), lambda n, x, state: x * state["weight"][n] + state["bias"][n], draw(20, missing=0.3))


def points(n, bins):
    """The different quantiles of FIELDS[n] at ranks 0, 1 / bins, ..., 1, as float32."""
    quantiles = FIELDS[n].scaling.quantiles
    return sorted({float(np.float32(quantiles[round(256 * k / bins)])) for k in range(bins + 1)}) if quantiles else []


def test_bins_are_rows_of_a_table():
    cuts = [points(0, 8)[1:-1], points(1, 8)[1:-1], [0.0, 1.0, 2.0], [], []]
    firsts = [0, 8, 16, 20, 21]

    def embed(n, x, state):
        return state["weight"][firsts[n] + sum(x > cut for cut in cuts[n])]

    numbers = draw(50, missing=0.3)
    numbers[:, 2] = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 7.0, 9.0, NAN]).repeat(5)
    check(build(BinNumbers, bins=8), embed, numbers)


def piecewise_linear_encoding(x, edges):
    """The encoding of x [K] as the paper defines it, with x at most at the outer edges."""
    x, encoding = min(max(x, edges[0]), edges[-1]), []
    for left, right in itertools.pairwise(edges):
        if x < left:
            encoding.append(0.0)
        elif x >= right:
            encoding.append(1.0)
        else:
            encoding.append((x - left) / (right - left))
    return encoding


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("bins", [2, 8, 100, 256])
def test_piecewise_is_linear_in_the_number_and_in_its_encoding(bins, activation):
    edges = [points(0, bins), points(1, bins), points(2, bins), [0.0, 6.0], [-1.0, 1.0]]
    most = max(map(len, edges)) - 1

    def embed(n, x, state):
        encoding = piecewise_linear_encoding(x, edges[n])
        padded = encoding[:-1] + [0.0] * (most - len(encoding)) + encoding[-1:]  # the library's layout
        pieces = sum(p * row for p, row in zip(padded, state["embedding.linear.weight"][n], strict=True))
        x = min(max(x, edges[n][0]), edges[n][-1])
        line = x * state["embedding.linear0.weight"][n] + state["embedding.linear0.bias"][n]
        return line + (np.maximum(pieces, 0) if activation else pieces)

    # the library keeps the slopes in float32: with 256 bins an encoding is exact to about 1e-4
    module = build(PiecewiseNumbers, bins=bins, activation=activation)
    with torch.no_grad():
        module.embedding.linear.weight.mul_(0.01)
    check(module, embed, draw(30, missing=0.3))


@pytest.mark.parametrize(("activation", "lite"), [(True, False), (False, False), (True, True)])
def test_periodic_is_a_layer_over_cosines_and_sines(activation, lite):
    def embed(n, x, state):
        waves = [2 * math.pi * frequency * x for frequency in state["embedding.periodic.weight"][n]]
        encoding = np.array([math.cos(wave) for wave in waves] + [math.sin(wave) for wave in waves])
        if lite:
            out = state["embedding.linear.weight"] @ encoding + state["embedding.linear.bias"]
        else:
            out = encoding @ state["embedding.linear.weight"][n] + state["embedding.linear.bias"][n]
        return np.maximum(out, 0) if activation else out

    check(build(PeriodicNumbers, frequencies=3, activation=activation, lite=lite), embed, draw(20, missing=0.3))


def test_autodis_is_a_mixture_of_meta_embeddings():
    def embed(n, x, state):
        hidden = [x * w if x * w > 0 else 0.01 * x * w for w in state["hidden"][n]]
        logits = [sum(state["mixing"][n, k, j] * hidden[j] for j in range(3)) + 0.3 * hidden[k] for k in range(3)]
        exponentials = [math.exp(logit / 0.7) for logit in logits]
        return sum(e / sum(exponentials) * state["weight"][n, k] for k, e in enumerate(exponentials))

    check(build(AutoDisNumbers, bins=3, temperature=0.7, skip=0.3), embed, draw(20, missing=0.3))


# Bins and edges


def occupied(values, bins, **scaling):
    """The bin of each value of a training split."""
    field = number(values, **scaling)
    scaled = field.scaling(np.asarray(values, dtype=float)).astype(np.float32)
    return BinNumbers([field], 4, bins).bins(torch.from_numpy(scaled).unsqueeze(1)).flatten().tolist()


@pytest.mark.parametrize("bins", [2, 7, 32])
def test_bins_have_equally_many_training_rows(bins):
    counts = np.bincount(occupied(NORMAL, bins), minlength=bins)
    assert len(counts) == bins
    assert np.abs(counts - 1000 / bins).max() <= 5  # 257 quantiles: to 1/256 of the rows


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0] * 50 + [5.0] * 30 + [9.0] * 20, [0] * 50 + [1] * 30 + [2] * 20),
        ([0.0] * 99 + [1.0], [0] * 99 + [1]),  # a rare large value
        ([0.0] + [1.0] * 99, [0] + [1] * 99),  # a rare small value
        ([5.0], [0]),
        ([1e30, -1e30], [1, 0]),
        ([-INF, 0.0, INF], [0, 1, 2]),
    ],
)
def test_every_frequent_value_of_few_has_a_bin(values, expected):
    assert occupied(values, 16) == expected


def test_most_bins_are_as_many_as_the_steps_between_the_quantiles():
    assert occupied(range(256), 256) == list(range(256))


@pytest.mark.parametrize("scaling", [{"kind": "standard", "center": 1.7, "spread": 0.3}, {"kind": "quantile"}])
def test_bins_are_bins_of_scaled_numbers(scaling):
    values = [0.1 * (i % 10) for i in range(100)]
    assert occupied(values, 32, **scaling) == [i % 10 for i in range(100)]


def test_constant_numbers_alone_have_one_bin_each():
    module = build(BinNumbers, [number([3.0]), number([])])
    rows = torch.cat([module.weight.expand(2, 2, 4), module.missing.expand(1, 2, 4)])
    assert torch.equal(module(torch.tensor([[3.0, 0.0], [5.0, -1.0], [NAN, NAN]])), rows)


def test_a_number_outside_the_training_range_is_in_an_outer_bin():
    module = BinNumbers([number(NORMAL)], 4, 8)
    assert module.bins(torch.tensor([[-1e9], [-INF], [1e9], [INF]])).flatten().tolist() == [0, 0, 7, 7]


def test_piecewise_is_linear_at_the_start():
    module = PiecewiseNumbers(FIELDS, 4)
    numbers = draw(10).clamp(-0.9, 0.9)[:, :1]
    line = module.embedding.linear0
    expected = numbers.unsqueeze(2) * line.weight[:1] + line.bias[:1]
    torch.testing.assert_close(module(numbers.expand(10, 5))[:, :1], expected)


def test_a_number_outside_the_training_range_counts_as_the_nearest_edge():
    module = build(PiecewiseNumbers, [number(NORMAL)])
    outside, edges = torch.tensor([[-1e30], [-9.0], [9.0], [INF]]), [NORMAL.min()] * 2 + [NORMAL.max()] * 2
    assert torch.equal(module(outside), module(torch.tensor(edges).float().unsqueeze(1)))


@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        ([3.0] * 5, 0.0, 6.0),
        ([], -1.0, 1.0),
        ([1e30] * 5, 0.0, 2 * LIMIT),
        ([1e-30, 2e-30], -1.0, 1.0),  # 1 / width would be beyond float32
        ([1e9, 1e9 + 1], 0.0, 2e9),  # equal in float32
        ([1e6, 1e6 + 1, 2e6], 1e6, 2e6),  # a piece as narrow as float32's rounding is joined
    ],
)
def test_constant_missing_and_nearly_equal_numbers_have_finite_pieces(values, lowest, highest):
    module = build(PiecewiseNumbers, [number(values), number(NORMAL)])
    assert module.lowest_N[0] == pytest.approx(lowest)
    assert module.highest_N[0] == pytest.approx(highest)
    assert module.embedding.impl.weight[0].count_nonzero() == 1
    numbers = torch.tensor([*values, lowest, highest, 0.0, NAN]).unsqueeze(1).expand(-1, 2)
    assert module(numbers).isfinite().all()
    assert all(buffer.isfinite().all() for buffer in module.buffers())


def test_no_warning_about_numbers_with_two_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PiecewiseNumbers([number([0.0, 1.0])], 4)


# All classes


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_any_number_of_rows(cls, rows):
    module = build(cls)
    numbers = draw(rows, missing=0.3).requires_grad_()
    out = module(numbers)
    assert out.shape == (rows, 5, 4)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    torch.testing.assert_close(out, torch.cat([*(module(row.unsqueeze(0)) for row in numbers), out[:0]]))


@pytest.mark.parametrize("cls", CLASSES)
def test_only_missing_values_give_the_missing_vectors_a_gradient(cls):
    module, numbers, weight = build(cls), draw(20, missing=0.3), torch.randn(20, 5, 4)
    gradients = torch.autograd.grad((module(numbers) * weight).sum(), module.parameters())
    gradient_of = dict(zip(dict(module.named_parameters()), gradients, strict=True))
    expected = torch.zeros(5, 4)
    for row, n in numbers.isnan().nonzero().tolist():
        expected[n] += weight[row, n]
    torch.testing.assert_close(gradient_of.pop("missing"), expected)
    # the others learn as if the missing values had any other value and no weight
    known = torch.where(numbers.isnan(), torch.tensor(1.5), numbers)
    weight = weight * ~numbers.isnan().unsqueeze(2)
    for name, parameter in module.named_parameters():
        if name != "missing":
            (without,) = torch.autograd.grad((module(known) * weight).sum(), parameter)
            torch.testing.assert_close(gradient_of[name], without, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_batch_of_missing_values(cls):
    module = build(cls)
    out = module(torch.full((3, 5), NAN))
    assert torch.equal(out, module.missing.expand(3, 5, 4))
    out.sum().backward()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, torch.full_like(parameter, 3.0 if name == "missing" else 0.0))


@pytest.mark.parametrize("cls", SMOOTH)
def test_gradients(cls):
    options = {
        PiecewiseNumbers: {"bins": 4},
        PeriodicNumbers: {"frequencies": 3, "activation": False},
        AutoDisNumbers: {"bins": 3},
    }
    module = build(cls, dim=2, **options.get(cls, {})).double()
    names, parameters = zip(*module.named_parameters(), strict=True)
    numbers = torch.tensor([[0.3, 1.1, 0.4, 2.5, 0.2], [-0.4, NAN, NAN, 3.5, -0.2], [NAN] * 5], dtype=torch.float64)

    def function(numbers, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), numbers)

    numbers.requires_grad_()
    assert torch.autograd.gradcheck(function, (numbers, *parameters))
    module(numbers).sum().backward()
    assert torch.equal(numbers.grad == 0, numbers.isnan())


def test_gradients_of_the_bins():
    module = build(BinNumbers, bins=3).double()
    numbers = draw(8, missing=0.3).double()

    def function(weight, missing):
        return functional_call(module, {"weight": weight, "missing": missing}, numbers)

    assert torch.autograd.gradcheck(function, (module.weight, module.missing))


@pytest.mark.parametrize("cls", CLASSES)
def test_huge_and_infinite_numbers_stay_finite(cls):
    module = build(cls)
    numbers = torch.tensor([1e30, -1e30, 3.4e38, -3.4e38, INF, -INF, LIMIT, -LIMIT]).unsqueeze(1).repeat(1, 5)
    out = module(numbers.requires_grad_())
    assert out.isfinite().all()
    torch.testing.assert_close(out[:6], out[6:].repeat(3, 1, 1))
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert numbers.grad is None or torch.equal(numbers.grad[:6], torch.zeros(6, 5))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_exported_graph_takes_any_number_of_rows(cls):
    module = build(cls)
    graph = torch.export.export(module, (draw(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("searchsorted" in str(node.target) for node in graph.graph.nodes)  # ONNX has none
    for rows in (0, 1, 50):
        numbers = draw(rows, missing=0.3)
        torch.testing.assert_close(graph.module()(numbers), module(numbers))
    numbers = torch.tensor([INF, -INF, 1e30, NAN, *FIELDS[2].scaling.quantiles]).unsqueeze(1).expand(-1, 5)
    torch.testing.assert_close(graph.module()(numbers), module(numbers))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_compiled_module_has_the_same_outputs_and_gradients(cls):
    torch.compiler.reset()
    module = build(cls)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (1, 20):
        numbers, weight = draw(rows, missing=0.3), torch.randn(rows, 5, 4)
        out, expected = compiled(numbers), module(numbers)
        torch.testing.assert_close(out, expected)
        gradients, exact = (
            torch.autograd.grad((values * weight).sum(), module.parameters()) for values in (out, expected)
        )
        torch.testing.assert_close(gradients, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", CLASSES)
def test_initial_values(cls):
    module = cls(FIELDS, 500, init_std=1e-3)
    small = {"missing", "weight", "bias"}
    for name, parameter in module.named_parameters():
        if name in small:
            assert abs(float(parameter.detach().std()) / 1e-3 - 1) < 0.1, name
    names = {name for name, _ in module.named_parameters()} & small
    assert names == {
        LinearNumbers: {"missing", "weight", "bias"},
        BinNumbers: {"missing", "weight"},
        AutoDisNumbers: {"missing", "weight"},
    }.get(cls, {"missing"})


def test_initial_frequencies():
    weight = PeriodicNumbers(FIELDS, 4, frequencies=1000, sigma=2.0).embedding.periodic.weight
    assert weight.shape == (5, 1000)
    assert abs(float(weight.detach().std()) - 1.97) < 0.1  # N(0, 2^2) within 3 sigma
    assert weight.abs().max() <= 6.0


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        *(
            (cls, {"bins": bins}, f"number.bins is {bins}: expected a whole number from 2 to 256")
            for cls in (BinNumbers, PiecewiseNumbers)
            for bins in (1, 257, 2.5)
        ),
        (AutoDisNumbers, {"bins": 1}, "number.bins is 1: AutoDis needs at least 2"),
        (AutoDisNumbers, {"temperature": 0.0}, "number.temperature is 0.0: expected a positive number"),
        (AutoDisNumbers, {"temperature": NAN}, "number.temperature is nan: expected a positive number"),
        (PeriodicNumbers, {"frequencies": 0}, "number.frequencies is 0: expected at least 1"),
        (PeriodicNumbers, {"sigma": -1.0}, "number.sigma is -1.0: expected a positive number"),
        (PeriodicNumbers, {"lite": True, "activation": False}, "number.lite is true and number.activation is false"),
    ],
)
def test_invalid_options_are_reported(cls, options, message):
    with pytest.raises(InputError, match=message):
        cls(FIELDS, 4, **options)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "number").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_config_has_all_options_with_their_defaults(path):
    config = OmegaConf.load(path)
    module = hydra.utils.instantiate(config)(FIELDS, 4)
    assert module(draw(3, missing=0.3)).shape == (3, 5, 4)
    options = list(inspect.signature(type(module)).parameters.values())[2:]
    assert {key: config[key] for key in config if not key.startswith("_")} == {
        option.name: option.default for option in options
    }


def test_every_class_has_a_config():
    targets = [OmegaConf.load(path)["_target_"] for path in (ROOT / "conf" / "number").glob("*.yaml")]
    assert sorted(targets) == sorted(f"tf4ctr.models.numbers.{cls.__name__}" for cls in CLASSES)


def test_piecewise_with_activation_learns():
    """Its weights do not start at zero, where relu has no gradient."""
    module = PiecewiseNumbers(FIELDS, 4, bins=4, activation=True)
    module(draw(50)).square().sum().backward()
    assert module.embedding.linear.weight.grad.abs().max() > 0
