"""The IDX format of MNIST and its kin, plain or gzipped.

Two zero bytes, one byte for the type, one for the number of axes, then each axis' length and the
values, all big-endian. Whether a file is gzipped is read from its first bytes, not from its name.
Source: http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import gzip
import math
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

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[Any]:
    """Read a whole IDX file.

    Args:
        path: The file, plain or gzipped.

    Returns:
        Its array, in this machine's byte order.

    Raises:
        DataError: The file is missing, cut short, damaged, not an IDX file, or larger than memory.
    """
    size = require_file(path).stat().st_size
    with reading(path, "an IDX file"), path.open("rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=plain) if zipped else plain  # type: ignore[assignment]
        dtype, shape = _read_header(stream, path)
        n_bytes = math.prod(shape) * dtype.itemsize
        check_claim(str(path), n_bytes, size * DEFLATE_RATIO if zipped else size - plain.tell())
        check_memory(str(path), n_bytes)
        values = read_exactly(stream, n_bytes, str(path)).view(dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError(
            f"{path} does not begin like an IDX file (two zero bytes, a type, a number of axes), "
            f"but with {magic.hex(' ') or 'nothing'}; fetch it again or name another file"
        )
    lengths = stream.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise DataError(f"{path} is cut short inside its header; fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    return np.dtype(_TYPES[magic[2]]), shape
