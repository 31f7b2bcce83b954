"""Batches of samples in random order, from memory or from a lazy array."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POOL = 2048
"""Least number of samples (if there are as many) from which a start is chosen."""


def batch_size_for(n: int, batch_size: int) -> int:
    """Batch size to use: at least eight batches a pass, but none below 32 samples."""
    return max(1, min(batch_size, max(n // 8, 32), n))


class Batches:
    """Passes over samples in random order, in units in which their mean energy is near one."""

    def __init__(self, X: Any, batch_size: int, rng: np.random.Generator) -> None:  # noqa: ANN401
        self.X = X
        self.batch_size = batch_size
        self.rng = rng
        self.in_memory = isinstance(X, np.ndarray)
        self.unit = 1.0
        self._choose_unit()

    def _choose_unit(self) -> None:
        """Power of two near the largest number of some samples, 1 when that is ordinary."""
        peak = float(np.abs(np.asarray(self.X[:_POOL], np.float64)).max(initial=0.0))
        if np.isfinite(peak) and peak > 0 and not 2**-12 < peak < 2**12:
            self.unit = 2.0 ** int(np.frexp(peak)[1])

    def pool(self, n_atoms: int) -> NDArray[np.float32]:
        """Random samples to start from, shape (m, d)."""
        n = self.X.shape[0]
        rows = self.rng.choice(n, min(n, max(_POOL, 8 * n_atoms)), replace=False)
        if self.in_memory:
            return self._load(rows)
        # One read per run of rows: a lazy array serves neighbours together.
        starts = np.unique(rows // self.batch_size)[: -(-len(rows) // self.batch_size)]
        return np.concatenate([self._load(self._span(int(start))) for start in starts])

    def epoch(self) -> Iterator[NDArray[np.float32]]:
        """Each sample once, in batches; the last one may be smaller."""
        n, size = self.X.shape[0], self.batch_size
        if self.in_memory:
            order = self.rng.permutation(n)
            for start in range(0, n, size):
                yield self._load(order[start : start + size])
        else:
            for start in self.rng.permutation(-(-n // size)):
                yield self._load(self._span(int(start)))

    def _span(self, number: int) -> NDArray[np.int64]:
        first = number * self.batch_size
        return np.arange(first, min(first + self.batch_size, self.X.shape[0]))

    def _load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        part = self.X[rows] if self.in_memory else self.X[int(rows[0]) : int(rows[-1]) + 1]
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
