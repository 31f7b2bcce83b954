r"""What the sparse code leaves over, in coordinates of its own for each kind of image.

An image is :math:`x = \hat x(a) + \mu_t + V_t^\top c`: what its sparse code decodes to, and
*details*, which are coefficients c in an orthonormal basis. Images of one kind t leave similar
things over (the seams of trousers are where trousers are), so each kind has its own mean and its
own Karhunen-Loève basis: the eigenvectors of the covariance of its residuals. Kinds are clusters
of training images.

The covariance of few images is drawn to that of all by `_PRIOR` imaginary ones.

References:
    Effros, Chou and Gray, "Weighted Universal Image Compression", 1999.
    https://doi.org/10.1109/83.791958 (a set of transforms, one chosen for each block)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import DataError

_PRIOR = 500
_IMAGES_A_KIND = 1200
"""Training images that a basis of its own takes."""
MOST_KINDS = 16
MOST_DETAILS = 400
_SPREAD = 40
"""Principal components of images that are clustered."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """A mean and a basis for each kind of image.

    Raises:
        DataError: They do not belong together, or are not finite.
    """

    centre: NDArray[np.float16]
    """Mean image of each kind, shape (T, P), P pixels."""
    mean: NDArray[np.float16]
    """Mean residual of each kind, shape (T, P)."""
    basis: NDArray[np.int8]
    """Rows, once scaled, are orthonormal but for rounding, shape (T, K, P)."""
    scale: NDArray[np.float32]
    """What rows of the basis are to be multiplied by, shape (T, K)."""

    def __post_init__(self) -> None:
        arrays = (self.centre, self.mean, self.basis, self.scale)
        ok = all(np.isfinite(a).all() and a.size for a in arrays)
        ok &= [a.dtype for a in arrays] == [np.float16, np.float16, np.int8, np.float32]
        t, k, p = self.basis.shape if self.basis.ndim == 3 else (0, 0, 0)
        if not ok or [a.shape for a in arrays] != [(t, p), (t, p), (t, k, p), (t, k)]:
            raise DataError(
                "a model's transforms must be finite arrays of shapes (T, P), (T, P), (T, K, P) "
                f"and (T, K), got {[(str(a.dtype), a.shape) for a in arrays]}; make the model again"
            )

    @property
    def n_kinds(self) -> int:
        """Number of kinds of images, T."""
        return len(self.mean)

    @property
    def n_details(self) -> int:
        """Number of coordinates, K."""
        return int(self.basis.shape[1])

    def kinds(self, flat: Floats) -> NDArray[np.int64]:
        """Return the kind of each image, that of the nearest centre; flat (n, P) -> (n,)."""
        centre = self.centre.astype(np.float32)
        return np.asarray((np.square(centre).sum(axis=1) - 2 * flat @ centre.T).argmin(axis=1))

    def project(self, residuals: Floats, kinds: NDArray[Any]) -> Floats:
        """Return details of residuals, (n, P) -> (n, K)."""
        found = np.empty((len(residuals), self.n_details), np.float32)
        for t in np.unique(kinds):
            mine = kinds == t
            basis = self._rows(int(t))
            found[mine] = (residuals[mine] - self.mean[t].astype(np.float32)) @ basis.T
        return found

    def residuals(self, details: Floats, kinds: NDArray[Any]) -> Floats:
        """Return the residuals that details stand for, (n, K) -> (n, P)."""
        found = np.empty((len(details), self.mean.shape[1]), np.float32)
        for t in np.unique(kinds):
            mine = kinds == t
            basis = self._rows(int(t))
            found[mine] = details[mine] @ basis + self.mean[t].astype(np.float32)
        return found

    def _rows(self, t: int) -> Floats:
        return self.basis[t] * self.scale[t][:, None]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Transforms:
        """Return what :meth:`arrays` gave."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def learn_transforms(flat: Floats, residuals: Floats, *, seed: int) -> Transforms:
    """Return the transforms of training images.

    Args:
        flat: Images in [0, 1], shape (n, P).
        residuals: What their sparse codes leave over, shape (n, P).
        seed: Chooses where the clusters begin.
    """
    n, p = flat.shape
    kinds = _clusters(flat, int(np.clip(n // _IMAGES_A_KIND, 1, MOST_KINDS)), seed)
    mean = residuals.mean(axis=0)
    everywhere = _covariance(residuals - mean)
    centres, means, bases = [], [], []
    for t in range(int(kinds.max()) + 1):
        mine = residuals[kinds == t]
        own = (mine.sum(axis=0) + _PRIOR * mean) / (len(mine) + _PRIOR)
        drawn = (len(mine) * _covariance(mine - own) + _PRIOR * everywhere) / (len(mine) + _PRIOR)
        vectors = np.linalg.eigh(drawn)[1][:, ::-1].T
        bases.append(_same_way_up(vectors[: min(p, MOST_DETAILS)]))
        centres.append(flat[kinds == t].mean(axis=0))
        means.append(own)
    rows = np.stack(bases)
    # As bytes: an error of 1 % in a detail, a quarter of the model's size.
    scale = np.asarray(np.abs(rows).max(axis=2) / 127, np.float32)
    return Transforms(
        centre=np.asarray(centres, np.float16), mean=np.asarray(means, np.float16),
        basis=np.rint(rows / scale[..., None]).astype(np.int8), scale=scale,
    )  # fmt: skip


def _clusters(flat: Floats, n_kinds: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    if n_kinds == 1:
        return np.zeros(len(flat), np.int64)
    spread = PCA(min(_SPREAD, *flat.shape), svd_solver="covariance_eigh").fit_transform(flat)
    labels = KMeans(n_kinds, n_init=1, max_iter=30, random_state=seed).fit_predict(spread)
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)


def _covariance(centred: Floats) -> NDArray[np.float64]:
    return np.asarray(centred.T @ centred / max(len(centred), 1), np.float64)


def _same_way_up(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Give eigenvectors, known up to their sign, the sign of their largest entry."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return np.asarray(vectors * np.sign(largest), np.float64)
