import pytest
import torch
from scipy import stats

from tf4ctr.models.dropout import Dropout

ROWS, COLUMNS = 500, 401  # an odd number of elements: the last random word gives fewer than four


def zeros(probability, seed=0):
    torch.manual_seed(seed)
    return Dropout(probability)(torch.ones(ROWS, COLUMNS)) == 0


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_elements_are_dropped_with_the_given_probability(probability):
    dropped = int(zeros(probability).sum())
    assert stats.binomtest(dropped, ROWS * COLUMNS, probability).pvalue > 1e-4


def test_neighbouring_elements_rows_and_columns_are_independent():
    drop = zeros(0.3)
    for a, b in ((drop[:, 1:], drop[:, :-1]), (drop[1:], drop[:-1]), (drop[:, 4:], drop[:, :-4])):
        table = [[int((a == i).logical_and(b == j).sum()) for i in (True, False)] for j in (True, False)]
        assert stats.chi2_contingency(table).pvalue > 1e-4
    for counts in (drop.sum(0), drop.sum(1)):  # no column or row is dropped too often
        elements = drop.numel() / len(counts)
        chi2 = ((counts - elements * 0.3) ** 2 / (elements * 0.3 * 0.7)).sum().item()
        assert 1e-4 < stats.chi2.sf(chi2, len(counts)) < 1 - 1e-4


@pytest.mark.parametrize("probability", [0.1, 1 / 3, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_other_elements_are_scaled_to_keep_the_mean(probability, dtype):
    out = Dropout(probability)(torch.ones(ROWS, COLUMNS, dtype=dtype))
    assert out.dtype == dtype
    scale = out[out != 0].unique().double()
    assert scale.tolist() == pytest.approx([1 / (1 - probability)], rel=8e-3 if dtype == torch.bfloat16 else 1e-3)


def test_the_mask_depends_on_the_seed():
    assert torch.equal(zeros(0.4, seed=1), zeros(0.4, seed=1))
    assert not torch.equal(zeros(0.4, seed=1), zeros(0.4, seed=2))
    torch.manual_seed(1)
    layer, x = Dropout(0.4), torch.ones(8, 8)
    assert not torch.equal(layer(x), layer(x))


def test_the_gradient_is_the_mask():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_evaluation_and_probability_zero_change_nothing():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_a_probability_near_one_leaves_a_finite_scale():
    out = Dropout(0.999999)(torch.ones(1000))
    assert out.isfinite().all()
