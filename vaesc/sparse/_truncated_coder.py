"""Coding blocks of samples by the lasso's path cut at k atoms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.sparse._blocks import AMORTISED_ROWS, DEFAULT_BLOCK_BYTES, BlockRunner, block_rows
from vaesc.sparse._coder import GreedyCoder, Slots
from vaesc.sparse._coder import row_bytes_of as greedy_row_bytes
from vaesc.sparse._validation import Rule, check_finite_rows, working_dtype
from vaesc.sparse._workspace import aligned_zeros

_DEPENDENT = 1e-10


def row_bytes_of(n_atoms: int, d: int) -> int:
    """Memory that one sample takes in a block."""
    return 8 * max(n_atoms, d, 64)


class TruncatedCoder:
    """One dictionary made ready for coding by the lasso's path, at levels that rise."""

    def __init__(self, dictionary: NDArray[Any], levels: Sequence[int]) -> None:
        # A common power of two is exact, and keeps squared norms representable.
        self.shift = int(np.frexp(float(np.abs(dictionary).max()))[1])
        self.dictionary = np.ldexp(np.asarray(dictionary, np.float64), -self.shift)
        self.gram = self.dictionary @ self.dictionary.T
        self.levels = np.asarray(levels, np.int64)

    def code(self, X: Any, runner: BlockRunner, block_bytes: int) -> Slots:  # noqa: ANN401
        """Code the rows of `X`, block by block."""
        slots = Slots(X.shape[0], self.levels, len(self.dictionary), working_dtype(X))

        def work(start: int, stop: int) -> None:
            rows = np.asarray(X[start:stop], np.float64)
            check_finite_rows(rows, np.arange(start, stop))
            self._code_block(rows, slots.rows(start, stop))

        row_bytes = row_bytes_of(len(self.dictionary), X.shape[1])
        runner.run(work, X.shape[0], block_rows(row_bytes, block_bytes))
        return slots

    def _code_block(self, rows: NDArray[np.float64], slots: Slots) -> None:
        from vaesc.sparse._truncated import truncated_block

        # Scaled by a power of two, so that no square over- or underflows.
        shift = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
        rows = np.ldexp(rows, -shift[:, None])
        n_atoms, room = len(self.dictionary), int(self.levels[-1]) + 16
        values = np.zeros(slots.values.shape)
        truncated_block(
            rows @ self.dictionary.T,
            self.gram,
            self.levels,
            np.square(rows).sum(axis=1),
            _DEPENDENT,
            aligned_zeros(n_atoms, float),
            aligned_zeros((room, room), float),
            np.zeros(room, np.int32),
            aligned_zeros((6, room), float),
            aligned_zeros((4, n_atoms), float),
            slots.atoms,
            values,
            slots.counts,
            slots.residual,
        )
        slots.values[:] = np.ldexp(values, (shift - self.shift)[:, None])
        with np.errstate(over="ignore"):  # the square of a huge sample
            slots.residual[:] = np.ldexp(slots.residual, 2 * shift)


def rows_coded_together(rule: str, n_atoms: int, n_features: int) -> int:
    """Return how many float32 samples a coder takes at once.

    A split that is cut at multiples of it is coded to the same bytes, part by part.

    Args:
        rule: ``ols``, ``omp``, ``lasso``, or ``lista`` for an amortised coder.
        n_atoms: Number of atoms, K.
        n_features: Number of dimensions, d.
    """
    if rule == "lista":
        return AMORTISED_ROWS
    if rule == "lasso":
        return block_rows(row_bytes_of(n_atoms, n_features), DEFAULT_BLOCK_BYTES)
    return block_rows(greedy_row_bytes(n_atoms, np.dtype(np.float32)), DEFAULT_BLOCK_BYTES)


def coder_for(dictionary: NDArray[Any], level: int, rule: Rule) -> GreedyCoder | TruncatedCoder:
    """Return a coder at one level that also gives residuals."""
    if rule == "lasso":
        return TruncatedCoder(dictionary, [level])
    return GreedyCoder(dictionary, [level], rule, want_residual=True)
