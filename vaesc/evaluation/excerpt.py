"""Part of a split, where the whole would take memory or time that grows with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.evaluation.batches import ROWS, Floats, Split

MOST = 2**17
"""Images of an excerpt, at most."""


@dataclass(frozen=True)
class Excerpt:
    """Whole batches of a split, evenly spaced from its beginning on; all of them if they are few.

    Rows are counted within the excerpt; :meth:`row_of` tells where they lie in the split.
    """

    split: Split
    most: int = MOST

    def __len__(self) -> int:
        return sum(rows.stop - rows.start for rows in self._parts)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes."""
        return self.split.dataset.classes

    def batches(self) -> Iterator[tuple[slice, Floats]]:
        """Yield (rows, images as float32 in [0, 1] of shape (m, n_pixels))."""
        if len(self.split) <= self.most:
            yield from self.split.batches()
            return
        at = 0
        for rows in self._parts:
            images = self.split.dataset.floats(self.split.name, rows)
            yield slice(at, at + len(images)), images.reshape(len(images), -1)
            at += len(images)

    def labels(self) -> NDArray[np.int64] | None:
        """Return the labels, shape (n,), or None if there are none."""
        name, parts = self.split.name, list[NDArray[np.int64]]()
        for rows in self._parts:
            labels = self.split.dataset.labels(name, rows)
            if labels is None:
                return None
            parts.append(labels)
        return np.concatenate(parts)

    def row_of(self, row: int) -> int:
        """Return where a row lies in the split."""
        return int(self._parts[row // ROWS].start) + row % ROWS

    def pick(self, rows: list[int]) -> Floats:
        """Return single images by row of the excerpt, shape (len(rows), n_pixels)."""
        return self.split.pick([self.row_of(row) for row in rows])

    @cached_property
    def _parts(self) -> list[slice]:
        n, most = len(self.split), max(1, self.most // ROWS)
        starts: Any = range(0, n, ROWS)
        if n > self.most:  # whole batches only, so that a row tells its batch
            whole = n // ROWS
            starts = np.linspace(0, whole - 1, min(most, whole)).astype(int) * ROWS
        return [slice(int(i), min(int(i) + ROWS, n)) for i in starts]
