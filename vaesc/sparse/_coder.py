"""Greedy coding of blocks of samples: matrix product, kernel, and a second look in float64."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.sparse._blocks import BlockRunner, block_rows
from vaesc.sparse._digits import ByteProducts
from vaesc.sparse._validation import (
    Selection,
    check_finite_rows,
    check_representable,
    check_selection,
    power_of_two,
    working_dtype,
)
from vaesc.sparse._workspace import GreedyWorkspace, aligned_zeros, gram_of, greedy_workspace

_DEPENDENT = {4: 1e-6, 8: 1e-13}
"""Bytes per float -> squared distance to the chosen atoms' span, below which an atom is in it."""
_DOUBTFUL = {4: 1e-3, 8: 1e-8}
"""Bytes per float -> squared distance below which a sample is coded again, more carefully."""


Table = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Dictionary (K, d), Gram matrix (K, K) and its diagonal in one precision."""


def thresholds(itemsize: int) -> tuple[float, float]:
    """Fractions of an atom's squared norm: in the chosen atoms' span, and doubtfully outside."""
    return _DEPENDENT[itemsize], _DOUBTFUL[itemsize]


def row_bytes_of(n_atoms: int, dtype: np.dtype[Any]) -> int:
    """Memory that one sample takes in a block."""
    return max(n_atoms, 64) * dtype.itemsize


class GreedyCoder:
    """One dictionary made ready for greedy coding at some sparsity levels."""

    def __init__(
        self,
        dictionary: NDArray[Any],
        levels: Sequence[int],
        selection: Selection,
        tol: float | None = None,
        *,
        want_residual: bool = False,
        byte_digits: int = 0,
    ) -> None:
        check_selection(selection)
        if tol is not None and not tol >= 0:
            raise ValueError(f"tol must not be negative, got {tol}")
        self.scale = power_of_two(float(np.abs(dictionary).max()))
        self.dictionary = dictionary if self.scale == 1.0 else dictionary * self.scale
        self.levels = np.asarray(levels, np.int64)
        self.ols = selection == "ols"
        self.tol = -1.0 if tol is None else float(tol)
        self.want_residual = want_residual or self.tol >= 0
        self._local = threading.local()
        self._tables: dict[int, Table] = {}
        self._bytes = ByteProducts(self.dictionary, byte_digits) if byte_digits else None

    def code(self, X: Any, runner: BlockRunner, block_bytes: int) -> "Slots":  # noqa: ANN401
        """Code the rows of `X`, block by block."""
        dtype = working_dtype(X)
        self._table(dtype.itemsize)
        slots = Slots(X.shape[0], self.levels, len(self.dictionary), dtype)

        def work(start: int, stop: int) -> None:
            block = np.asarray(X[start:stop])
            if self._bytes is None or block.dtype != np.uint8:
                block = np.asarray(block, dtype)
            self._code_block(block, start, slots.rows(start, stop))

        row_bytes = row_bytes_of(len(self.dictionary), dtype)
        runner.run(work, X.shape[0], block_rows(row_bytes, block_bytes))
        return slots

    def _room(self, rows: int, kind: Any) -> NDArray[Any]:  # noqa: ANN401 - a float type
        """This thread's memory for correlations: fresh pages cost as much as a small product."""
        key = kind.__name__
        room: NDArray[Any] | None = getattr(self._local, key, None)
        if room is None or len(room) < rows:
            room = aligned_zeros((rows, len(self.dictionary)), kind)
            setattr(self._local, key, room)
        return room[:rows]

    def _workspace(self, kind: Any) -> GreedyWorkspace:  # noqa: ANN401 - a float type
        """This thread's scratch memory."""
        key = f"{kind.__name__} workspace"
        space: GreedyWorkspace | None = getattr(self._local, key, None)
        if space is None:
            space = greedy_workspace(len(self.dictionary), int(self.levels[-1]), kind)
            setattr(self._local, key, space)
        return space

    def _table(self, itemsize: int) -> Table:
        """Dictionary, Gram matrix and its diagonal in a precision, made once."""
        if itemsize not in self._tables:
            atoms = self.dictionary.astype(f"f{itemsize}", copy=False)
            gram = gram_of(atoms)
            self._tables[itemsize] = atoms, gram, gram.diagonal().copy()
        return self._tables[itemsize]

    def _code_block(self, block: NDArray[Any], start: int, slots: "Slots") -> None:
        """Code one block in its own precision, and its doubtful rows again in float64."""
        again = np.flatnonzero(self._run(block, self.tol, slots))
        # A zero sample has a zero code, and is no reason to load the float64 kernel.
        again = again[np.any(block[again], axis=1)]
        if again.size == 0:
            return
        rows = block[again].astype(np.float64)
        check_finite_rows(rows, start + again)
        # Scaled by a power of two, which is exact, so that no square over- or underflows.
        shift = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
        rows = np.ldexp(rows, -shift[:, None])
        part = Slots(again.size, self.levels, len(self.dictionary), np.dtype(np.float64))
        if self.tol < 0:
            hazy = self._run(rows, -1.0, part, last=True)
        else:
            tols = np.ldexp(np.full(again.size, self.tol), -2 * shift)
            hazy = np.concatenate(
                [
                    self._run(rows[i : i + 1], float(tol), part.rows(i, i + 1), last=True)
                    for i, tol in enumerate(tols)
                ]
            )
        for i in np.flatnonzero(hazy).tolist():
            self._refit(rows[i], part.rows(i, i + 1))
        slots.atoms[again], slots.counts[again] = part.atoms, part.counts
        with np.errstate(over="ignore"):  # to_csr looks for what does not fit
            slots.values[again] = np.ldexp(part.values, shift[:, None])
            slots.residual[again] = np.ldexp(part.residual, 2 * shift)

    def _refit(self, sample: NDArray[np.float64], slot: "Slots") -> None:
        """Least squares from the atoms themselves, where the Gram matrix is too rough."""
        start = 0
        for m, level in enumerate(self.levels):
            size = slot.counts[0, m]
            if size:
                chosen = self._table(8)[0][slot.atoms[0, start : start + size]]
                coefs = np.linalg.lstsq(chosen.T, sample, rcond=None)[0]
                slot.values[0, start : start + size] = coefs * self.scale
                slot.residual[0] = np.square(sample - coefs @ chosen).sum()
            start += level

    def _run(
        self, block: NDArray[Any], tol: float, slots: "Slots", *, last: bool = False
    ) -> NDArray[np.int8]:
        """Run the kernel on a block; return the rows to look at again (`last`: to refit)."""
        from vaesc.sparse._greedy import greedy_block

        itemsize = slots.values.dtype.itemsize
        dictionary, gram, diagonal = self._table(itemsize)
        kind = dictionary.dtype.type
        status = np.empty(len(block), np.int8)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.want_residual:
                wide = np.asarray(block, dictionary.dtype)
                slots.residual[:] = np.einsum("ij,ij->i", wide, wide)
            if self._bytes is not None and block.dtype == np.uint8:
                correlations = self._bytes.correlate(block)
            else:
                correlations = np.matmul(block, dictionary.T, out=self._room(len(block), kind))
        greedy_block(
            correlations,
            gram,
            diagonal,
            kind(_DEPENDENT[itemsize]),
            kind(-_DOUBTFUL[itemsize] if last else _DOUBTFUL[itemsize]),
            self.ols,
            self.levels,
            slots.residual,
            tol,
            self._workspace(kind),
            slots.atoms,
            slots.values,
            slots.counts,
            status,
        )
        if self.scale != 1.0:
            slots.values *= kind(self.scale)
        return status


class Slots:
    """Codes before packing: for each sample and level, `level` slots, the first ones filled."""

    def __init__(
        self, n: int, levels: NDArray[np.int64], n_atoms: int, dtype: np.dtype[Any]
    ) -> None:
        self.levels, self.n_atoms = levels, n_atoms
        self.atoms = np.empty((n, int(levels.sum())), np.int32)
        """Atom of each slot, the levels side by side; sorted within a level."""
        self.values = np.zeros((n, int(levels.sum())), dtype)
        """Coefficient of each slot."""
        self.counts = np.zeros((n, len(levels)), np.int32)
        """Filled slots of each level."""
        self.residual = np.zeros(n)
        """Squared norm of the residual at the largest level; meaningless unless wanted."""

    def rows(self, start: int, stop: int) -> "Slots":
        """View of some rows; writing to it writes here."""
        view = object.__new__(Slots)
        view.levels, view.n_atoms = self.levels, self.n_atoms
        view.atoms, view.values = self.atoms[start:stop], self.values[start:stop]
        view.counts, view.residual = self.counts[start:stop], self.residual[start:stop]
        return view

    def to_csr(self) -> list[csr_array]:
        """One packed array per level."""
        packed, start = [], 0
        for m, level in enumerate(self.levels):
            own = slice(start, start + level)
            packed.append(
                to_csr(self.atoms[:, own], self.values[:, own], self.counts[:, m], self.n_atoms)
            )
            start += level
        return packed


def to_csr(
    atoms: NDArray[np.int32],
    values: NDArray[Any],
    counts: NDArray[np.int32],
    n_atoms: int,
) -> csr_array:
    """Pack the filled slots of each row; a view is copied only if it must be."""
    n, level = atoms.shape
    # Sums in the type of the counts, where they fit, take a tenth of the time.
    indptr = np.zeros(n + 1, np.int32 if n * level < np.iinfo(np.int32).max else np.int64)
    np.cumsum(counts, dtype=indptr.dtype, out=indptr[1:])
    if int(indptr[-1]) == n * level:
        data, indices = values.reshape(-1), atoms.reshape(-1)
    else:
        filled = np.arange(level) < counts[:, None]
        data, indices = values[filled], atoms[filled]
    check_representable(data, indptr)
    codes = csr_array((data, indices, indptr), shape=(n, n_atoms), copy=False)
    codes.has_sorted_indices = True
    return codes
