"""How every array lies on disk: Zarr v3, sharded, compressed, each chunk with a checksum.

Plain numeric arrays, zstd with a content checksum and crc32c-checked shard indices: any Zarr v3
reader opens them, and a flipped bit is an error, never a wrong number. Missing chunks would read
as the fill value without error, so float arrays are filled with NaN, and the store's manifest
(:mod:`vaesc.store`) vouches for every file.

A writer writes whole shards: two writers inside one shard lose data. What arrives in smaller
pieces goes through an :class:`Appender`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.bucket import Bucket, is_remote

if TYPE_CHECKING:
    import scipy.sparse
    import zarr

_CHUNK_BYTES = 512 * 1024
SHARD_BYTES = 16 * 1024 * 1024
"""About what a shard holds, before compression; a writer writes whole ones."""


def create_group(path: Path, attributes: dict[str, Any] | None = None) -> zarr.Group:
    """Create a Zarr v3 group at `path`, which must not exist yet."""
    import zarr

    return zarr.create_group(str(path), attributes=attributes, zarr_format=3)


def open_group(path: Path | str) -> zarr.Group:
    """Open a Zarr group for reading.

    Args:
        path: Its folder, or its URL ``s3://bucket/prefix``, which is read in place.
    """
    import zarr

    if is_remote(path):
        bucket = Bucket(str(path))
        with bucket.telling("read"):
            return zarr.open_group(bucket.to_open(), mode="r")
    return zarr.open_group(str(path), mode="r")


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | type,
    dimensions: tuple[str, ...],
    attributes: dict[str, Any] | None = None,
) -> zarr.Array:
    """Create an empty array in `group` with the house's chunking and codecs.

    Chunks run along the first axis only and hold about half a MiB, shards about 16 MiB, so that
    one row is cheap to read and a big array is few files.

    Args:
        group: Where to create it.
        name: Path inside the group, such as ``"train/images"``.
        shape: Full shape.
        dtype: Numeric dtype.
        dimensions: One name per axis.
        attributes: JSON attributes.
    """
    from zarr.codecs import ZstdCodec

    dtype = np.dtype(dtype)
    chunk, shard = _rows_per(shape, dtype)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *(max(1, s) for s in shape[1:])),
        shards=(shard, *(max(1, s) for s in shape[1:])),
        compressors=[ZstdCodec(level=3, checksum=True)],
        fill_value=np.nan if dtype.kind == "f" else 0,
        # Chunks that equal the fill value must exist too: a missing chunk is a damaged array.
        config={"write_empty_chunks": True},
        dimension_names=dimensions,
        attributes=attributes or {},
    )


def shard_blocks(array: zarr.Array, n_rows: int) -> Iterator[slice]:
    """Yield row slices that cover `array`, each about `n_rows` rows and whole shards long."""
    shard = array.shards[0] if array.shards else array.chunks[0]
    step = max(1, n_rows // shard) * shard
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))


def adopt_shards(source: Path, target: Path, *, keep: bool) -> None:
    """Give the shards that the array at `source` has to that at `target`, of the same shape.

    What another process has written becomes part of an array without being read.

    Args:
        source: Folder of the one array.
        target: Folder of the other.
        keep: Leave `source` as it is: both have the same files, linked where the disk can.
    """
    for path in sorted(p for p in (source / "c").rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if keep:
            _link(path, place)
        else:
            shutil.move(path, place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, place)


def write_array(
    group: zarr.Group,
    name: str,
    values: np.ndarray[Any, Any],
    dimensions: tuple[str, ...],
    attributes: dict[str, Any] | None = None,
) -> zarr.Array:
    """Create an array in `group` and fill it with `values`, all at once."""
    array = create_array(group, name, values.shape, values.dtype, dimensions, attributes)
    if values.size:
        array[...] = values
    return array


def write_csr(group: zarr.Group, name: str, matrix: scipy.sparse.csr_array) -> None:
    """Write a CSR matrix as the subgroup `name`, in the layout that anndata reads too."""
    n, k = (int(s) for s in matrix.shape)
    appender = CsrAppender(group, name, (n, k), int(matrix.nnz), matrix.dtype)
    appender.append(matrix)
    appender.close()


def read_csr(group: zarr.Group, name: str) -> scipy.sparse.csr_array:
    """Read a matrix that :func:`write_csr` wrote."""
    import scipy.sparse

    sub = group[name]
    data, indices, indptr = (np.asarray(sub[part][...]) for part in ("data", "indices", "indptr"))
    return scipy.sparse.csr_array((data, indices, indptr), shape=tuple(sub.attrs["shape"]))


class Appender:
    """Fills an array from its beginning in whole shards, however few rows arrive at a time.

    Args:
        array: An array that nobody has written to, at least as long as what will arrive.
    """

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self._shard = array.shards[0] if array.shards else array.chunks[0]
        self._waiting: list[np.ndarray[Any, Any]] = []
        self._n_waiting = self._done = 0

    def append(self, values: np.ndarray[Any, Any]) -> None:
        """Add rows; a shard at most is held back."""
        self._waiting.append(values)
        self._n_waiting += len(values)
        if self._n_waiting >= self._shard:
            self._write(self._n_waiting // self._shard * self._shard)

    def close(self) -> None:
        """Write what is held back, and shorten the array to what has arrived."""
        n = self._done + self._n_waiting
        if n < self._array.shape[0]:
            self._array.resize((n, *self._array.shape[1:]))
        if self._n_waiting:
            self._write(self._n_waiting)

    def _write(self, n: int) -> None:
        values = np.concatenate(self._waiting)
        self._array[self._done : self._done + n] = values[:n]
        self._waiting, self._done = [values[n:].copy()], self._done + n
        self._n_waiting = len(values) - n


class CsrAppender:
    """Writes a CSR matrix block of rows by block of rows, in the layout that anndata reads too.

    Args:
        group: Where to create it.
        name: Name of the subgroup.
        shape: Full shape, (n, K).
        most: Largest number of stored entries of all rows.
        dtype: Numeric dtype of the entries.
    """

    def __init__(
        self,
        group: zarr.Group,
        name: str,
        shape: tuple[int, int],
        most: int,
        dtype: np.dtype[Any] | type,
    ) -> None:
        marks = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)}
        sub = group.create_group(name, attributes=marks)
        part = {"encoding-type": "array", "encoding-version": "0.2.0"}
        self._data, self._indices, self._indptr = (
            Appender(create_array(sub, name, (n,), kind, (axis,), part))
            for name, n, kind, axis in (
                ("data", most, dtype, "nonzero"),
                ("indices", most, np.int64, "nonzero"),
                ("indptr", shape[0] + 1, np.int64, "row"),
            )
        )
        self._indptr.append(np.zeros(1, np.int64))
        self._nnz = 0

    def append(self, rows: scipy.sparse.csr_array) -> None:
        """Add the next rows, shape (m, K)."""
        self._data.append(np.asarray(rows.data))
        self._indices.append(np.asarray(rows.indices).astype(np.int64))
        self._indptr.append(np.asarray(rows.indptr[1:]).astype(np.int64) + self._nnz)
        self._nnz += int(rows.indptr[-1])

    def close(self) -> None:
        """Write what is held back."""
        for part in (self._data, self._indices, self._indptr):
            part.close()


def _rows_per(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the rows of one chunk and of one shard (a whole number of chunks)."""
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
    n_rows = max(1, shape[0])
    chunk = min(max(1, _CHUNK_BYTES // row_bytes), n_rows)
    n_chunks = min(max(1, SHARD_BYTES // (chunk * row_bytes)), -(-n_rows // chunk))
    return chunk, chunk * n_chunks
