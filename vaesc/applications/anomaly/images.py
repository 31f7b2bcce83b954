"""Some images of a split, and all of them group by group: memory never holds a whole split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.groups import groups as all_groups

if TYPE_CHECKING:
    from vaesc.applications.subject import Subject
    from vaesc.datasets.reader import ImageDataset

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def drawn(rows: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """Return at most `limit` of `rows`, in random order."""
    return rng.permutation(rows)[:limit]


def taken(dataset: ImageDataset, split: str, rows: Ints, block_size: int) -> Floats:
    """Return the images of these rows, in [0, 1], in the order of `rows`."""
    found = np.empty((len(rows), *dataset.shape), np.float32)
    for block in dataset.blocks(split, block_size):
        mine = (rows >= block.start) & (rows < block.stop)
        if mine.any():
            found[mine] = dataset.floats(split, block)[rows[mine] - block.start]
    return found


def groups(subject: Subject, split: str) -> Iterator[Floats]:
    """Yield all images of a split in [0, 1], in groups that no setting changes."""
    return (unit for _, unit in all_groups(subject.dataset, split, subject.block_size))
