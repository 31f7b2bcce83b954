"""Latents of a split as samples to learn from: scaled as they are read, never held as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.errors import DataError

if TYPE_CHECKING:
    import zarr

    from vaesc.latents import LatentStore

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_ROWS = 4096
"""Latents summed together, small enough for the second-level cache."""


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
        n, d = self._array.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    @property
    def window_bytes(self) -> int:
        """Those of the store."""
        return self.latents.window_bytes

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return consecutive latents, shape (m, d)."""
        found: NDArray[Any] = np.asarray(self._array[rows])
        if self.mean is not None and self.scale is not None:
            found -= self.mean
            found /= self.scale
        return found

    @cached_property
    def _array(self) -> zarr.Array:
        return self.latents.array(self.split)


def scaled(latents: windows.Rows, mean: Floats, scale: Floats) -> windows.Rows:
    """Return ``(z - mean) / scale``; an array is changed in place, its memory is enough."""
    if isinstance(latents, LatentRows):
        return replace(latents, mean=mean, scale=scale)
    array = np.asarray(latents)
    array -= mean
    array /= scale
    return array


def fit_scaling(latents: windows.Rows, scaling: str) -> tuple[Floats, Floats]:
    """Return mean and scale of `latents`, each of shape (d,).

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


def moments(latents: windows.Rows) -> tuple[Doubles, Doubles]:
    """Return mean and variance of each dimension, shape (d,) each, in two passes."""
    n = latents.shape[0]
    mean = _summed(latents, lambda z: z) / n
    return mean, _summed(latents, lambda z: np.square(z - mean)) / n


def _summed(latents: windows.Rows, of: Callable[[Doubles], Doubles]) -> Doubles:
    """Return the sum of `of` over all latents, shape (d,), in float64.

    Rows are added one after the other, as numpy adds the rows of an array: the sum is the same in
    any parts. Of a single column numpy sums in pairs: that is summed as it comes.
    """
    total = None
    for block in windows.blocks(latents):
        step = _ROWS if block.shape[1] > 1 else max(len(block), 1)
        for start in range(0, max(len(block), 1), step):
            rows = of(block[start : start + step].astype(np.float64))
            total = (rows if total is None else np.concatenate([total[None], rows])).sum(axis=0)
    assert total is not None  # no latents are one empty block
    return np.asarray(total)
