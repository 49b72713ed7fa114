"""How a number becomes the embedding of its field: one class per way.

Every class maps numbers float32 [B, N], scaled, NaN where missing, to embeddings [B, N, D]. It is
built as `Class(fields, dim, **options)` from the number fields of a schema, at least one. They
contain the quantiles of the training split. `missing` [N, D] are the learned vectors of missing
values. A missing value has a gradient of 0, and only `missing` learns from it.

Shapes: B batch, N numbers, D embedding size, K bins or frequencies, Q quantiles.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tf4ctr.data.schema import Field
from tf4ctr.errors import InputError
from tf4ctr.models.rows import look_up

MAX_BINS = 256  # a schema contains 257 quantiles per number
# Larger numbers and infinity count as LIMIT, smaller ones as -LIMIT. It is beyond every 64-bit
# integer. LIMIT times a weight up to 0.1 has a square (as in FM) that is finite in float32.
LIMIT = 1e20
# Edges nearer than this share of their size are joined: rounding to float32 changes an encoding
# x / width - edge / width by about 1e-7 edge / width, so by at most 1% of a bin.
RESOLUTION = 1e-5


class LinearNumbers(nn.Module):
    """e = x w + b, with w and b in R^D per number; e = missing in R^D for a missing value.

    This is the feature tokenizer of FT-Transformer (Gorishniy et al., NeurIPS 2021). Without b it
    is the embedding of a number in AutoInt (Song et al., CIKM 2019).

    Args:
        init_std: standard deviation of the initial w, b and vectors of missing values.
    """

    def __init__(self, fields: Sequence[Field], dim: int, init_std: float = 1e-4) -> None:
        super().__init__()
        self.weight, self.bias, self.missing = (_normal(init_std, len(fields), dim) for _ in range(3))

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]"""
        is_missing_BN = numbers_BN.isnan().to(numbers_BN.dtype)
        # one product [x, is known, is missing] [w; b; missing]: several times faster than a choice
        # between two embeddings
        factor_BN3 = torch.stack([_known(numbers_BN), 1 - is_missing_BN, is_missing_BN], 2)
        weight_N3D = torch.stack([self.weight, self.bias, self.missing], 1)
        return torch.einsum("bni,nid->bnd", factor_BN3, weight_N3D)


class BinNumbers(nn.Module):
    """e = V[k] for c_k < x <= c_{k+1}, with k = 0, ..., K - 1, c_0 = -inf and c_K = inf.

    V [K, D] is a table per number. This is equal-frequency discretization: the cuts c_1, ...,
    c_{K-1} are quantiles of the training split. A number with few different values has fewer bins;
    a constant or all-missing number has one. A value outside the training range is in the first or
    last bin.

    Args:
        bins: the largest K of a number, 2 to 256.
        init_std: standard deviation of the initial tables and vectors of missing values.

    Raises:
        InputError: invalid `bins`.
    """

    cut_NK: Tensor
    first_N: Tensor

    def __init__(self, fields: Sequence[Field], dim: int, bins: int = 32, init_std: float = 1e-4) -> None:
        super().__init__()
        _check_bins(bins)
        cuts = [_cuts(field, bins) for field in fields]
        # unused cuts are infinite: no number is above them
        cut_NK = torch.full((len(fields), max(1, *map(len, cuts))), math.inf)
        for row_K, cut_K in zip(cut_NK, cuts, strict=True):
            row_K[: len(cut_K)] = cut_K
        bins_N = torch.tensor([len(cut_K) + 1 for cut_K in cuts])
        # the weights belong to these bins, so a checkpoint contains them
        self.register_buffer("cut_NK", cut_NK)
        self.register_buffer("first_N", bins_N.cumsum(0) - bins_N)
        self.weight = _normal(init_std, int(bins_N.sum()), dim)
        self.missing = _normal(init_std, len(fields), dim)

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]"""
        row_BN = self.first_N + self.bins(numbers_BN)
        missing_N = len(self.weight) + torch.arange(len(self.missing), device=row_BN.device)
        row_BN = torch.where(numbers_BN.isnan(), missing_N, row_BN)
        return look_up(torch.cat([self.weight, self.missing]), row_BN, sparse=False)

    def bins(self, numbers_BN: Tensor) -> Tensor:
        """The bin of each number, int64 [B, N], from 0; any bin for a missing value."""
        known_BN = _known(numbers_BN)
        if torch.compiler.is_compiling():  # ONNX has no binary search
            return (known_BN.unsqueeze(2) > self.cut_NK).sum(2)
        return torch.searchsorted(self.cut_NK, known_BN.T.contiguous()).T


class PiecewiseNumbers(nn.Module):
    """e = x w + b + V p(x), with p the piecewise linear encoding and w, b [D], V [D, K] per number.

    p_k(x) = clamp((x - a_k) / (a_{k+1} - a_k), 0, 1), with k = 0, ..., K - 1 and the edges
    a_0 < ... < a_K among the quantiles of the training split (Gorishniy et al., On Embeddings for
    Numerical Features in Tabular Deep Learning, NeurIPS 2022). x w + b and V = 0 at the start are
    version B of `rtdl_num_embeddings`, from TabM (Gorishniy et al., ICLR 2025). The library
    initialises w and b.

    A value outside [a_0, a_K] counts as the nearest edge. The library continues the outer pieces
    and x w + b instead: in a narrow piece, a value that is a little outside gets a huge encoding.

    Edges that float32 cannot separate are joined. A constant number v gets one piece with the edges
    v - r and v + r, with r = max(1, |v|). So does an all-missing number, with v = 0.

    Args:
        bins: the largest K of a number, 2 to 256.
        activation: relu(V p(x)) instead of V p(x). V then starts from random values, not from zero.
        init_std: standard deviation of the initial vectors of missing values.

    Raises:
        InputError: invalid `bins`.
    """

    lowest_N: Tensor
    highest_N: Tensor

    def __init__(
        self, fields: Sequence[Field], dim: int, bins: int = 32, activation: bool = False, init_std: float = 1e-4
    ) -> None:
        from rtdl_num_embeddings import PiecewiseLinearEmbeddings  # imports scikit-learn: a second

        super().__init__()
        _check_bins(bins)
        edges = [_edges(field, bins) for field in fields]
        # the weights belong to these edges, so a checkpoint contains them, as those in the library
        self.register_buffer("lowest_N", torch.stack([edge_K[0] for edge_K in edges]))
        self.register_buffer("highest_N", torch.stack([edge_K[-1] for edge_K in edges]))
        self.missing = _normal(init_std, len(fields), dim)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* has just two bin edges")  # such numbers are welcome
            self.embedding = PiecewiseLinearEmbeddings(edges, dim, activation=activation, version="B")
        if activation:  # the library starts V at zero, where relu has no gradient
            self.embedding.linear.reset_parameters()

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]"""
        emb_BND = self.embedding(_known(numbers_BN).clamp(self.lowest_N, self.highest_N))
        return _with_missing(emb_BND, numbers_BN, self.missing)


class PeriodicNumbers(nn.Module):
    """e = relu(V [cos(2 pi c x), sin(2 pi c x)] + b), with c [K], V [D, 2K] and b [D] per number.

    From Gorishniy et al. (On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS
    2022), with the layer and the initial values of `rtdl_num_embeddings`. c is learned.

    Args:
        frequencies: K.
        sigma: standard deviation of the initial c, which are drawn from N(0, sigma^2) within
            3 sigma. The most important option: try 0.01 to 10.
        activation: with relu.
        lite: one V and one b for all numbers (TabR, Gorishniy et al., ICLR 2024); only with relu.
        init_std: standard deviation of the initial vectors of missing values.

    Raises:
        InputError: no frequency, a sigma that is not positive, or lite without activation.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int,
        frequencies: int = 48,
        sigma: float = 0.01,
        activation: bool = True,
        lite: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        from rtdl_num_embeddings import PeriodicEmbeddings  # imports scikit-learn: a second

        super().__init__()
        if frequencies < 1:
            raise InputError(f"number.frequencies is {frequencies}: expected at least 1")
        if not 0 < sigma < math.inf:
            raise InputError(f"number.sigma is {sigma}: expected a positive number")
        if lite and not activation:
            raise InputError("number.lite is true and number.activation is false: lite needs number.activation=true")
        self.missing = _normal(init_std, len(fields), dim)
        self.embedding = PeriodicEmbeddings(
            len(fields),
            dim,
            n_frequencies=frequencies,
            frequency_init_scale=sigma,
            activation=activation,
            lite=lite,
        )

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]"""
        return _with_missing(self.embedding(_known(numbers_BN)), numbers_BN, self.missing)


class AutoDisNumbers(nn.Module):
    """e = M^T softmax((W h + skip h) / temperature), with h = leaky_relu(x w).

    w [K], W [K, K] and the meta-embeddings M [K, D] belong to one number. From AutoDis (Guo et al.,
    An Embedding Learning Framework for Numerical Features in CTR Prediction, KDD 2021): a number is
    in all bins at once, with learned shares.

    Args:
        bins: K, at least 2.
        temperature: tau; near 0 a number is in one bin only.
        skip: alpha, the weight of the skip connection.
        init_std: standard deviation of the initial meta-embeddings and vectors of missing values.
            w and W are initialised as in torch's `nn.Linear`.

    Raises:
        InputError: less than two bins, or a temperature that is not positive.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int,
        bins: int = 16,
        temperature: float = 1.0,
        skip: float = 0.1,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        if bins < 2:
            raise InputError(f"number.bins is {bins}: AutoDis needs at least 2")
        if not 0 < temperature < math.inf:
            raise InputError(f"number.temperature is {temperature}: expected a positive number")
        self.temperature, self.skip = temperature, skip
        self.hidden = nn.Parameter(torch.empty(len(fields), bins).uniform_(-1, 1))
        bound = 1 / math.sqrt(bins)
        self.mixing = nn.Parameter(torch.empty(len(fields), bins, bins).uniform_(-bound, bound))
        self.weight = _normal(init_std, len(fields), bins, dim)
        self.missing = _normal(init_std, len(fields), dim)

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]"""
        emb_BND = torch.einsum("bnk,nkd->bnd", self.shares(numbers_BN), self.weight)
        return _with_missing(emb_BND, numbers_BN, self.missing)

    def shares(self, numbers_BN: Tensor) -> Tensor:
        """The share of each bin, [B, N, K]. The shares of a number sum to 1."""
        hidden_BNK = F.leaky_relu(_known(numbers_BN).unsqueeze(2) * self.hidden)
        logit_BNK = torch.einsum("bnj,nkj->bnk", hidden_BNK, self.mixing) + self.skip * hidden_BNK
        return torch.softmax(logit_BNK / self.temperature, 2)


def _known(numbers_BN: Tensor) -> Tensor:
    """The numbers in [-LIMIT, LIMIT], 0 where missing: no NaN reaches a gradient."""
    return torch.nan_to_num(numbers_BN, nan=0.0).clamp(-LIMIT, LIMIT)


def _with_missing(emb_BND: Tensor, numbers_BN: Tensor, missing_ND: Tensor) -> Tensor:
    """The embeddings [B, N, D], replaced where the number is missing."""
    return torch.where(numbers_BN.isnan().unsqueeze(2), missing_ND, emb_BND)


def _normal(std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).normal_(std=std))


def _check_bins(bins: int) -> None:
    if not isinstance(bins, int) or not 2 <= bins <= MAX_BINS:
        raise InputError(f"number.bins is {bins}: expected a whole number from 2 to {MAX_BINS}")


def _quantiles(field: Field) -> Tensor:
    """The scaled quantiles of a number in the training split, [Q]; empty if all are missing."""
    quantiles = field.scaling.scaled_quantiles if field.scaling else []
    return torch.tensor(quantiles, dtype=torch.float64).clamp(-LIMIT, LIMIT).float()


def _at_even_ranks(quantile_Q: Tensor, steps: int) -> Tensor:
    """The quantiles at ranks 0, 1 / steps, ..., 1, to the nearest one, [steps + 1]."""
    return quantile_Q[torch.linspace(0, len(quantile_Q) - 1, steps + 1, dtype=torch.float64).round().long()]


def _cuts(field: Field, bins: int) -> Tensor:
    """The increasing cuts between the bins of a number, [K - 1].

    They are the quantiles at ranks 1/bins, ..., (bins - 1)/bins, without duplicates. No value is
    above a cut at the largest value, so the next smaller quantile replaces it.
    """
    quantile_Q = _quantiles(field)
    below = quantile_Q[quantile_Q < quantile_Q[-1:]]
    if not len(below):
        return below
    return torch.minimum(_at_even_ranks(quantile_Q, bins)[1:-1], below[-1]).unique()


def _edges(field: Field, bins: int) -> Tensor:
    """The increasing edges of the pieces of a number, [K + 1], at least two."""
    quantile_Q = _quantiles(field)
    points = _at_even_ranks(quantile_Q, bins).unique().tolist() if len(quantile_Q) else [0.0]
    edges = points[:1]
    for point in points[1:]:
        size = max(abs(edges[-1]), abs(point))
        if point - edges[-1] > max(RESOLUTION * size, 1 / LIMIT):
            edges.append(point)
    if len(edges) < 2:
        reach = max(1.0, abs(edges[0]))
        edges = [edges[0] - reach, edges[0] + reach]
    return torch.tensor(edges)
