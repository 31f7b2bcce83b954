r"""The last digits of a lasso code whose atoms nearly depend on each other.

With support :math:`S` and signs :math:`s` given, the objective

.. math:: \tfrac12 \|x - A z\|^2 + \alpha s^\top z + \tfrac{\lambda}{2} \|z\|^2,
          \quad A = D_S^\top,

is a quadratic. Its minimum is sought from the atoms themselves, through the singular values of
:math:`A`, whose squares are those of the Gram matrix: half the digits are lost there. On the way
the first coefficient to reach zero leaves. Where :math:`A` has a null space, the code moves along
it until one does: some minimiser has no more nonzero coefficients than :math:`A` has rank.
"""

import numpy as np
from numpy.typing import NDArray

_RANK = 1e-14
"""Singular values below this part of the largest count as zero."""


def polish(
    atoms: NDArray[np.float64],
    sample: NDArray[np.float64],
    code: NDArray[np.float64],
    alpha: float,
    ridge: float,
) -> NDArray[np.float64]:
    """Return a code that is no worse but for rounding, on part of the support of `code`.

    Args:
        atoms: Dictionary, shape (K, d).
        sample: Shape (d,).
        code: Start, shape (K,).
        alpha: Weight of the absolute sum.
        ridge: Weight of half the squared norm.
    """
    better = code.copy()
    for _ in range(2 * np.count_nonzero(code) + 1):
        support = np.flatnonzero(better)
        if support.size == 0:
            break
        move, whole = _step(atoms[support], sample, better[support], alpha, ridge)
        value = better[support]
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(value * move < 0, -value / move, np.inf)
        first = float(reach.min())
        if first > 1.0 and whole:
            better[support] = value + move
            break
        if not np.isfinite(first):
            break
        better[support] = np.where(reach <= first, 0.0, value + first * move)
    before = _objective(atoms, sample, code, alpha, ridge)
    is_better = _objective(atoms, sample, better, alpha, ridge) <= before * (1 + 1e-13)
    return better if is_better else code


def _step(
    atoms: NDArray[np.float64],
    sample: NDArray[np.float64],
    value: NDArray[np.float64],
    alpha: float,
    ridge: float,
) -> tuple[NDArray[np.float64], bool]:
    """Return the way to the minimum and True, or a way of steady descent, or level, and False."""
    gradient = atoms @ (sample - value @ atoms) - alpha * np.sign(value) - ridge * value
    left, sizes, _ = np.linalg.svd(atoms, full_matrices=True)
    squares = np.zeros(len(value))
    squares[: sizes.size] = np.square(np.where(sizes > _RANK * sizes[0], sizes, 0.0))
    curvature = squares + ridge
    along = left.T @ gradient
    flat = curvature == 0
    if flat.any():
        steep = np.abs(along[flat]).max() > 1e-12 * alpha
        move = left[:, flat] @ along[flat] if steep else left[:, flat][:, 0]
        # On the level either way will do that ends somewhere.
        return (move if steep or (move * value < 0).any() else -move), False
    return left @ np.divide(along, curvature, out=np.zeros_like(along), where=~flat), True


def _objective(
    atoms: NDArray[np.float64],
    sample: NDArray[np.float64],
    code: NDArray[np.float64],
    alpha: float,
    ridge: float,
) -> float:
    residual = sample - code @ atoms
    squares = residual @ residual + ridge * (code @ code)
    return float(0.5 * squares + alpha * np.abs(code).sum())
