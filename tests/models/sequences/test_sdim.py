import math

import numpy as np
import pytest
import torch

from layers import array
from sequence_checks import Both, check_config, check_exports
from tf4ctr.errors import InputError
from tf4ctr.models.sequences.sdim import HashedAttention

LENGTHS = (5, 3, 1, 0, 4)


def draw(lengths=LENGTHS, width=5, features=4, dtype=torch.float64):
    """Random histories [B, L, E] of the given lengths, which positions are known, and targets."""
    known = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    history = torch.randn(len(lengths), width, features, dtype=dtype) * known.unsqueeze(2)
    return history, known, torch.randn(len(lengths), features, dtype=dtype)


def build(features=4, width=5, **options):
    return HashedAttention(features, width, True, **options).double().eval()


# The equations


def expected(module, history, target, bits):
    """The vector of one history [n, E], and the weight of each of its values [n]."""
    projection = array(module.projection_EM).T
    groups = len(projection) // bits
    vector, weights = np.zeros(len(target)), np.zeros(len(history))
    for group in range(groups):
        total = np.zeros(len(target))
        for position, h in enumerate(history):
            # the hashes are independent, so any `bits` of them make a signature
            signs = [(r @ h >= 0, r @ target >= 0) for r in projection[group::groups]]
            assert len(signs) == bits
            if all(of_history == of_target for of_history, of_target in signs):
                total += h
                weights[position] += 1 / groups
        if total.any():
            vector += total / math.sqrt(sum(total**2)) / groups
    return vector, weights


@pytest.mark.parametrize(("hashes", "bits"), [(48, 3), (12, 1), (12, 4), (8, 2)])
def test_the_equations(hashes, bits):
    module = build(hashes=hashes, bits=bits)
    history, known, target = draw()
    out, weights = array(module(history, known, target)), array(module.weights(history, known, target))
    assert out.shape == (5, 4)
    assert weights.shape == (5, 5)
    assert weights.any()
    for row, length in enumerate(LENGTHS):
        vector, shares = expected(module, array(history[row, :length]), array(target[row]), bits)
        np.testing.assert_allclose(out[row], vector, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(weights[row], np.pad(shares, (0, 5 - length)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 3])
def test_the_weight_is_near_its_expectation_for_every_angle(bits):
    angles = np.linspace(0, math.pi, 9)
    target = torch.tensor([[1.0, 0.0]]).double()
    history = 0.3 * torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1)).unsqueeze(0)
    module = build(2, 9, hashes=30_000 * bits, bits=bits)
    weights = array(module.weights(history, torch.ones(1, 9, dtype=torch.bool), target))[0]
    np.testing.assert_allclose(weights, (1 - angles / math.pi) ** bits, atol=0.015)  # 5 standard errors
    assert weights[0] == 1
    assert weights[-1] == 0


def test_the_target_itself_always_counts_and_the_length_does_not():
    _, known, target = draw((1,), width=1)
    for scale in (1e-3, 1.0, 1e3):
        out = build()(scale * target.unsqueeze(1), known, target)
        torch.testing.assert_close(out, target / target.norm())


# Gradients, padding and empty histories


def test_gradients_flow_through_the_sum_alone():
    module, (history, known, target) = build(), draw()
    projections = torch.cat([history[known], target]) @ module.projection_EM
    assert projections.abs().min() > 1e-5  # no sign changes within a finite difference
    assert torch.autograd.gradcheck(lambda history: module(history, known, target), history.requires_grad_())
    out = module(history.detach(), known, target.requires_grad_())
    assert not out.requires_grad


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 5), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_histories_are_finite_and_change_no_other_row(lengths, dtype):
    module = build().to(dtype).train()
    history, known, target = draw(lengths, dtype=dtype)
    out = module(history.requires_grad_(), known, target)
    empty = ~known.any(1)
    assert torch.equal(out[empty], torch.zeros(int(empty.sum()), 4, dtype=dtype))
    assert not module.weights(history, known, target)[empty].any()
    (gradient,) = torch.autograd.grad(out.square().sum(), history)
    assert gradient.isfinite().all()
    assert not gradient[~known].any()
    for row in range(len(lengths)):
        alone = module(history[row : row + 1], known[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(alone.squeeze(0), out[row])


def test_padding_does_not_matter():
    module, (history, known, target) = build(), draw()
    longer = torch.cat([history, torch.zeros(5, 3, 4)], 1)
    known_longer = torch.cat([known, torch.zeros(5, 3, dtype=torch.bool)], 1)
    noise = torch.where(known_longer.unsqueeze(2), longer, 100 * torch.randn(5, 8, 4)).requires_grad_()
    weights = torch.cat([module.weights(history, known, target), torch.zeros(5, 3)], 1)
    for changed in (longer, noise):
        torch.testing.assert_close(module(changed, known_longer, target), module(history, known, target))
        torch.testing.assert_close(module.weights(changed, known_longer, target), weights)
    (gradient,) = torch.autograd.grad(module(noise, known_longer, target).square().sum(), noise)
    assert not gradient[~known_longer].any()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-9, 1e-4])
def test_tiny_embeddings_have_finite_gradients(size):
    history, known, target = draw((5, 5, 5), dtype=torch.float32)
    module, history = build().float(), (size * history).requires_grad_()
    out = module(history, known, size * target)
    (gradient,) = torch.autograd.grad(out.sum(), history)
    assert out.isfinite().all()
    assert gradient.abs().max() < 1e7
    if size == 1e-4:  # as the initial embeddings: their length does not matter
        torch.testing.assert_close(out, module(1e4 * history, known, target))


# The hashes


def test_a_checkpoint_contains_the_hashes():
    torch.manual_seed(1)
    module = build()
    torch.manual_seed(1)
    assert torch.equal(build().projection_EM, module.projection_EM)
    other, inputs = build(), draw()
    assert not torch.equal(other(*inputs), module(*inputs))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(*inputs), module(*inputs))
    assert not list(module.parameters())


def test_evaluation_does_not_round_a_sum_to_zero():
    module = build(3, 1, hashes=1, bits=1).float()
    module.projection_EM.fill_(1)
    known = torch.ones(1, 1, dtype=torch.bool)
    history, target = torch.tensor([[[1e8, -1.0, -1e8]]]), torch.tensor([[-1.0, 0.0, 0.0]])  # both sums are -1
    assert module.weights(history, known, target) == 1


# Types and graphs


def test_float32_and_autocast():
    module, (history, known, target) = build(), draw()
    exact = module(history, known, target)
    module, history, target = module.float(), history.float(), target.float()
    torch.testing.assert_close(module.train()(history, known, target).double(), exact)
    torch.testing.assert_close(module.eval()(history, known, target).double(), exact)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(history, known, target).double(), exact, rtol=0.02, atol=0.02)
        assert module.train()(history, known, target).isfinite().all()


def inputs_of(lengths):
    return dict(zip(("history", "known", "target"), draw(lengths, dtype=torch.float32), strict=True))


def test_exported_graphs_take_any_number_of_rows(tmp_path):
    check_exports(Both(build().float()), inputs_of, LENGTHS, tmp_path)


def test_a_compiled_module_has_the_same_outputs_and_gradients():
    torch.compiler.reset()
    module, (history, known, target) = build().train(), draw()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    outs = [function(history.requires_grad_(), known, target) for function in (module, compiled)]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), history) for out in outs))


# Options


@pytest.mark.parametrize(
    ("has_target", "options", "message"),
    [
        (False, {}, "sequence=sdim needs a target: the values of the history belong to no field (`of`)"),
        (True, {"bits": 0}, "sequence.bits is 0: expected at least 1"),
        (True, {"hashes": 0}, "sequence.hashes is 0: expected a multiple of sequence.bits, 3"),
        (True, {"hashes": 16}, "sequence.hashes is 16: expected a multiple of sequence.bits, 3"),
    ],
)
def test_invalid_options_are_reported(has_target, options, message):
    with pytest.raises(InputError) as error:
        HashedAttention(4, 5, has_target, **options)
    assert message in str(error.value)


def test_the_config_has_all_options_with_their_defaults():
    module = check_config("sdim", HashedAttention)
    assert module(*draw(dtype=torch.float32)).shape == (5, 4)
