"""Images of a split, flat and in [0, 1], a bounded number at a time.

Arithmetic always happens on batches of :data:`ROWS` images, however many are read at once: sums
are added in one order and products have one shape, so no result depends on ``block_size``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

ROWS = 1024
"""Images per batch of arithmetic."""

Floats = NDArray[np.float32]
Batches = Callable[[], Iterator[Floats]]
"""Starts one pass over a split: an iterator over batches of samples, each (m, D)."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset, ready to be passed over many times."""

    dataset: ImageDataset
    name: str
    block_size: int
    """Images held in memory at once, rounded down to whole batches."""

    def __len__(self) -> int:
        return self.dataset.n(self.name)

    def batches(self) -> Iterator[tuple[slice, Floats]]:
        """Yield (rows, images as float32 in [0, 1] of shape (m, n_pixels))."""
        step = max(1, self.block_size // ROWS) * ROWS
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            block = self.dataset.floats(self.name, rows).reshape(rows.stop - start, -1)
            for first in range(0, len(block), ROWS):
                part = block[first : first + ROWS]
                yield slice(start + first, start + first + len(part)), part

    def images(self) -> Iterator[Floats]:
        """Yield the images of :meth:`batches` alone."""
        for _, images in self.batches():
            yield images

    def spooled(self, folder: Path) -> NDArray[np.float32]:
        """Return all images, flat, as a memory map of a new file in `folder`."""
        to = folder / f"{self.name}-images.npy"
        n_pixels = math.prod(self.dataset.shape)
        images = np.lib.format.open_memmap(to, "w+", np.float32, (len(self), n_pixels))
        for rows, batch in self.batches():
            images[rows] = batch
        return images

    def pick(self, rows: list[int]) -> Floats:
        """Return single images by row number, shape (len(rows), n_pixels)."""
        picked = [self.dataset.floats(self.name, slice(i, i + 1)) for i in rows]
        return np.concatenate(picked).reshape(len(rows), -1)


def in_batches(samples: NDArray[np.float32]) -> Batches:
    """Return a function that passes over `samples`, shape (n, D), in batches."""
    return lambda: (samples[i : i + ROWS] for i in range(0, len(samples), ROWS))


def mean_of(batches: Batches) -> Floats:
    """Return the mean sample of one pass, shape (D,), summed in float64."""
    total, n = np.float64(0.0), 0
    for batch in batches():
        total = total + batch.sum(axis=0, dtype=np.float64)
        n += len(batch)
    return np.asarray(total / n, np.float32)
