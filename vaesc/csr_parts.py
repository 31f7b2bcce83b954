"""CSR matrices in a shard's part: three plain arrays, read once, never kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ARRAYS = ("data", "indices", "indptr")


def write_csr_part(folder: Path, name: str, matrix: csr_array) -> None:
    """Write a matrix into `folder`."""
    for each in _ARRAYS:
        np.save(folder / f"{name}-{each}.npy", getattr(matrix, each))
    np.save(folder / f"{name}-shape.npy", np.array(matrix.shape))


def read_csr_part(folder: Path, name: str) -> csr_array:
    """Read what :func:`write_csr_part` wrote."""
    from scipy.sparse import csr_array

    data, indices, indptr, shape = (
        np.load(folder / f"{name}-{each}.npy", allow_pickle=False) for each in (*_ARRAYS, "shape")
    )
    return csr_array((data, indices, indptr), shape=tuple(int(s) for s in shape))
