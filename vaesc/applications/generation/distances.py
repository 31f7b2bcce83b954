r"""How far two sets of images are apart, measured on features, shape (n, f) each.

================= ==============================================================================
distance          of two sets of features X, Y
================= ==============================================================================
Fréchet           :math:`\|m_X - m_Y\|^2 + \mathrm{tr}(S_X + S_Y - 2 (S_X S_Y)^{1/2})`: the
                  squared Wasserstein distance of the two Gaussians of these moments
kernel (MMD\ :sup:`2`) :math:`E k(x, x') + E k(y, y') - 2 E k(x, y)`, with
                  :math:`k(a, b) = (a \cdot b / f + 1)^3`, over pairs of different images
================= ==============================================================================

With the features of a large network trained on ImageNet these are FID and KID. Here features come
from a small classifier of the run's own images, so values compare within a run, and not with
published FIDs: hence a floor (training images against test images) and a baseline beside each.

The Fréchet distance of finite sets is biased upwards, the more the fewer images; the kernel
distance is not, and may be a little below zero.

References:
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (FID), 2017.
    https://arxiv.org/abs/1706.08500
    Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs" (KID), 2018.
    https://arxiv.org/abs/1801.01401
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_BLOCK = 2048


def frechet_distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the Fréchet distance of two sets of features, at least 0, in squared feature units.

    Args:
        x: Shape (n, f), n at least 2.
        y: Shape (m, f), m at least 2.

    Raises:
        ValueError: There are fewer than two rows, or different numbers of features.
    """
    _check(x, y)
    return frechet_of_moments(*_moments(x), *_moments(y))


def frechet_of_moments(mean_x: Doubles, cov_x: Doubles, mean_y: Doubles, cov_y: Doubles) -> float:
    """Return the Fréchet distance of two Gaussians: means of shape (f,), covariances (f, f)."""
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # The eigenvalues of S_X S_Y are those of this symmetric product: no complex rounding.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0)).sum()
    distance = np.square(mean_x - mean_y).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    return max(float(distance), 0.0)


def kernel_distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the unbiased estimate of the squared kernel distance; without unit.

    Args:
        x: Shape (n, f), n at least 2.
        y: Shape (m, f), m at least 2.

    Raises:
        ValueError: There are fewer than two rows, or different numbers of features.
    """
    _check(x, y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _own(x)) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _own(y)) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: Doubles, y: Doubles) -> float:
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        base = x[start : start + _BLOCK] @ y.T / x.shape[1] + 1
        total += float((base * base * base).sum())
    return total


def _own(x: Doubles) -> float:
    """Return the sum of k(x, x) over the rows."""
    return float(((np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3).sum())


def _moments(x: NDArray[Any]) -> tuple[Doubles, Doubles]:
    x = np.asarray(x, np.float64)
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def _check(x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"two sets of features need at least 2 rows and equal columns, got shapes {x.shape} "
            f"and {y.shape}"
        )
