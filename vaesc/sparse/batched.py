r"""The same codes in torch, for tensors on CUDA and MPS devices.

Every step of the pursuit is done for all samples of a block at once (:mod:`vaesc.sparse._greedy`
tells the recurrences). On a CPU this moves too much memory to compete with the kernels; on a GPU
it is the better shape. Doubtful samples are coded again on the CPU in float64, as there.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from vaesc.sparse._blocks import BlockRunner
from vaesc.sparse._coder import GreedyCoder, thresholds, to_csr
from vaesc.sparse._greedy_range import HIGHEST, LOWEST
from vaesc.sparse._validation import Selection, as_dictionary, check_level, check_selection

DEFAULT_BYTES = 1 << 28
"""Memory of the device that a block of samples may take."""


def batched_pursuit(
    X: Tensor,
    dictionary: Tensor,
    n_nonzero_coefs: int,
    *,
    selection: Selection = "omp",
    block_bytes: int = DEFAULT_BYTES,
) -> csr_array:
    """Code each sample with at most `n_nonzero_coefs` atoms, on the device of `X`.

    Args:
        X: Samples, shape (n, d), float32 or float64, on any device.
        dictionary: Atoms, shape (K, d), rows of norm 1; moved to the device and dtype of `X`.
        n_nonzero_coefs: Sparsity level, from 1 to K.
        selection: ``"omp"`` or ``"ols"``.
        block_bytes: Device memory for one block of samples.

    Returns:
        Codes, shape (n, K), on the host; those of
        :func:`~vaesc.sparse.pursuit.orthogonal_matching_pursuit`, up to rounding.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or a setting is out of range.
    """
    check_selection(selection)
    if X.ndim != 2 or X.shape[1] != dictionary.shape[-1]:
        raise ValueError(
            f"X must have shape (n_samples, {dictionary.shape[-1]}), got {tuple(X.shape)}"
        )
    if X.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"X must be float32 or float64, got {X.dtype}; convert it first")
    host = as_dictionary(dictionary.detach().cpu().numpy())
    level = check_level("n_nonzero_coefs", n_nonzero_coefs, len(host))
    atoms = dictionary.detach().to(X.device, X.dtype)
    gram = atoms @ atoms.T
    n_atoms, n = len(host), len(X)
    chosen = np.zeros((n, level), np.int32)
    values = np.zeros((n, level), np.float32 if X.dtype == torch.float32 else np.float64)
    counts = np.zeros(n, np.int32)
    rows = max(1, block_bytes // (X.element_size() * n_atoms * (level + 6)))
    again: list[int] = []
    for start in range(0, n, rows):
        block = slice(start, min(start + rows, n))
        part = X[block].detach()
        doubtful = _code_block(
            part @ atoms.T, gram, level, selection == "ols", chosen[block], values[block],
            counts[block],
        )  # fmt: skip
        again.extend((start + np.flatnonzero(doubtful)).tolist())
    if again:
        _code_on_host(X, host, level, selection, np.array(again), (chosen, values, counts))
    return to_csr(chosen, values, counts, n_atoms)


def _code_block(
    corr: Tensor,
    gram: Tensor,
    level: int,
    ols: bool,
    chosen: NDArray[np.int32],
    values: NDArray[Any],
    counts: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Code a block from its correlations (b, K), filling the arrays; return the doubtful rows."""
    b, n_atoms = corr.shape
    dependent, hazy = thresholds(corr.element_size())
    diagonal = gram.diagonal()
    basis = corr.new_zeros(b, level, n_atoms)
    factor = corr.new_zeros(b, level, level)
    coefs, inverses = corr.new_zeros(b, level), corr.new_ones(b, level)
    picks = torch.zeros(b, level, dtype=torch.long, device=corr.device)
    norm_sq = diagonal.expand(b, n_atoms).clone()
    is_open = torch.ones_like(corr, dtype=torch.bool)
    running = torch.ones(b, dtype=torch.bool, device=corr.device)
    doubtful, size = ~running, torch.zeros_like(picks[:, 0])
    floor, peak = dependent * diagonal, corr.abs().amax(dim=1)
    doubtful |= ~((peak > LOWEST) & (peak < HIGHEST))
    corr = torch.where(doubtful[:, None], torch.zeros_like(corr), corr)
    first = peak
    tiny = (16 * torch.finfo(corr.dtype).eps) ** (2 if ols else 1)
    for step in range(level):
        # Less than the floor is not told from nothing here: the host will, if such an atom wins.
        left = norm_sq.maximum(floor).clamp_min(1e-30)
        score = corr.square() / left if ols else corr.abs()
        score = torch.where(is_open, score, torch.zeros_like(score))
        top, pick = score.max(dim=1)
        first = top if step == 0 else first
        running = running & (top > first * tiny)
        links = basis[:, :step].gather(2, pick[:, None, None].expand(b, step, 1)).squeeze(2)
        pivot = diagonal[pick] - links.square().sum(dim=1)
        doubtful |= running & (pivot <= hazy * diagonal[pick])
        running = running & (pivot > floor[pick])
        inverse = torch.where(running, pivot, torch.ones_like(pivot)).rsqrt()
        coef = torch.where(running, corr.gather(1, pick[:, None]).squeeze(1) * inverse, 0)
        row = gram[pick] - torch.bmm(links[:, None], basis[:, :step]).squeeze(1)
        row = torch.where(running[:, None], row * inverse[:, None], torch.zeros_like(row))
        basis[:, step], factor[:, step, :step] = row, links
        corr, norm_sq = corr - coef[:, None] * row, norm_sq - row.square()
        is_open.scatter_(1, pick[:, None], False)
        coefs[:, step], inverses[:, step], picks[:, step] = coef, inverse, pick
        size += running
    for i in range(level - 1, -1, -1):
        value = coefs[:, i] * inverses[:, i]
        coefs[:, :i] -= factor[:, i, :i] * value[:, None]
        coefs[:, i] = value
    # Unused slots go behind the sorted atoms.
    slots = torch.arange(level, device=corr.device)
    order = torch.where(slots < size[:, None], picks, n_atoms).argsort(dim=1)
    chosen[:] = picks.gather(1, order).cpu().numpy()
    values[:] = coefs.gather(1, order).cpu().numpy()
    counts[:] = size.cpu().numpy()
    return np.asarray(doubtful.cpu().numpy())


def _code_on_host(
    X: Tensor,
    dictionary: NDArray[Any],
    level: int,
    selection: Selection,
    again: NDArray[np.int64],
    out: tuple[NDArray[Any], NDArray[Any], NDArray[np.int32]],
) -> None:
    """Code some samples by the kernels in float64."""
    samples = X[torch.as_tensor(again, device=X.device)].detach().cpu().numpy()
    coder = GreedyCoder(dictionary.astype(np.float64), [level], selection)
    with BlockRunner(1) as runner:
        slots = coder.code(samples.astype(np.float64), runner, 1 << 20)
    out[0][again], out[1][again], out[2][again] = slots.atoms, slots.values, slots.counts[:, 0]


def fista(
    X: Tensor,
    dictionary: Tensor,
    alpha: float,
    *,
    ridge: float = 0.0,
    positive: bool = False,
    max_iter: int = 1000,
    rtol: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    r"""Lasso codes by accelerated proximal gradient descent, for tensors on any device.

    .. math:: \min_z \tfrac12 \|x - D^\top z\|^2 + \alpha \|z\|_1 + \tfrac{\lambda}{2} \|z\|^2

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        alpha: Weight of the absolute sum, positive.
        ridge: Weight :math:`\lambda` of half the squared norm.
        positive: Allow only nonnegative coefficients.
        max_iter: Most steps.
        rtol: Stop when every sample's duality gap is at most this fraction of its objective.

    Returns:
        Dense codes, shape (n, K), and each sample's relative duality gap, shape (n,). Momentum
        restarts whenever it points uphill, for each sample on its own.

    Raises:
        ValueError: `alpha` is not positive or `ridge` is negative.

    References:
        Beck, Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse
        Problems", 2009. https://doi.org/10.1137/080716542
        O'Donoghue, Candes, "Adaptive Restart for Accelerated Gradient Schemes", 2015.
    """
    if not alpha > 0 or not ridge >= 0:
        raise ValueError(f"alpha must be positive and ridge not negative, got {alpha}, {ridge}")
    atoms = dictionary.to(X.device, X.dtype)
    gram, target = atoms @ atoms.T, X @ atoms.T
    gram.diagonal().add_(ridge)
    # Row sums bound the largest eigenvalue without a decomposition, which some devices lack.
    rate = 1 / gram.abs().sum(dim=1).max().clamp_min(1e-30)
    codes = torch.zeros_like(target)
    ahead, t = codes, torch.ones_like(target[:, :1])
    gap = torch.full_like(target[:, 0], torch.inf)
    for step in range(max_iter):
        if step % 20 == 0:
            gap = _relative_gap(X, target, gram, codes, alpha, positive)
            if float(gap.max()) <= rtol:
                break
        moved = ahead - rate * (ahead @ gram - target)
        new = (moved - rate * alpha).clamp_min(0)
        if not positive:
            new = new - (-moved - rate * alpha).clamp_min(0)
        uphill = ((ahead - new) * (new - codes)).sum(dim=1, keepdim=True) > 0
        t = torch.where(uphill, torch.ones_like(t), t)
        longer = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead = new + (t - 1) / longer * (new - codes)
        codes, t = new, longer
    else:
        gap = _relative_gap(X, target, gram, codes, alpha, positive)
    return codes, gap


def _relative_gap(
    X: Tensor, target: Tensor, gram: Tensor, codes: Tensor, alpha: float, positive: bool
) -> Tensor:
    """Duality gap over the objective; the ridge, inside `gram`, counts as data rows of zero."""
    fitted = codes @ gram
    energy, link = X.square().sum(dim=1), (codes * target).sum(dim=1)
    left = (energy - 2 * link + (codes * fitted).sum(dim=1)).clamp_min(0)
    gradient = target - fitted
    steepest = (gradient if positive else gradient.abs()).amax(dim=1)
    scale = (alpha / steepest.clamp_min(1e-30)).clamp_max(1)
    objective = left / 2 + alpha * codes.abs().sum(dim=1)
    dual = scale * (energy - link) - scale.square() * left / 2
    return (objective - dual).clamp_min(0) / objective.clamp_min(1e-30)
