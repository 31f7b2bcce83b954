r"""Sparse codes by an absolute-sum penalty: lasso, nonnegative lasso and elastic net.

.. math:: \min_z \tfrac12 \|x - D^\top z\|^2 + \alpha \|z\|_1 + \tfrac{\lambda}{2} \|z\|^2

scikit-learn's ``sparse_encode(algorithm="lasso_lars")`` minimises the same objective with
:math:`\lambda = 0`. The minimiser is found exactly, by homotopy (:mod:`vaesc.sparse._homotopy`);
rows whose arithmetic is doubtful are coded again in float64, and what is left by coordinate
descent.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from vaesc.sparse._blocks import DEFAULT_BLOCK_BYTES, BlockRunner
from vaesc.sparse._lasso_coder import LassoCoder
from vaesc.sparse._truncated_coder import TruncatedCoder
from vaesc.sparse._validation import as_dictionary, as_samples, check_level


def lasso(
    X: ArrayLike,
    dictionary: ArrayLike,
    alpha: float,
    *,
    ridge: float = 0.0,
    positive: bool = False,
    n_threads: int | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> csr_array:
    r"""Code each sample by the lasso, exactly.

    Args:
        X: Samples, shape (n, d), as in
            :func:`~vaesc.sparse.pursuit.orthogonal_matching_pursuit`.
        dictionary: Atoms, shape (K, d).
        alpha: Weight of the absolute sum, positive, in units of X times those of the atoms. Above
            the largest absolute correlation of a sample with an atom, its code is zero.
        ridge: Weight :math:`\lambda` of half the squared norm (elastic net), at least 0.
        positive: Allow only nonnegative coefficients.
        n_threads: Threads; None uses all cores. The codes do not depend on it.
        block_bytes: Memory for one thread's block of correlations.

    Returns:
        Codes, shape (n, K), in the precision of X, column indices sorted.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or a setting is out of range.
    """
    path = lasso_path(
        X,
        dictionary,
        [alpha],
        ridge=ridge,
        positive=positive,
        n_threads=n_threads,
        block_bytes=block_bytes,
    )
    return path[alpha]


def lasso_path(
    X: ArrayLike,
    dictionary: ArrayLike,
    alphas: Sequence[float],
    *,
    ridge: float = 0.0,
    positive: bool = False,
    n_threads: int | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> dict[float, csr_array]:
    """Code each sample at several weights in one run to the smallest.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        alphas: Weights of the absolute sum, positive, in any order, without repeats.
        ridge: Weight of half the squared norm, at least 0.
        positive: Allow only nonnegative coefficients.
        n_threads: Threads; None uses all cores.
        block_bytes: Memory for one thread's block of correlations.

    Returns:
        Weight -> codes, shape (n, K), in the order of `alphas`.

    Raises:
        ValueError: There is no weight or one twice, or as :func:`lasso`.
    """
    wanted = [float(alpha) for alpha in alphas]
    if not wanted or len(set(wanted)) < len(wanted) or not all(0 < a < np.inf for a in wanted):
        raise ValueError(
            f"alpha must be positive and finite, and no two alphas equal, got {wanted}; for "
            "alpha = 0 use least squares"
        )
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge must be 0 or positive, and finite, got {ridge}")
    atoms = as_dictionary(dictionary)
    falling = sorted(wanted, reverse=True)
    coder = LassoCoder(atoms, falling, ridge, positive)
    with BlockRunner(n_threads) as runner:
        packed = coder.code(as_samples(X, atoms.shape[1]), runner, block_bytes)
    codes = dict(zip(falling, packed, strict=True))
    return {alpha: codes[alpha] for alpha in wanted}


def lasso_pursuit(
    X: ArrayLike,
    dictionary: ArrayLike,
    sparsity_levels: Sequence[int],
    *,
    n_threads: int | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> dict[int, csr_array]:
    """Code each sample at several sparsity levels by the lasso's path.

    The weight of the absolute sum falls from where the code is zero, for each sample on its own,
    until one more than k atoms would be active, or to zero. Those active are the support, and
    their coefficients are refitted by least squares: the lasso chooses, but does not shrink. All
    levels come from one run to the largest. Computed in float64.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d), best of equal norm: the lasso favours long ones.
        sparsity_levels: Levels k from 1 to K, in any order, without repeats.
        n_threads: Threads; None uses all cores. The codes do not depend on it.
        block_bytes: Memory for one thread's block of correlations.

    Returns:
        Level -> codes, shape (n, K), in the precision of X and the order of `sparsity_levels`.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or there is no level or one twice.
    """
    atoms = as_dictionary(dictionary)
    wanted = [check_level("sparsity_levels", level, len(atoms)) for level in sparsity_levels]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"sparsity_levels must hold at least one level and none twice, got {wanted}"
        )
    coder = TruncatedCoder(atoms, sorted(wanted))
    with BlockRunner(n_threads) as runner:
        slots = coder.code(as_samples(X, atoms.shape[1]), runner, block_bytes)
    codes = dict(zip(sorted(wanted), slots.to_csr(), strict=True))
    return {level: codes[level] for level in wanted}


def duality_gap(
    X: ArrayLike,
    dictionary: ArrayLike,
    codes: csr_array,
    alpha: float,
    *,
    ridge: float = 0.0,
    positive: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound how far codes are from the best, without knowing the best.

    Args:
        X: Samples, shape (n, d).
        dictionary: Atoms, shape (K, d).
        codes: Codes to judge, shape (n, K).
        alpha: Weight of the absolute sum.
        ridge: Weight of half the squared norm.
        positive: Whether coefficients had to be nonnegative.

    Returns:
        For each sample its objective and its duality gap, in squared units of X, computed in
        float64. The objective exceeds the least possible one by at most the gap.

    Raises:
        ValueError: Shapes do not fit.
    """
    atoms = as_dictionary(dictionary, np.float64)
    samples = np.asarray(as_samples(X, atoms.shape[1]), np.float64)
    code = codes.astype(np.float64)
    residual = samples - code @ atoms
    squares = ridge * np.asarray(code.power(2).sum(axis=1)).ravel()
    gradient = residual @ atoms.T - ridge * code.toarray()
    steepest = (gradient if positive else np.abs(gradient)).max(axis=1)
    scale = alpha / np.maximum(steepest, alpha)
    left = np.square(residual).sum(axis=1) + squares
    objective = 0.5 * left + alpha * np.asarray(abs(code).sum(axis=1)).ravel()
    dual = scale * np.einsum("ij,ij->i", samples, residual) - 0.5 * scale**2 * left
    return objective, np.maximum(objective - dual, 0.0)
