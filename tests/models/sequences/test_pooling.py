import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from conftest import ROOT
from layers import array
from sequence_checks import check_exports
from tf4ctr.models.sequences.pooling import MaxPooling, MeanPooling, SumPooling

LENGTHS = (5, 3, 1, 0, 4)
CLASSES = [SumPooling, MeanPooling, MaxPooling]
POOLS = {
    SumPooling: lambda values: sum(values),
    MeanPooling: lambda values: sum(values) / len(values),
    MaxPooling: lambda values: max(values),
}


def draw(lengths=LENGTHS, width=5, features=4, dtype=torch.float64):
    """Random histories [B, L, E] of the given lengths, and which positions are known."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2), known


@pytest.mark.parametrize("cls", CLASSES)
def test_the_equations(cls):
    history, known = draw()
    history[0] = -history[0].abs()  # the largest number of a history may be negative
    out = array(cls(4, 5, False)(history, known, None))
    assert out.shape == (5, 4)
    for row, length in enumerate(LENGTHS):
        for e in range(4):
            values = history[row, :length, e].tolist()
            assert out[row, e] == pytest.approx(POOLS[cls](values) if values else 0.0)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_target_is_not_needed_and_changes_nothing(cls):
    history, known = draw()
    target = torch.randn(5, 4, dtype=torch.float64)
    assert not cls.needs_target
    assert torch.equal(cls(4, 5, True)(history, known, target), cls(4, 5, False)(history, known, None))
    assert not list(cls(4, 5, True).parameters())


@pytest.mark.parametrize("cls", CLASSES)
def test_gradients(cls):
    history, known = draw()
    assert torch.autograd.gradcheck(lambda history: cls(4, 5, False)(history, known, None), history.requires_grad_())


def test_one_of_several_largest_numbers_has_the_gradient():
    history, known = torch.ones(1, 3, 2, requires_grad=True), torch.tensor([[True, True, False]])
    MaxPooling(2, 3, False)(history, known, None).sum().backward()
    assert history.grad.sum(1).tolist() == [[1.0, 1.0]]
    assert not history.grad[~known].any()


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 5), (0,), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cls", CLASSES)
def test_empty_histories_are_zero_and_have_no_gradient(cls, lengths, dtype):
    history, known = draw(lengths, dtype=dtype)
    out, empty = cls(4, 5, False)(history.requires_grad_(), known, None), ~known.any(1)
    assert out.dtype == dtype
    assert torch.equal(out[empty], torch.zeros(int(empty.sum()), 4, dtype=dtype))
    (gradient,) = torch.autograd.grad(out.square().sum() + out.sum(), history)
    assert gradient.isfinite().all()
    assert not gradient[~known].any()


@pytest.mark.parametrize("cls", CLASSES)
def test_padding_does_not_matter(cls):
    module, (history, known) = cls(4, 5, False), draw()
    longer = torch.cat([history, torch.zeros(5, 3, 4)], 1)
    known_longer = torch.cat([known, torch.zeros(5, 3, dtype=torch.bool)], 1)
    noise = torch.where(known_longer.unsqueeze(2), longer, 100 * torch.randn(5, 8, 4)).requires_grad_()
    for changed in (longer, noise):
        torch.testing.assert_close(module(changed, known_longer, None), module(history, known, None))
    (gradient,) = torch.autograd.grad(module(noise, known_longer, None).square().sum(), noise)
    assert not gradient[~known_longer].any()


@pytest.mark.parametrize("cls", CLASSES)
def test_autocast(cls):
    history, known = draw(dtype=torch.float32)
    exact = cls(4, 5, False)(history, known, None)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cls(4, 5, False)(history, known, None).float(), exact, rtol=0.02, atol=0.02)


class WithoutTarget(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, history, known):
        return self.module(history, known, None)


def inputs_of(lengths):
    return dict(zip(("history", "known"), draw(lengths, dtype=torch.float32), strict=True))


@pytest.mark.parametrize("cls", CLASSES)
def test_exported_graphs_take_any_number_of_rows(cls, tmp_path):
    check_exports(WithoutTarget(cls(4, 5, False)).eval(), inputs_of, LENGTHS, tmp_path, atol=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_compiled_module_has_the_same_outputs_and_gradients(cls):
    torch.compiler.reset()
    module, (history, known) = cls(4, 5, False), draw()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    outs = [function(history.requires_grad_(), known, None) for function in (module, compiled)]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), history) for out in outs))


@pytest.mark.parametrize(("name", "cls"), [("sum", SumPooling), ("mean", MeanPooling), ("max", MaxPooling)])
def test_the_configs(name, cls):
    module = hydra.utils.instantiate(OmegaConf.load(ROOT / "conf" / "sequence" / f"{name}.yaml"))(4, 5, False)
    assert type(module) is cls
