"""Latents of a split as samples to learn from: scaled as they are read, never held as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.errors import DataError

if TYPE_CHECKING:
    from vaesc.latents import LatentStore

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LatentRows:
    """The latents of one split, ``(z - mean) / scale``; lazy, see :class:`vaesc.windows.Rows`."""

    latents: LatentStore
    split: str
    mean: Floats | None = None
    """Shape (d,); None: latents as they are."""
    scale: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.latents.n(self.split), self.latents.latent_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return consecutive latents, shape (m, d)."""
        found = self.latents.latents(self.split, rows)
        if self.mean is None or self.scale is None:
            return found
        return np.asarray((found - self.mean) / self.scale)


def scaled_latents(latents: LatentStore, split: str, mean: Floats, scale: Floats) -> windows.Rows:
    """Return the scaled latents of a split: an array if they are one window, else lazy."""
    return windows.loaded(LatentRows(latents, split, mean, scale))


def fit_scaling(latents: windows.Rows, scaling: str) -> tuple[Floats, Floats]:
    """Return mean and scale of `latents`, each of shape (d,).

    Sums over all latents are added up window by window, in float64.

    Args:
        latents: Training latents, shape (n, d), an array or lazy.
        scaling: ``global``: one common number, the square root of the mean variance, so that
            collapsed dimensions are not blown up; ``per-dimension``: each its own standard
            deviation (1 where it is zero); ``none``: ones.

    Raises:
        DataError: No latent differs from any other.
    """
    n = latents.shape[0]
    mean, variance = moments(latents)
    if not variance.any():
        raise DataError(
            f"the {n} training latents are all equal: the VAE has collapsed; "
            "train it longer, or lower vae.beta"
        )
    scale = np.ones_like(mean)
    if scaling == "global":
        scale = np.full_like(mean, np.sqrt(variance.mean()))
    elif scaling == "per-dimension":
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    return mean.astype(np.float32), scale.astype(np.float32)


def moments(latents: windows.Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of each dimension, shape (d,) each, in two passes."""
    n, zero = latents.shape[0], np.zeros(latents.shape[1])
    mean = sum((z.sum(axis=0, dtype=np.float64) for z in windows.blocks(latents)), zero) / n
    squares = zero
    for z in windows.blocks(latents):
        difference = z - mean
        squares = squares + np.square(difference, out=difference).sum(axis=0)
    return mean, squares / n
