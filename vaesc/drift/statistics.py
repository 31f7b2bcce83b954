"""What is kept of a batch, however large: sums and counts, added over blocks without any loss.

Atoms are counted; errors are counted by where they fall among the errors of the reference, which
is all that the exact Kolmogorov-Smirnov distance and the conformal p-values depend on. Sums of
floats are sums of multiples of a fixed power of two, small enough to be exact in double
precision. So the statistics of a whole are, bit for bit, those of its parts added in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.drift.reference import Floats, Ints, Reference, used
from vaesc.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MSE_BITS, _ENERGY_BITS = 32, 16
"""Bits after the binary point: sums are exact below 2^21 and 2^37, and harmlessly not beyond."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of a batch of images beside a reference; ``a + b`` are those of both."""

    n_images: int
    uses: Ints
    """Number of images that use each atom, shape (K,)."""
    energy: Floats
    """Sum of the squared coefficients of each atom, shape (K,)."""
    places: Ints
    """Number of errors at each place among the m of the reference, shape (2 m + 1,): place a + b
    for a of them below and b of them not above."""
    mse_sum: float
    """Sum of the errors."""

    @classmethod
    def of(cls, reference: Reference, codes: csr_array, mse: NDArray[Any]) -> Statistics:
        """Return the statistics of a block of images.

        Args:
            reference: What it is to be compared with.
            codes: The images' codes, shape (n, K).
            mse: Their errors, shape (n,).

        Raises:
            DataError: The codes have another number of atoms, or not one row an error.
        """
        if codes.shape != (len(mse), reference.n_atoms):
            raise DataError(
                f"codes must have shape ({len(mse)}, {reference.n_atoms}): a row for each error "
                f"and a column for each atom of the reference, got {codes.shape}"
            )
        _, atoms, values = used(codes)
        k, errors = reference.n_atoms, np.asarray(mse, np.float64)
        ordered = reference.sorted_mse
        energy = np.bincount(atoms, _gridded(np.square(values), _ENERGY_BITS), minlength=k)
        places = sum(np.searchsorted(ordered, errors, side=side) for side in ("left", "right"))
        return cls(
            n_images=len(errors),
            uses=np.bincount(atoms, minlength=k),
            energy=np.asarray(energy, np.float64),
            places=np.bincount(places, minlength=2 * len(ordered) + 1),
            mse_sum=float(_gridded(errors, _MSE_BITS).sum()),
        )

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            n_images=self.n_images + other.n_images,
            uses=self.uses + other.uses,
            energy=self.energy + other.energy,
            places=self.places + other.places,
            mse_sum=self.mse_sum + other.mse_sum,
        )

    @property
    def mse(self) -> float:
        """Mean error of the images."""
        return self.mse_sum / self.n_images

    @property
    def l0(self) -> float:
        """Mean number of atoms of an image."""
        return float(self.uses.sum()) / self.n_images


def usage_divergence(uses: NDArray[Any], others: NDArray[Any]) -> Floats:
    r"""Jensen-Shannon divergence between two distributions of uses over atoms, in bits.

    .. math:: H\left(\tfrac{p + q}{2}\right) - \tfrac{H(p) + H(q)}{2}

    Half a use is added to every atom, so that one which few images use does not count as never
    seen.

    Args:
        uses: Uses of each atom, shape (..., K).
        others: The same of other images.

    Returns:
        Shape (...): 0 where both are proportional, at most 1.
    """
    return np.asarray(divergence_by_atom(uses, others).sum(axis=-1))


def divergence_by_atom(uses: NDArray[Any], others: NDArray[Any]) -> Floats:
    """Return what each atom adds to :func:`usage_divergence`, shape (..., K), at least 0."""
    p, q = (_smoothed(np.asarray(u, np.float64)) for u in (uses, others))
    middle = (p + q) / 2
    found = (p * np.log2(p / middle) + q * np.log2(q / middle)) / 2
    return np.asarray(np.maximum(found, 0))


def mse_distance(reference: Reference, statistics: Statistics) -> float:
    """Return the Kolmogorov-Smirnov distance between the errors of a batch and the reference's.

    It is the largest difference between the shares of both that do not exceed some error: from 0
    to 1, and exact, although the batch's errors were not kept: between two errors of the
    reference its share stands still and the batch's grows, so the difference is largest at the
    ends.
    """
    ordered, counted = reference.sorted_mse, np.cumsum(statistics.places)
    distinct = np.unique(ordered)
    below, upto = (np.searchsorted(ordered, distinct, side=side) for side in ("left", "right"))
    at = below + upto
    m, n = len(ordered), statistics.n_images
    before = np.abs(below / m - counted[at - 1] / n)
    after = np.abs(upto / m - counted[at] / n)
    return float(max(before.max(), after.max()))


def _smoothed(uses: Floats) -> Floats:
    more = uses + 0.5
    return np.asarray(more / more.sum(axis=-1, keepdims=True))


def _gridded(values: Floats, bits: int) -> Floats:
    """Round to multiples of 2^-bits, whose sums are exact in double precision in any order."""
    return np.asarray(np.rint(values * 2.0**bits) / 2.0**bits)
