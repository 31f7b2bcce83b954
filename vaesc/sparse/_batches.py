"""Batches of samples in random order, from memory or from a lazy array.

A lazy array that fits one window (:mod:`vaesc.windows`) is read once, and is one in memory then.
A larger one is read page by page in each pass, and shuffled window by window.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows

_POOL = 2048
"""Least number of samples (if there are as many) from which a start is chosen."""
_POOL_PAGES = 256
"""Most pages that they are read from, where samples are not in memory."""


def batch_size_for(n: int, batch_size: int) -> int:
    """Batch size to use: at least eight batches a pass, but none below 32 samples."""
    return max(1, min(batch_size, max(n // 8, 32), n))


class Batches:
    """Passes over samples in random order, in units in which their mean energy is near one."""

    def __init__(self, X: Any, batch_size: int, rng: np.random.Generator) -> None:  # noqa: ANN401
        self.X: Any = windows.loaded(X)
        self.batch_size = batch_size
        self.rng = rng
        self.in_memory = isinstance(self.X, np.ndarray)
        self.unit = 1.0
        self._choose_unit()

    def _choose_unit(self) -> None:
        """Power of two near the largest number of some samples, 1 when that is ordinary."""
        some = np.asarray(self.X[:_POOL])
        peak = max(float(some.max(initial=0)), -float(some.min(initial=0)))
        if np.isfinite(peak) and peak > 0 and not 2**-12 < peak < 2**12:
            self.unit = 2.0 ** int(np.frexp(peak)[1])

    def pool(self, n_atoms: int) -> NDArray[np.float32]:
        """Random samples to start from, shape (m, d)."""
        n = self.X.shape[0]
        size = min(n, max(_POOL, 8 * n_atoms))
        if self.in_memory:
            rows = self.rng.choice(n, size, replace=False)
            return self._ready(self.X[rows], rows)
        starts = np.arange(0, n, windows.page_rows(self.X))
        starts = self.rng.choice(starts, min(len(starts), _POOL_PAGES), replace=False)
        parts = [self._some(int(start), -(-size // len(starts))) for start in sorted(starts)]
        return np.concatenate(parts)

    def _some(self, start: int, most: int) -> NDArray[np.float32]:
        """Random samples of one page."""
        page = self.X[start : min(start + windows.page_rows(self.X), self.X.shape[0])]
        rows = self.rng.choice(len(page), min(len(page), most), replace=False)
        return self._ready(page[rows], rows + start)

    def epoch(self) -> Iterator[NDArray[np.float32]]:
        """Each sample once, in batches; the last one may be smaller."""
        size = self.batch_size
        if self.in_memory:
            order = self.rng.permutation(self.X.shape[0])
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield self._ready(self.X[rows], rows)
            return
        for pages in windows.dealt(self.X, self.rng, windows.page_rows(self.X, size)):
            window, numbers = windows.read(self.X, pages), windows.numbers(pages)
            order = self.rng.permutation(len(window))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield self._ready(window[rows], numbers[rows])
            del window

    def _ready(self, part: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return samples in units of the batches; `rows` are their numbers, for a complaint."""
        if self.unit != 1.0:
            part = np.asarray(part, np.float64) / self.unit
        with np.errstate(over="ignore"):
            batch = np.ascontiguousarray(part, np.float32)
        finite = np.isfinite(batch).all(axis=1)
        if not finite.all():
            bad = rows[~finite][:5].tolist()
            raise ValueError(
                f"X must be finite and within float32's range of its first samples, got other "
                f"numbers in rows {bad}; drop or rescale them"
            )
        return batch
