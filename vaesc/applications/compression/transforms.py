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
MOST_PIXELS = 4096
"""Values of an image beyond which there is no room for a covariance, and so no codec."""
_MOST_BYTES, _MOST_MOMENTS = 8_000_000, 20_000_000
"""Bytes of all bases, and numbers of all covariances while they are learned."""
_SPREAD = 40
"""Principal components of images that are clustered."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """A mean and a basis for each kind of image.

    Raises:
        DataError: They do not belong together, are not finite, or are too many or too large.
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
        if t > MOST_KINDS or k > MOST_DETAILS or (np.abs(self.scale) > 1).any():
            raise DataError(
                f"a model's transforms must be of at most {MOST_KINDS} kinds and {MOST_DETAILS} "
                f"details, with scales of at most 1, got {t} and {k}; make the model again"
            )
        if not ok or [a.shape for a in arrays] != [(t, p), (t, p), (t, k, p), (t, k)]:
            raise DataError(
                "a model's transforms must be finite arrays of shapes (T, P), (T, P), (T, K, P), "
                f"(T, K), got {[(str(a.dtype), a.shape) for a in arrays]}; make the model again"
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
        return _nearest(flat, self.centre.astype(np.float32))

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
        return np.asarray(self.basis[t] * self.scale[t][:, None], np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Transforms:
        """Return what :meth:`arrays` gave."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


@dataclass
class Residuals:
    """Moments of each kind's residuals, gathered block by block.

    Args:
        centre: Mean image of each kind, shape (T, P).
    """

    centre: Floats

    def __post_init__(self) -> None:
        t, p = self.centre.shape
        self._n = np.zeros(t)
        self._sum = np.zeros((t, p))
        self._square = np.zeros((t, p, p))

    def add(self, flat: Floats, residuals: Floats) -> None:
        """Take images and what their sparse codes leave over, both of shape (n, P)."""
        kinds = _nearest(flat, self.centre)
        for t in np.unique(kinds):
            mine = residuals[kinds == t]
            self._n[t] += len(mine)
            self._sum[t] += mine.sum(axis=0, dtype=np.float64)
            self._square[t] += mine.T @ mine

    def transforms(self) -> Transforms:
        """Return each kind's mean and basis."""
        n = self._n.sum()
        mean = self._sum.sum(axis=0) / n
        everywhere = self._square.sum(axis=0) / n - np.outer(mean, mean)
        means, bases = [], []
        for n_kind, total, square in zip(self._n, self._sum, self._square, strict=True):
            own = (total + _PRIOR * mean) / (n_kind + _PRIOR)
            cross = np.outer(total, own)
            about = square - cross - cross.T + n_kind * np.outer(own, own)
            drawn = (about + _PRIOR * everywhere) / (n_kind + _PRIOR)
            vectors = np.linalg.eigh(drawn)[1][:, ::-1].T
            bases.append(_same_way_up(vectors[:MOST_DETAILS]))
            means.append(own)
        rows = np.stack(bases)
        # As bytes: an error of 1 % in a detail, a quarter of the model's size.
        scale = np.asarray(np.abs(rows).max(axis=2) / 127, np.float32)
        return Transforms(
            centre=np.asarray(self.centre, np.float16), mean=np.asarray(means, np.float16),
            basis=np.rint(rows / scale[..., None]).astype(np.int8), scale=scale,
        )  # fmt: skip


def learn_centres(flat: Floats, n_images: int, *, seed: int) -> Floats:
    """Return the mean image of each kind, shape (T, P).

    Args:
        flat: Some training images, shape (n, P).
        n_images: How many the bases will be learned from.
        seed: Chooses where the clusters begin.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    p = flat.shape[1]
    room = min(_MOST_BYTES // (min(p, MOST_DETAILS) * p), _MOST_MOMENTS // p**2)
    n_kinds = int(np.clip(n_images // _IMAGES_A_KIND, 1, max(1, min(MOST_KINDS, room))))
    if n_kinds == 1:
        return np.asarray(flat.mean(axis=0, keepdims=True), np.float32)
    spread = PCA(min(_SPREAD, *flat.shape), svd_solver="covariance_eigh").fit_transform(flat)
    labels = KMeans(n_kinds, n_init=1, max_iter=30, random_state=seed).fit_predict(spread)
    return np.stack([flat[labels == t].mean(axis=0) for t in np.unique(labels)])


def _nearest(flat: Floats, centre: Floats) -> NDArray[np.int64]:
    return np.asarray((np.square(centre).sum(axis=1) - 2 * flat @ centre.T).argmin(axis=1))


def _same_way_up(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Give eigenvectors, known up to their sign, the sign of their largest entry."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return np.asarray(vectors * np.sign(largest), np.float64)
