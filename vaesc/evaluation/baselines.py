r"""What else the article's method must beat, beside sparse codes of pixels.

The comparison that decides is with dictionaries of pixels
(:mod:`vaesc.evaluation.dictionaries`). Here are two more:

- *PCA* with k components (:func:`fit_pca`): the best linear code of k numbers, by Eckart and
  Young; unlike a sparse code it uses the same k atoms for every image.
- The article's step 4 *read literally* (:class:`LiteralFit`): codes of latents decoded by a
  dictionary in pixel space, :math:`x \approx D_x^\top a + \bar x`, where :math:`D_x` is the
  least-squares fit on the training codes of that same k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.evaluation.batches import Batches, Floats, mean_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_RIDGE = 1e-6
"""Ridge of the literal fit, relative to the mean energy of an atom's coefficients."""
_EXACT = 4096
"""Up to this many dimensions PCA diagonalises the whole covariance matrix."""


@dataclass(frozen=True, kw_only=True)
class PCA:
    """Principal components of samples: the k orthogonal directions of largest variance."""

    mean: Floats
    """Mean sample, shape (D,)."""
    components: Floats
    """Unit directions by decreasing variance, shape (n_components, D)."""

    def approximate(self, samples: Floats, k: int) -> Floats:
        """Return `samples`, shape (m, D), projected on the first k components."""
        first = self.components[:k]
        return np.asarray((samples - self.mean) @ first.T @ first + self.mean, np.float32)


def fit_pca(batches: Batches, n_components: int, *, seed: int) -> PCA:
    """Fit PCA to samples that pass by in batches.

    Up to 4096 dimensions the result is exact; beyond, it is found by randomised subspace
    iteration, without ever forming the covariance matrix.

    Args:
        batches: Starts a pass over the samples.
        n_components: Number of components; at most D are returned.
        seed: Seed of the subspace iteration's start.

    References:
        Halko, Martinsson, Tropp, "Finding structure with randomness", 2011.
        https://doi.org/10.1137/090771806
    """
    mean = mean_of(batches)
    n_components = min(n_components, mean.size)
    if mean.size <= _EXACT:
        components = _eigenvectors(_times_covariance(batches, mean, None), n_components)
    else:
        components = _iterated(batches, mean, n_components, seed)
    return PCA(mean=mean, components=np.ascontiguousarray(components.T, np.float32))


def _times_covariance(
    batches: Batches, mean: Floats, basis: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Return X^T X (times `basis`) of centred samples X, added up in float64."""
    total = np.zeros((mean.size, mean.size if basis is None else basis.shape[1]))
    for batch in batches():
        centred = batch - mean
        total += centred.T @ (centred if basis is None else centred @ basis)
    return total


def _eigenvectors(matrix: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the `n` leading eigenvectors of a symmetric matrix as columns, largest first."""
    from scipy.linalg import eigh

    size = len(matrix)
    _, vectors = eigh(matrix, subset_by_index=(size - n, size - 1))
    return np.asarray(vectors[:, ::-1])


def _iterated(batches: Batches, mean: Floats, n: int, seed: int) -> NDArray[np.float64]:
    width = min(mean.size, n + 16)
    basis = np.random.default_rng(seed).standard_normal((mean.size, width))
    for _ in range(8):
        basis, _ = np.linalg.qr(_times_covariance(batches, mean, basis.astype(np.float32)))
    small = basis.T @ _times_covariance(batches, mean, basis.astype(np.float32))
    return np.asarray(basis @ _eigenvectors((small + small.T) / 2, n))


class LiteralFit:
    """Least-squares fit of a pixel dictionary to codes of latents, one for every level.

    Only the normal equations are kept, so memory does not grow with the number of images. A ridge
    of a millionth of the mean energy keeps atoms that no training code uses at zero.

    Args:
        levels: Sparsity levels.
        n_atoms: Columns of the codes, K.
        mean: Mean training image, shape (n_pixels,).
    """

    def __init__(self, levels: Sequence[int], n_atoms: int, mean: Floats) -> None:
        self.mean = mean
        self._gram = {k: np.zeros((n_atoms, n_atoms)) for k in levels}
        self._right = {k: np.zeros((n_atoms, mean.size)) for k in levels}

    def add(self, codes: Mapping[int, csr_array], images: Floats) -> None:
        """Take in a batch: codes by level, each (m, K), and the images, (m, n_pixels)."""
        centred = images - self.mean
        for k, a in codes.items():
            transposed = a.T.tocsr()
            self._gram[k] += (transposed @ a).toarray()
            self._right[k] += transposed @ centred

    def solve(self) -> dict[int, Floats]:
        """Return the fitted dictionary of each level, shape (K, n_pixels), of any norm."""
        from scipy.linalg import solve

        fitted = {}
        for k, gram in self._gram.items():
            ridge = _RIDGE * float(np.trace(gram)) / len(gram) or 1.0
            regular = gram + ridge * np.eye(len(gram))
            fitted[k] = np.asarray(solve(regular, self._right[k], assume_a="pos"), np.float32)
        return fitted
