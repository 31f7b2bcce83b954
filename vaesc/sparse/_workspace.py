"""Scratch memory of the greedy kernels, made by their callers.

A kernel that allocates its own arrays counts references to them, atomically, at every use of a
row: an eighth of the time at four atoms of 128. Kernels that are handed all their memory need not.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CACHE_LINE = 64
"""Bytes; a vector register that straddles two lines costs twice to load or store."""


def aligned_zeros(shape: tuple[int, ...] | int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401
    """Zeros that start at a cache line, which numpy does not promise."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    zeros: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return zeros


def gram_of(atoms: NDArray[Any]) -> NDArray[Any]:
    """Return D D^T of a dictionary, rows on cache lines where K allows it."""
    gram = aligned_zeros((len(atoms), len(atoms)), atoms.dtype)
    np.matmul(atoms, atoms.T, out=gram)
    return gram


class GreedyWorkspace(NamedTuple):
    """Arrays that :func:`~vaesc.sparse._greedy.greedy_block` works in; k steps at most."""

    basis: NDArray[Any]
    """Correlations of all atoms with the basis of the chosen ones, shape (k + 1, at least K);
    the last row stays zero."""
    factor: NDArray[Any]
    """Cholesky factor of the chosen atoms' Gram matrix, shape (k, k + 4), zero above."""
    partial: NDArray[Any]
    """A basis row in the making, shape (K,)."""
    corr: NDArray[Any]
    """Correlations with the residual, shape (K,)."""
    norm_sq: NDArray[Any]
    """Squared norms left outside the chosen atoms' span, shape (K,); OLS only."""
    bar: NDArray[Any]
    """OMP: one for an atom that may be chosen, else zero. OLS: squared norm it must exceed."""
    score: NDArray[Any]
    """What the next atom is chosen by, shape (K,)."""
    inverses: NDArray[Any]
    """Reciprocals of the factor's diagonal, shape (k,)."""
    coefs: NDArray[Any]
    """Coefficients in the orthonormal basis, shape (k,)."""
    solved: NDArray[Any]
    """Right-hand side of the triangular solve, shape (k,)."""
    chosen: NDArray[np.int32]
    """Atoms in the order of choice, shape (k,)."""


def greedy_workspace(n_atoms: int, most: int, dtype: Any) -> GreedyWorkspace:  # noqa: ANN401
    """Memory for `most` steps over `n_atoms` atoms in a precision."""
    wide = [aligned_zeros(n_atoms, dtype) for _ in range(5)]
    steps = [aligned_zeros(most, dtype) for _ in range(3)]
    return GreedyWorkspace(
        aligned_zeros((most + 1, _stride(n_atoms, dtype)), dtype),
        aligned_zeros((most, most + 4), dtype),
        wide[0], wide[1], wide[2], wide[3], wide[4],
        steps[0], steps[1], steps[2],
        np.zeros(most, np.int32),
    )  # fmt: skip


def _stride(n_atoms: int, dtype: Any) -> int:  # noqa: ANN401
    """Row length of the basis: whole cache lines, an odd number of them.

    Rows a multiple of 4 KiB apart would make the CPU take loads from one for stores to another.
    """
    per_line = CACHE_LINE // int(np.dtype(dtype).itemsize)
    return (-(-n_atoms // per_line) | 1) * per_line
