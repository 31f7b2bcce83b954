"""A split in groups of fixed size, however many images are read at once, and some of its images.

The last bits of a product depend on its size, and no result may depend on a memory setting.
The first images of a split are no sample of it: image folders are sorted by class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.models.elbo import group_images

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset


def groups(
    dataset: ImageDataset, split: str, block_size: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows and images in [0, 1] of a whole split, 1,024 at a time.

    Args:
        dataset: Where from.
        split: ``train``, ``validation`` or ``test``.
        block_size: About how many images are read at once; no part of the result.
    """
    start = 0
    for images in group_images(dataset, split, slice(0, dataset.n(split)), block_size):
        yield slice(start, start + len(images)), images.numpy()
        start += len(images)


def some_rows(n: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `most` of n rows in increasing order: all, or as many drawn at random."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def floats_of(
    dataset: ImageDataset, split: str, rows: NDArray[np.int64], block_size: int
) -> NDArray[np.float32]:
    """Return some images of a split in [0, 1], in the order of `rows`, shape (m, *shape)."""
    order = np.argsort(rows, kind="stable")
    found = np.empty((len(rows), *dataset.shape), np.float32)
    done = 0
    for block in dataset.blocks(split, block_size):
        mine = rows_within(rows[order], block)
        if len(mine):
            found[order[done : done + len(mine)]] = dataset.floats(split, block)[mine]
            done += len(mine)
    return found


def rows_within(rows: NDArray[np.int64], block: slice) -> NDArray[np.int64]:
    """Return which images of a block are among `rows`, counted from the block's start."""
    mine: NDArray[np.int64] = rows[(rows >= block.start) & (rows < block.stop)] - block.start
    return mine
