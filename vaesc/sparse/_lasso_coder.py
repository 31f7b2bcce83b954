"""Lasso coding of blocks of samples: homotopy, again in float64, then coordinate descent."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from vaesc.sparse._blocks import BlockRunner, block_rows
from vaesc.sparse._validation import (
    check_finite_rows,
    check_representable,
    power_of_two,
    working_dtype,
)
from vaesc.sparse._workspace import aligned_zeros, gram_of

logger = logging.getLogger(__name__)

_LIMITS = {4: (1e-6, 1e-3, 5e-8), 8: (1e-12, 0.0, 1e-13)}
"""Bytes per float -> the kernel's `limits`: dependent, doubtful, precision."""
_LENIENT = (1e-12, 0.0, 1e30)
"""The same, when only a wrong sign is refused."""
_FIRST_CAP, _FIRST_SHARE = 64, 0.9
"""Active atoms a row may have at first, and part of the dimensions they may span; the few rows
that need more are coded again. Once the span is all but full, atoms trade places at next to no
cost, and single precision cannot tell which is the better."""
_GAP = 1e-8
"""Relative duality gap that coordinate descent goes to."""
_SWEEPS, _ROUNDS = 1000, 30
"""Sweeps of coordinate descent between two polishes, and how many of these there may be."""

Codes = tuple[NDArray[np.int32], NDArray[Any], NDArray[np.int32]]
"""Atoms and values, shape (b, m, cap), and counts, shape (b, m)."""


class LassoCoder:
    """One dictionary made ready for lasso coding at some weights, falling."""

    def __init__(
        self,
        dictionary: NDArray[Any],
        alphas: Sequence[float],
        ridge: float,
        positive: bool,
    ) -> None:
        # With atoms s d_j the code is z / s, under the weights s alpha and s^2 ridge.
        self.scale = scale = power_of_two(float(np.abs(dictionary).max()))
        self.dictionary = dictionary if scale == 1.0 else dictionary * scale
        self.alphas = np.asarray(alphas, np.float64) * scale
        self.ridge = ridge * scale * scale
        self.positive = positive
        self._tables: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def code(self, X: Any, runner: BlockRunner, block_bytes: int) -> list[csr_array]:  # noqa: ANN401
        """Code the rows of `X`; one array per weight."""
        n, dtype = X.shape[0], working_dtype(X)
        self._local, self._kind = threading.local(), dtype.type
        self._table(dtype.itemsize)
        parts: dict[int, list[csr_array]] = {}

        def work(start: int, stop: int) -> None:
            block = np.asarray(X[start:stop], dtype)
            parts[start] = self._code_block(block, start)

        cap = self._first_cap() * len(self.alphas)
        row_bytes = (len(self.dictionary) + 2 * cap) * dtype.itemsize
        runner.run(work, n, block_rows(row_bytes, block_bytes))
        if not parts:
            return [csr_array((0, len(self.dictionary)), dtype=dtype) for _ in self.alphas]
        order = sorted(parts)
        return [_stack([parts[start][m] for start in order]) for m in range(len(self.alphas))]

    def _table(self, itemsize: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Dictionary and Gram matrix in a precision, made once."""
        if itemsize not in self._tables:
            atoms = self.dictionary.astype(f"f{itemsize}", copy=False)
            self._tables[itemsize] = atoms, gram_of(atoms)
        return self._tables[itemsize]

    def _first_cap(self) -> int:
        n_atoms, d = len(self.dictionary), int(self.dictionary.shape[1])
        span = n_atoms if self.ridge > 0 else max(1, int(_FIRST_SHARE * d))
        return min(_FIRST_CAP, n_atoms, span)

    def _room(self, rows: int, cap: int) -> tuple[NDArray[Any], ...]:
        """This thread's memory for a block, used again: fresh pages cost a tenth of the time."""
        room: tuple[NDArray[Any], ...] | None = getattr(self._local, "room", None)
        if room is None or len(room[0]) < rows:
            kind = self._kind
            room = _new_room((rows, len(self.alphas), cap), len(self.dictionary), kind)
            self._local.room = room
        return room

    def _code_block(self, block: NDArray[Any], start: int) -> list[csr_array]:
        n_atoms, d = self.dictionary.shape
        cap = self._first_cap()
        room = self._room(len(block), cap)
        (atoms, values, counts), status = self._run(block, self.alphas, cap, room)
        # A zero sample has a zero code, and is no reason to load the float64 kernel.
        again = np.flatnonzero(status)
        again = again[np.any(block[again], axis=1)]
        if again.size == 0:
            return self._pack(atoms, values, counts, start)
        rows = block[again].astype(np.float64)
        check_finite_rows(rows, start + again)
        most = n_atoms if self.ridge > 0 else min(n_atoms, d)
        wide = max(cap, most)
        atoms = np.pad(atoms, ((0, 0), (0, 0), (0, wide - cap)))
        values = np.pad(values, ((0, 0), (0, 0), (0, wide - cap)))
        # Scaled by powers of two, so that squares are ordinary: rows of one scale go together.
        shifts = np.frexp(np.abs(rows).max(axis=1))[1]
        for shift in np.unique(shifts).tolist():
            of_shift = shifts == shift
            codes = self._code_again(rows[of_shift], shift, wide)
            for whole, part in zip((atoms, values, counts), codes, strict=True):
                whole[again[of_shift]] = part
        return self._pack(atoms, values, counts, start)

    def _code_again(self, rows: NDArray[np.float64], shift: int, cap: int) -> Codes:
        """Code samples in float64, divided by two to the power of `shift`."""
        scaled, alphas = np.ldexp(rows, -shift), np.ldexp(self.alphas, -shift)
        if not np.isfinite(alphas).all():  # samples so small that their code is zero
            alphas = np.minimum(alphas, np.finfo(np.float64).max)
        codes, status = self._run(scaled, alphas, cap)
        for i in np.flatnonzero(status).tolist():
            row = scaled[i : i + 1]
            if not np.abs(row @ self._table(8)[0].T).max(initial=0.0) > 0:
                continue
            # Where atoms nearly depend on each other the strict check cannot be met: take what
            # the homotopy has, if its duality gap is small, or descend from there.
            part, failed = self._run(row, alphas, cap, lenient=True)
            part = self._descend(row, alphas, cap, None if failed[0] else part)
            for whole, piece in zip(codes, part, strict=True):
                whole[i] = piece[0]
        atoms, values, counts = codes
        with np.errstate(over="ignore"):  # _pack looks for what does not fit
            return atoms, np.ldexp(values, shift), counts

    def _run(
        self,
        block: NDArray[Any],
        alphas: NDArray[np.float64],
        cap: int,
        room: tuple[NDArray[Any], ...] | None = None,
        *,
        lenient: bool = False,
    ) -> tuple[Codes, NDArray[np.int8]]:
        from vaesc.sparse._homotopy import homotopy_block

        itemsize, n, m = block.dtype.itemsize, len(block), len(alphas)
        dictionary, gram = self._table(itemsize)
        kind = dictionary.dtype.type
        if room is None:
            room = _new_room((n, m, cap), len(dictionary), kind)
        correlations, atoms, values, counts = (part[:n] for part in room)
        status = np.empty(n, np.int8)
        with np.errstate(over="ignore", invalid="ignore"):
            energy = np.einsum("ij,ij->i", block, block).astype(np.float64)
            np.matmul(block, dictionary.T, out=correlations)
            falling = alphas.astype(dictionary.dtype)
        homotopy_block(
            correlations,
            gram,
            kind(self.ridge),
            falling,
            self.positive,
            energy,
            np.asarray(_LENIENT if lenient else _LIMITS[itemsize], dictionary.dtype),
            aligned_zeros(len(dictionary), dictionary.dtype),
            aligned_zeros((cap + 16, cap + 16), dictionary.dtype),
            np.zeros(cap + 16, np.int32),
            aligned_zeros((6, cap + 16), dictionary.dtype),
            aligned_zeros((4, len(dictionary)), dictionary.dtype),
            atoms,
            values,
            counts,
            status,
        )
        return (atoms, values, counts), status

    def _descend(
        self,
        row: NDArray[np.float64],
        alphas: NDArray[np.float64],
        cap: int,
        start: Codes | None = None,
    ) -> Codes:
        """Code one sample by coordinate descent, from `start` or from the weight before."""
        from vaesc.sparse._descent import descend_rows
        from vaesc.sparse._polish import polish

        dictionary, gram = self._table(8)
        correlations, energy = row @ dictionary.T, np.square(row).sum(axis=1)
        code = np.zeros((1, len(dictionary)))
        atoms = np.zeros((1, len(alphas), cap), np.int32)
        values = np.zeros((1, len(alphas), cap))
        counts = np.zeros((1, len(alphas)), np.int32)
        for m, alpha in enumerate(alphas):
            if start is not None:
                size = start[2][0, m]
                code[:] = 0.0
                code[0, start[0][0, m, :size]] = start[1][0, m, :size]
            for _ in range(_ROUNDS):
                gap = descend_rows(
                    correlations, gram, float(self.ridge), np.array([alpha]), self.positive,
                    energy, _GAP, _SWEEPS, code,
                )  # fmt: skip
                code[0] = polish(dictionary, row[0], code[0], float(alpha), float(self.ridge))
                if gap <= _GAP:
                    break
            if gap > 1e-6:
                logger.warning("a lasso code is within %.1e of the least objective only", gap)
            # A polished code has no more atoms than there are dimensions but for rounding.
            used = np.flatnonzero(code[0])
            used = np.sort(used[np.argsort(-np.abs(code[0, used]), kind="stable")[:cap]])
            atoms[0, m, : used.size], values[0, m, : used.size] = used, code[0, used]
            counts[0, m] = used.size
        return atoms, values, counts

    def _pack(
        self,
        atoms: NDArray[np.int32],
        values: NDArray[Any],
        counts: NDArray[np.int32],
        start: int,
    ) -> list[csr_array]:
        n, _, cap = atoms.shape
        packed = []
        for m in range(len(self.alphas)):
            # Not `to_csr`: it may return a view, and this memory is used again.
            filled = np.arange(cap) < counts[:, m, None]
            indptr = np.zeros(n + 1, np.int32)
            np.cumsum(counts[:, m], out=indptr[1:])
            data = values[:, m][filled]
            if self.scale != 1.0:
                with np.errstate(over="ignore"):
                    data *= data.dtype.type(self.scale)
            check_representable(data, indptr, start)
            part = data, atoms[:, m][filled], indptr
            packed.append(csr_array(part, shape=(n, len(self.dictionary))))
        return packed


def _new_room(shape: tuple[int, int, int], n_atoms: int, kind: Any) -> tuple[NDArray[Any], ...]:  # noqa: ANN401
    """Memory for correlations (b, K), atoms and values (b, m, cap), and counts (b, m)."""
    n, m, _ = shape
    return (
        aligned_zeros((n, n_atoms), kind),
        np.empty(shape, np.int32),
        np.zeros(shape, kind),
        np.empty((n, m), np.int32),
    )


def _stack(parts: list[csr_array]) -> csr_array:
    """Stack packed codes; indices are sorted already."""
    if len(parts) == 1:
        whole = parts[0]
    else:
        sizes = np.concatenate([np.diff(part.indptr) for part in parts])
        indptr = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=indptr[1:])
        if indptr[-1] < np.iinfo(np.int32).max:
            indptr = indptr.astype(np.int32)
        data = np.concatenate([part.data for part in parts])
        indices = np.concatenate([part.indices for part in parts])
        whole = csr_array((data, indices, indptr), shape=(len(sizes), parts[0].shape[1]))
    whole.has_sorted_indices = True
    return whole
