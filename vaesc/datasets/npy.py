"""Numpy's .npy and .npz files, without pickle and without trust in their headers."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.datasets.files import (
    DEFLATE_RATIO,
    check_claim,
    check_memory,
    read_exactly,
    reading,
    require_file,
)
from vaesc.errors import DataError

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
_KINDS = "buif"
_LONGEST_TEXT = 64
_LONGEST_HEADER = 10_000
"""Bytes; numpy parses no longer one either."""
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npy(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory, to be read block by block.

    Raises:
        DataError: The file is missing, damaged, or holds Python objects.
    """
    size = require_file(path).stat().st_size
    with reading(path, "a .npy file"):
        with path.open("rb") as stream:
            shape, _, dtype = _read_header(stream, str(path))
            n_bytes = math.prod(shape) * dtype.itemsize
            check_claim(str(path), n_bytes, size - stream.tell())
        # An empty file cannot be mapped; what uses the array says that it is empty.
        if not n_bytes:
            return np.empty(shape, dtype)
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def read_npy(path: Path) -> NDArray[Any]:
    """Load a whole .npy file into memory.

    Raises:
        DataError: The file is missing, damaged, holds Python objects, or exceeds memory.
    """
    mapped = open_npy(path)
    check_memory(str(path), mapped.nbytes)
    return np.array(mapped)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz file, in order.

    Raises:
        DataError: The file is missing or not a .npz file.
    """
    with reading(require_file(path), "a .npz file"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Load arrays of a .npz file into memory.

    Raises:
        DataError: The file is damaged, an array holds Python objects, or one exceeds memory.
    """
    with reading(require_file(path), "a .npz file"), zipfile.ZipFile(path) as archive:
        return {name: _read_member(archive, name, path) for name in names}


def read_npz_text(path: Path, name: str) -> str:
    """Return a short text that a .npz file holds, such as the format of scipy's sparse matrices.

    Raises:
        DataError: The file is damaged, or holds no such text.
    """
    with reading(require_file(path), "a .npz file"), zipfile.ZipFile(path) as archive:
        values = _read_member(archive, name, path, kinds="SU")
        if values.size != 1 or values.dtype.itemsize > _LONGEST_TEXT:
            raise DataError(f"{path}[{name}] must be one short text, got shape {values.shape}")
        text = values.item()
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)


def _read_member(
    archive: zipfile.ZipFile, name: str, path: Path, kinds: str = _KINDS
) -> NDArray[Any]:
    info, origin = archive.getinfo(f"{name}.npy"), f"{path}[{name}]"
    packed = min(info.compress_size, path.stat().st_size)
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{origin} is neither stored nor deflated; save it with numpy.savez")
    with archive.open(info) as stream:
        shape, fortran, dtype = _read_header(stream, origin, kinds)
        n_bytes = math.prod(shape) * dtype.itemsize
        check_claim(origin, n_bytes, packed * ratio)
        check_memory(origin, n_bytes)
        values = read_exactly(stream, n_bytes, origin).view(dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_header(stream: IO[bytes], origin: str, kinds: str = _KINDS) -> Header:
    start = stream.read(8)
    if len(start) < 8 or start[:6] != np.lib.format.MAGIC_PREFIX:
        raise DataError(
            f"{origin} does not begin like a .npy file, but with "
            f"{start[:6].hex(' ') or 'nothing'}; save the array with numpy.save"
        )
    version = (start[6], start[7])
    if version not in _READERS:
        raise DataError(
            f"{origin} is a .npy file of version {version}; save a plain numeric array"
        )
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _LONGEST_HEADER:  # numpy would ask for as much memory as is claimed here
        raise DataError(
            f"{origin} claims a header of {length:,} bytes, which no plain numeric array has; "
            "save it with numpy.save"
        )
    header = io.BytesIO(size + stream.read(length))
    shape, fortran, dtype = _READERS[version](header)
    if dtype.hasobject:
        raise DataError(
            f"{origin} is an array of Python objects (pickle), which is never loaded; "
            "save a numeric array of one shape"
        )
    if dtype.kind not in kinds and kinds != _KINDS:
        raise DataError(f"{origin} must hold a text, got type {dtype}; write the file again")
    if dtype.kind not in kinds or any(n < 0 for n in shape):
        raise DataError(
            f"{origin} must hold plain numbers, got type {dtype} of shape {shape}; save bool, "
            "integers or floats"
        )
    return shape, fortran, dtype
