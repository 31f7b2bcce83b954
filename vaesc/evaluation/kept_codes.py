"""Codes that took their time, kept for whoever asks next: in memory, then on disk."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MEMORY_BYTES = 2**27
"""Codes held in memory; later ones lie in files."""


class KeptCodes:
    """Codes by a key of their batch.

    Args:
        folder: Where files may lie, to be deleted by the caller; None: all stay in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[Hashable, csr_array] = {}
        self._files: dict[Hashable, Path] = {}
        self._bytes = 0

    def get(self, key: Hashable) -> csr_array | None:
        """Return the codes kept under a key, if there are any."""
        if key not in self._files:
            return self._held.get(key)
        from scipy.sparse import csr_array

        with np.load(self._files[key], allow_pickle=False) as stored:
            parts = tuple(stored[name] for name in ("data", "indices", "indptr"))
            return csr_array(parts, shape=tuple(stored["shape"]))

    def put(self, key: Hashable, codes: csr_array) -> None:
        """Keep codes under a new key."""
        size = codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes
        if self._folder is None or self._bytes + size <= MEMORY_BYTES:
            self._held[key], self._bytes = codes, self._bytes + size
            return
        path = self._folder / f"codes-{id(self)}-{len(self._files)}.npz"
        np.savez(
            path, data=codes.data, indices=codes.indices, indptr=codes.indptr,
            shape=np.array(codes.shape),
        )  # fmt: skip
        self._files[key] = path
