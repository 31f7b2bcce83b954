"""Images of a split, flat and in [0, 1], a bounded number at a time.

Arithmetic always happens on batches of :data:`ROWS` images, however many are read at once: sums
are added in one order and products have one shape, so no result depends on ``block_size``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows

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
    window_bytes: int = windows.WINDOW_BYTES
    """Of a window, half of which is held at once in any order, see :mod:`vaesc.windows`."""

    def __len__(self) -> int:
        return self.dataset.n(self.name)

    def batches(self, within: slice | None = None) -> Iterator[tuple[slice, Floats]]:
        """Yield (rows, images as float32 in [0, 1] of shape (m, n_pixels)).

        Args:
            within: Rows of whole batches; default: all.
        """
        step = max(1, self.block_size // ROWS) * ROWS
        first, last, _ = (within or slice(None)).indices(len(self))
        for start in range(first, last, step):
            rows = slice(start, min(start + step, last))
            block = self.dataset.floats(self.name, rows).reshape(rows.stop - start, -1)
            for first in range(0, len(block), ROWS):
                part = block[first : first + ROWS]
                yield slice(start + first, start + first + len(part)), part

    def images(self) -> Iterator[Floats]:
        """Yield the images of :meth:`batches` alone."""
        for _, images in self.batches():
            yield images

    def samples(self, folder: Path, mean: Floats | None = None) -> windows.Rows:
        """Return all images, flat, minus `mean`, to be learned from in any order.

        What fits a window as float32 is a memory map of a new file in `folder`; more is lazy.
        """
        rows = ImageRows(self, mean)
        if not self.is_spooled():
            return rows
        to = folder / f"{self.name}-{'images' if mean is None else 'centred'}.npy"
        images = np.lib.format.open_memmap(to, "w+", np.float32, rows.shape)
        for part, batch in self.batches():
            images[part] = batch if mean is None else batch - mean
        return images

    def is_spooled(self) -> bool:
        """Tell whether they are few enough to lie in a file: by default 85,598 of 28x28."""
        return len(self) * math.prod(self.dataset.shape) * 4 <= self.window_bytes

    def pick(self, rows: list[int]) -> Floats:
        """Return single images by row number, shape (len(rows), n_pixels)."""
        picked = [self.dataset.floats(self.name, slice(i, i + 1)) for i in rows]
        return np.concatenate(picked).reshape(len(rows), -1)


@dataclass(frozen=True)
class ImageRows:
    """The flat images of a split minus a mean image; lazy, see :class:`vaesc.windows.Rows`."""

    split: Split
    mean: Floats | None = None
    """Shape (n_pixels,); None: images as they are."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n_pixels)."""
        return len(self.split), math.prod(self.split.dataset.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    @property
    def window_bytes(self) -> int:
        """Those of the split."""
        return self.split.window_bytes

    def __getitem__(self, rows: slice) -> Floats:
        """Return consecutive images, shape (m, n_pixels)."""
        start, stop, _ = rows.indices(len(self.split))
        images = self.split.dataset.floats(self.split.name, slice(start, stop))
        flat = images.reshape(stop - start, -1)
        return flat if self.mean is None else flat - self.mean


def in_batches(samples: windows.Rows) -> Batches:
    """Return a function that passes over `samples`, shape (n, D), in batches."""

    def passed() -> Iterator[Floats]:
        for block in windows.blocks(samples):
            yield from (block[i : i + ROWS] for i in range(0, len(block), ROWS))

    return passed


def mean_of(batches: Batches) -> Floats:
    """Return the mean sample of one pass, shape (D,), summed in float64."""
    total, n = np.float64(0.0), 0
    for batch in batches():
        total = total + batch.sum(axis=0, dtype=np.float64)
        n += len(batch)
    return np.asarray(total / n, np.float32)
