"""Codes of every split, written and measured a window of latents at a time.

Codes are made here, in the ranges of :func:`code_ranges`, or by many workers
(:mod:`vaesc.coding_shards`). A range ends where the coder ends a block of its own: products have
the shapes that they have when a split is coded in one call, and codes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.latent_rows import LatentRows, moments

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.dictionary import LatentDictionary
    from vaesc.latents import LatentStore

SPLITS = ("train", "validation", "test")
CODES = "codes.zarr"
ROWS = 2**16
"""About so many latents to a range: 4 MB of codes at k = 8."""

Coded = Callable[[str, Callable[["csr_array"], None]], None]
"""``coded(split, take)`` hands over the codes of a split, in order, some rows at a time."""


def code_ranges(dictionary: LatentDictionary, n: int) -> list[tuple[int, int]]:
    """Return the ranges of rows in which `n` latents are coded, each (start, stop)."""
    from vaesc.sparse import rows_coded_together

    block = rows_coded_together(dictionary.coder, *dictionary.dictionary.shape)
    step = max(1, ROWS // block) * block
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def write_codes(
    dictionary: LatentDictionary,
    latents: LatentStore,
    folder: Path,
    coded: Coded | None = None,
) -> dict[str, float]:
    """Code every split, write ``codes.zarr``, and return what the codes are like.

    Args:
        dictionary: Codes the latents.
        latents: Latents of every split.
        folder: Folder to write into.
        coded: Codes a split, elsewhere perhaps (:func:`vaesc.coding_shards.code_by_shards`);
            default: here.

    Returns:
        Metrics: ``train/dead_fraction``, and ``validation/fvu`` (where latents vary),
        ``validation/l0`` and ``validation/dead_fraction``; all of sums over the whole split.
    """
    from vaesc.arrays import CsrAppender, create_group, write_csr

    def here(split: str, take: Callable[[csr_array], None]) -> None:
        for start, stop in code_ranges(dictionary, latents.n(split)):
            take(dictionary.encode(latents.latents(split, slice(start, stop))))

    attributes = {"n_nonzero_coefs": dictionary.n_nonzero_coefs, "coder": dictionary.coder}
    group, found = create_group(folder / CODES, attributes), dict[str, float]()
    for split in SPLITS:
        rows = LatentRows(latents, split)
        shape, name = (rows.shape[0], dictionary.n_atoms), f"{split}/codes"
        tally = _Tally.of(dictionary, rows)
        if windows.fits(rows):
            parts: list[csr_array] = []
            (coded or here)(split, tally.told(parts.append))
            write_csr(group, name, _stacked(parts, shape))
        else:
            most = shape[0] * min(dictionary.n_nonzero_coefs, *dictionary.dictionary.shape)
            appender = CsrAppender(group, name, shape, most, np.float32)
            (coded or here)(split, tally.told(appender.append))
            appender.close()
        if split != "test":
            found |= tally.metrics(split)
    return found


def _stacked(parts: list[csr_array], shape: tuple[int, int]) -> csr_array:
    from scipy.sparse import csr_array, vstack

    if len(parts) == 1:
        return parts[0]
    return csr_array(vstack(parts, format="csr")) if parts else csr_array(shape, dtype=np.float32)


@dataclass
class _Tally:
    """Sums over the codes of a split."""

    dictionary: LatentDictionary
    rows: LatentRows
    mean: NDArray[Any] | None
    uses: NDArray[np.int64]
    first: NDArray[Any] | None = None
    varied: bool = False
    missed: float = 0.0
    variation: float = 0.0
    nonzero: int = 0
    coded: int = 0

    @classmethod
    def of(cls, dictionary: LatentDictionary, rows: LatentRows) -> _Tally:
        mean = moments(rows)[0] if rows.split == "validation" else None
        return cls(dictionary, rows, mean, np.zeros(dictionary.n_atoms, np.int64))

    def told(self, take: Callable[[csr_array], None]) -> Callable[[csr_array], None]:
        """Return `take`, with codes counted as they pass."""

        def passed(codes: csr_array) -> None:
            take(codes)
            self.add(codes)

        return passed

    def add(self, codes: csr_array) -> None:
        start, self.coded = self.coded, self.coded + codes.shape[0]
        used = codes.indices[codes.data != 0]
        self.uses += np.bincount(used, minlength=len(self.uses))
        self.nonzero += len(used)
        if self.mean is not None:
            z = self.rows[start : start + codes.shape[0]]
            self.first = z[:1] if self.first is None else self.first
            self.varied |= bool((z != self.first).any())
            self.missed += _squares(z, self.dictionary.decode(codes))
            self.variation += _squares(z, self.mean)

    def metrics(self, split: str) -> dict[str, float]:
        dead = {f"{split}/dead_fraction": float(np.mean(self.uses == 0))}
        if self.mean is None:
            return dead
        n, found = self.rows.shape[0], dict[str, float]()
        if self.varied:  # a split of one image has no variance to explain
            found["validation/fvu"] = self.missed / self.variation
        return {**found, "validation/l0": float(self.nonzero) / n, **dead}


def _squares(a: NDArray[Any], b: NDArray[Any]) -> float:
    error = np.subtract(a, b, dtype=np.float64)
    return float(np.square(error, out=error).sum())
