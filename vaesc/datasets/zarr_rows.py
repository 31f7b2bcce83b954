"""The user's Zarr arrays, read block by block, from a folder or a bucket.

A Zarr array whose writer was killed opens without complaint and reads as its fill value where
chunks are missing. So an array with missing chunks is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.datasets.files import DEFLATE_RATIO, check_claim, check_memory
from vaesc.datasets.zarr_chunks import check_chunks
from vaesc.datasets.zarr_places import MARKS, ZarrPlace
from vaesc.errors import DataError

if TYPE_CHECKING:
    import zarr

_ANYWAY = 16 * 2**20
"""Bytes an array may claim however few lie on disk; more must be there, if only compressed."""

_WINDOW_BYTES = 32 * 2**20
"""About so much is read at once of consecutive chunks."""


@dataclass(frozen=True)
class ZarrRows:
    """A Zarr array seen as rows."""

    array: zarr.Array
    place: ZarrPlace

    @property
    def shape(self) -> tuple[int, ...]:
        """Full shape, (n, *image)."""
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Read rows, in increasing order: each chunk that holds any of them, and no other."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        at = 0
        with self.place.reading():
            for piece in self._pieces(rows):
                window = np.asarray(self.array[int(piece[0]) : int(piece[-1]) + 1])
                found[at : at + len(piece)] = window[piece - piece[0]]
                at += len(piece)
        return found

    def _pieces(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut rows where chunks between them are not wanted, or a window would be large.

        zarr's own reading of a list of rows takes many times their memory.
        """
        size = self.array.chunks[0]
        at_once = max(1, _WINDOW_BYTES // (math.prod(self.array.chunks) * self.dtype.itemsize))
        chunk = rows // size
        apart = (np.diff(chunk) > 1) | (np.diff(chunk // at_once) > 0)
        return np.split(rows, np.flatnonzero(apart) + 1)


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr store, by its name or what it holds."""
    return path.is_dir() and (path.suffix == ".zarr" or any((path / m).is_file() for m in MARKS))


def open_zarr(place: ZarrPlace) -> dict[str, ZarrRows]:
    """Open every array of a Zarr store.

    Returns:
        The arrays by their path inside the store; the name of a store that is one array is "".

    Raises:
        DataError: It is not a Zarr store, or an array lacks chunks.
    """
    import zarr

    with place.reading():
        # Consolidated metadata may name what is not there; each array's own is what counts.
        node = zarr.open(place.to_open(), mode="r", use_consolidated=False)
        arrays = {"": node} if isinstance(node, zarr.Array) else dict(_arrays(node, ""))
        for name, array in arrays.items():
            _check(array, f"{place}[{name}]" if name else str(place), place, name)
    return {name: ZarrRows(array, place) for name, array in arrays.items()}


def _arrays(group: zarr.Group, prefix: str) -> Iterator[tuple[str, zarr.Array]]:
    for name, array in sorted(group.arrays()):
        yield f"{prefix}{name}", array
    for name, child in sorted(group.groups()):
        yield from _arrays(child, f"{prefix}{name}/")


def _check(array: zarr.Array, origin: str, place: ZarrPlace, name: str) -> None:
    files = [each for _, each in place.files(name)]
    whole = array.shards or array.chunks
    stored = math.prod(-(-n // step) for n, step in zip(array.shape, whole, strict=True))
    # Counting an array's chunks takes time for each that is claimed: files are counted first.
    there = min(stored, len(files))
    if there == stored and stored:
        # zarr counts the chunks inside a shard, also those beyond the array's end.
        there = array.nchunks_initialized // (math.prod(whole) // math.prod(array.chunks))
    if there < stored:
        raise DataError(
            f"{origin} has at most {there} of its {stored} chunks; it was not written to the end "
            "(or with write_empty_chunks off, which cannot be told apart), write it again"
        )
    itemsize = np.dtype(array.dtype).itemsize
    at_most = _ANYWAY + DEFLATE_RATIO * sum(each.size for each in files)
    check_claim(origin, max(math.prod(array.shape), math.prod(whole)) * itemsize, at_most)
    check_memory(f"one chunk of {origin}", math.prod(whole) * itemsize)
    check_chunks(array, place, files, origin)
