r"""How likely a sparse code is, atom by atom: the part of the explanation that atoms give.

Atoms are taken one by one. Atom j is used with probability :math:`u_j`, and its coefficient is
then normal with mean :math:`m_j` and standard deviation :math:`s_j`:

.. math::
    -\log p(a) = \sum_{j: a_j = 0} -\log(1 - u_j)
        + \sum_{j: a_j \ne 0} \Big[ -\log u_j + \log s_j \sqrt{2 \pi}
        + \tfrac12 \Big(\frac{a_j - m_j}{s_j}\Big)^2 \Big] .

Atoms that go together are not seen as such; in exchange the sum has one term an atom, which says
by how much that atom makes the image unusual. Each estimate is smoothed by two imaginary codes
that use the atom as the average atom is used: an atom that no code used is rare, not impossible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.drift.reference import used

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_IMAGINARY = 2.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AtomUse:
    """How usual images use each atom."""

    probability: Floats
    """u, in (0, 1), shape (K,)."""
    mean: Floats
    """m, shape (K,)."""
    std: Floats
    """s, positive, shape (K,)."""

    @classmethod
    def of(cls, codes: csr_array) -> AtomUse:
        """Estimate from the codes of usual images, shape (n, K), n at least 1."""
        _, atoms, values = used(codes)
        n, n_atoms = codes.shape
        count, total, square = (
            np.bincount(atoms, weights=w, minlength=n_atoms)
            for w in (np.ones_like(values), values, np.square(values))
        )
        energy = (values @ values + 1e-6) / (len(values) + 1)  # of a coefficient of any atom
        share = (len(values) + 1) / (n * n_atoms + 2)
        n_smoothed = count + _IMAGINARY
        mean = total / n_smoothed
        variance = (square + _IMAGINARY * energy) / n_smoothed - np.square(mean)
        return cls(
            probability=(count + _IMAGINARY * share) / (n + _IMAGINARY),
            mean=mean,
            std=np.sqrt(np.maximum(variance, 1e-6 * energy)),
        )

    def nats(self, codes: csr_array) -> Floats:
        """Return -log p of each code, shape (n,), in nats; may be negative, p is a density."""
        rows, atoms, values = used(codes)
        unused = -np.log1p(-self.probability)
        extra = sum(self.surprise(atoms, values)) - unused[atoms]
        found = np.bincount(rows, weights=extra, minlength=codes.shape[0])
        return np.asarray(unused.sum() + found, np.float64)

    def surprise(self, atoms: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Return the two terms of used atoms in nats: that it is used, and its coefficient."""
        distance = (values - self.mean[atoms]) / self.std[atoms]
        coefficient = np.log(self.std[atoms] * np.sqrt(2 * np.pi)) + np.square(distance) / 2
        return -np.log(self.probability[atoms]), coefficient
