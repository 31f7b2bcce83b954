r"""Local coordinate codes: sparse codes of latents whose linear functions can be curved.

A latent is rotated to its principal axes and half whitened, :math:`u = \Lambda^{-1/4} V^\top
(z - m)`, which lets weak directions speak without making noise of them. Its code writes it as an
affine combination of the k anchors nearest to it,

.. math::
    \min_a \Big\|u - \sum_{j \in N} a_j c_j\Big\|^2 + \lambda \|a\|^2 \sum_{j \in N} \|u - c_j\|^2
    \quad \text{with} \quad \sum_{j \in N} a_j = 1, \; N \text{ the } k \text{ nearest to } u .

A pursuit minimises the error alone and may jump to other atoms when the latent moves a little. A
local code moves with it, so that a function which is smooth on the latents is close to a *linear*
function of their codes (Yu et al., lemma 1): what a linear probe or a linear cluster rule needs.
The anchors are k-means centres of the training latents; no label is looked at. They are no atoms:
nothing decodes a local code, and the method asks for no VAE. What it makes of pixels is therefore
measured beside it (:mod:`.features`).

References:
    Yu, Zhang, Gong, "Nonlinear Learning using Local Coordinate Coding", 2009.
    Wang, Yang, Yu, Lv, Huang, Gong, "Locality-constrained Linear Coding for Image
    Classification", 2010 (the approximate code by k nearest anchors).
    https://doi.org/10.1109/CVPR.2010.5540018
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.applications.neighbours import nearest
from vaesc.errors import DataError
from vaesc.progress import SILENT, Listener
from vaesc.untrusted import is_moderate

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

RIDGE = 1e-2
"""The factor lambda: the more, the evener and the steadier the weights."""
_FLAT = 1e-3
"""Directions of less variance than this part of the largest are left out."""
_IMAGES_PER_ANCHOR = 4
"""Fewer training images an anchor would make anchors of single images."""
_ROWS = 1024
_NUMBERS = 2**26
"""Most latents, and most numbers, 256 MB, of equations that are solved at once."""


@dataclass(frozen=True, kw_only=True)
class LocalCoder:
    """Anchors in half whitened latent space, and the code of a latent by those nearest to it."""

    mean: Floats
    """Mean training latent, shape (d,)."""
    rotation: Floats
    """Maps a centred latent to the space of the anchors, shape (d, m)."""
    anchors: Floats
    """Shape (K, m)."""
    n_nonzero_coefs: int
    """Anchors of a code, k, from 1 to K."""

    def points(self, latents: NDArray[Any]) -> Floats:
        """Return latents, shape (n, d), in the space of the anchors, shape (n, m).

        Raises:
            DataError: They do not have d columns, or become absurdly large.
        """
        if latents.ndim != 2 or latents.shape[1] != len(self.mean):
            raise DataError(
                f"latents must have shape (n, {len(self.mean)}), got {tuple(latents.shape)}"
            )
        points = np.empty((len(latents), self.rotation.shape[1]), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # which is looked for next
            for rows in _blocks(len(latents)):
                points[rows] = (latents[rows] - self.mean) @ self.rotation
        if not is_moderate(points):
            raise DataError(
                "latents are absurdly large in the space of the anchors: mean and rotation of the "
                "representation are damaged; register the model again"
            )
        return points

    def encode(self, latents: NDArray[Any], *, listener: Listener = SILENT) -> csr_array:
        """Return the codes of latents.

        Args:
            latents: Posterior means, shape (n, d).
            listener: Hears of latents done.

        Returns:
            Shape (n, K), float32, k entries a row that sum to 1; an entry may be negative.

        Raises:
            DataError: The latents do not have d columns.
        """
        points, k = self.points(latents), self.n_nonzero_coefs
        near = nearest(points, self.anchors, k, listener=listener)[0] if len(points) else _none(k)
        near.sort(axis=1)
        values = np.empty(near.shape, np.float32)
        for rows in _blocks(len(points), k * (k + points.shape[1])):
            values[rows] = _affine(points[rows], self.anchors[near[rows]])
        starts = np.arange(len(points) + 1, dtype=np.int64) * k
        return csr_array(
            (values.ravel(), near.ravel(), starts), shape=(len(points), len(self.anchors))
        )


def fit_local_coder(
    latents: Floats, *, n_anchors: int, n_nonzero_coefs: int, rng: np.random.Generator
) -> LocalCoder:
    """Fit axes and anchors to training latents.

    Args:
        latents: Shape (n, d).
        n_anchors: Anchors; a quarter of n where that is fewer.
        n_nonzero_coefs: Anchors of a code; all of them where there are fewer.
        rng: Chooses where k-means begins, and its batches.

    Raises:
        DataError: The latents do not vary, or are not finite.
    """
    from sklearn.cluster import MiniBatchKMeans

    mean, rotation = _axes(latents)
    points = np.asarray((latents - mean) @ rotation, np.float32)
    n_anchors = max(1, min(n_anchors, len(points) // _IMAGES_PER_ANCHOR))
    means = MiniBatchKMeans(
        n_anchors, init="random", n_init=1, batch_size=4096, max_iter=3, max_no_improvement=None,
        reassignment_ratio=0.0, random_state=int(rng.integers(2**31)),
    )  # fmt: skip
    anchors = np.asarray(means.fit(points).cluster_centers_, np.float32)
    return LocalCoder(
        mean=mean, rotation=rotation, anchors=anchors,
        n_nonzero_coefs=min(n_nonzero_coefs, n_anchors),
    )  # fmt: skip


def split_signs(codes: csr_array) -> csr_array:
    """Return ``[max(a, 0), max(-a, 0)]``: a linear probe can then weigh both signs apart.

    Args:
        codes: Shape (n, K).

    Returns:
        Shape (n, 2 K), nonnegative, without stored zeros.
    """
    from scipy.sparse import hstack

    def clipped(values: Callable[[], csr_array]) -> csr_array:
        part = values()
        part.data = np.maximum(part.data, 0)
        part.eliminate_zeros()
        return part

    return csr_array(hstack([clipped(codes.copy), clipped(lambda: -codes)], format="csr"))


def _axes(latents: Floats) -> tuple[Floats, Floats]:
    """Return the mean, and principal axes scaled to the square root of their std, (d, m)."""
    if not np.isfinite(latents).all():
        raise DataError("the training latents are not finite; train the model again")
    mean = latents.mean(axis=0, dtype=np.float64)
    centred = latents.astype(np.float64) - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = variances > max(_FLAT * variances[-1], np.finfo(np.float32).tiny)
    if not kept.any():
        raise DataError("the training latents do not vary: the model has collapsed")
    rotation = axes[:, kept] * variances[kept] ** -0.25
    # As long as a unit vector on average: ridge and distances then mean the same for all models.
    rotation /= np.sqrt(np.sqrt(variances[kept]).sum())
    return mean.astype(np.float32), rotation.astype(np.float32)


def _affine(points: Floats, anchors: Floats) -> Floats:
    """Return the weights of each point's anchors, shape (n, k), each row summing to 1.

    Args:
        points: Shape (n, m).
        anchors: Shape (n, k, m).
    """
    apart = anchors - points[:, None]
    gram = apart @ apart.transpose(0, 2, 1)
    each = np.arange(gram.shape[1])
    dear = RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None]
    gram[:, each, each] += dear + np.finfo(np.float32).eps
    weights = np.linalg.solve(gram, np.ones((len(gram), len(each), 1), np.float32))[..., 0]
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _none(k: int) -> Ints:
    return np.empty((0, k), np.int64)


def _blocks(n: int, numbers: int = 1) -> list[slice]:
    """Return blocks of n latents, each of which takes so many numbers."""
    step = max(1, min(_ROWS, _NUMBERS // numbers))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
