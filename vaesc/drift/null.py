r"""What batches show that have not drifted: thresholds with a stated rate of false alarms.

The reference is a sample itself: a batch of the same data differs from it for two reasons, its own
chance and the reference's. So both are drawn again, whole images from the reference's, with
replacement: a reference of m images, and a batch of n. Of B such pairs the statistic of at most

.. math:: r = \lfloor (B + 1)\, \alpha / 3 \rfloor

exceeds the threshold, the r-th largest. If a batch is exchangeable with the drawn ones, each of
the three statistics exceeds its threshold with a probability of at most alpha / 3, and any of them
with at most alpha (Bonferroni).

Batches above four times the reference are drawn with that size: what is left to chance is then the
reference almost alone, and drawing fewer can only raise the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.config import derive_seed
from vaesc.drift.reference import Floats, Reference
from vaesc.drift.statistics import usage_divergence
from vaesc.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ALPHA = 1e-3
"""Largest probability that a batch without drift exceeds a threshold."""
DRAWS = 9_999
"""Pairs drawn, B."""
NAMES = ("usage_divergence", "l0_shift", "mse_distance")
"""The statistics, in order."""
_LARGEST = 4
"""Batches are drawn with at most this many times the reference's images."""
_NUMBERS = 1 << 20
"""Numbers drawn at a time: memory stays bounded."""


@lru_cache(maxsize=8)
def thresholds(
    reference: Reference, n_images: int, alpha: float = ALPHA, draws: int = DRAWS, seed: int = 0
) -> tuple[float, ...]:
    """Return what each of :data:`NAMES` exceeds in a batch without drift at most rarely.

    Args:
        reference: The reference.
        n_images: Images of the batch.
        alpha: Probability that any of them is exceeded.
        draws: Pairs drawn; at least ``3 / alpha``.
        seed: Seed of the draws; the same seed gives the same thresholds.

    Raises:
        ConfigError: `alpha` is not in (0, 1), or too small for so few draws.
    """
    rank = rank_of(alpha, draws)
    found = null_statistics(reference, n_images, draws, seed)
    return tuple(float(value) for value in np.sort(found, axis=0)[-rank])


def rank_of(alpha: float, draws: int = DRAWS) -> int:
    """Return how many of the draws may exceed a threshold, r.

    Raises:
        ConfigError: `alpha` is not in (0, 1), or too small for so few draws.
    """
    rank = int((draws + 1) * alpha / len(NAMES)) if 0 < alpha < 1 else 0
    if rank < 1:
        raise ConfigError(
            f"alpha must be below 1 and at least {len(NAMES) / (draws + 1):.2g} for {draws} "
            f"draws, got {alpha:g}; raise alpha, or draw more"
        )
    return rank


def null_statistics(reference: Reference, n_images: int, draws: int, seed: int) -> Floats:
    """Return the statistics of pairs drawn from the reference, shape (draws, 3)."""
    rng = np.random.default_rng(derive_seed(seed, "drift/null"))
    m = reference.n_images
    n = min(n_images, _LARGEST * m)
    images_of_atoms, step = _images_of_atoms(reference), max(1, _NUMBERS // max(m, n))
    found = []
    for start in range(0, draws, step):
        pairs = min(step, draws - start)
        own, other = (
            _Drawn.of(reference, images_of_atoms, _counts(rng, m, size, pairs), size)
            for size in (m, n)
        )
        found.append(
            np.stack(
                [
                    usage_divergence(own.uses, other.uses),
                    np.abs(own.l0 - other.l0),
                    np.abs(own.shares - other.shares).max(axis=1),
                ],
                axis=1,
            )
        )
    return np.concatenate(found)


@dataclass(frozen=True)
class _Drawn:
    """Samples of the reference's images, one a row."""

    uses: Floats
    """Images that use each atom, shape (pairs, K)."""
    l0: Floats
    """Mean number of atoms, shape (pairs,)."""
    shares: Floats
    """Share of images whose error does not exceed each different one, increasing."""

    @classmethod
    def of(
        cls,
        reference: Reference,
        images_of_atoms: csr_array,
        counts: NDArray[np.int64],
        size: int,
    ) -> _Drawn:
        by_error = np.argsort(np.asarray(reference.mse), kind="stable")
        ends = np.flatnonzero(np.append(np.diff(reference.sorted_mse) > 0, True))
        uses = np.ascontiguousarray((images_of_atoms @ counts.T).T, np.float64)
        shares = np.cumsum(counts[:, by_error], axis=1)[:, ends] / size
        return cls(uses=uses, l0=uses.sum(axis=1) / size, shares=shares)


def _counts(rng: np.random.Generator, m: int, size: int, pairs: int) -> NDArray[np.int64]:
    """Draw `size` of m images, with replacement, and count each: shape (pairs, m)."""
    rows = rng.integers(m, size=(pairs, size))
    rows += m * np.arange(pairs)[:, None]
    return np.bincount(rows.ravel(), minlength=pairs * m).reshape(pairs, m)


def _images_of_atoms(reference: Reference) -> csr_array:
    """Return which images use each atom, ones and zeros, shape (K, m)."""
    from scipy.sparse import csr_array

    rows = np.repeat(np.arange(reference.n_images), reference.l0)
    shape = (reference.n_atoms, reference.n_images)
    return csr_array((np.ones(len(rows)), (reference.atoms, rows)), shape=shape)
