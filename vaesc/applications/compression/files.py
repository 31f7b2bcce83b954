r"""The file: a header that says what it needs, an index, and blocks that stand for themselves.

All numbers are little-endian.

=====================  ===========  ==========================================================
bytes                  type         meaning
=====================  ===========  ==========================================================
8                      bytes        :data:`MAGIC`
32                     bytes        SHA-256 of the codec that decodes it
1                      uint8        quality
1                      uint8        number of axes of an image, a
4 a                    uint32       shape of an image
4                      uint32       images of a block (the last one may have fewer), b
4                      uint32       images, n
8 ceil(n / b)          2 uint32     for each block: its bytes, its CRC-32
4                      uint32       CRC-32 of all of the above
the rest               bytes        the blocks, one after another
=====================  ===========  ==========================================================

Nothing that a header claims is believed before it was held against the length of the file and the
shape of the model's images: memory is set aside for what is there.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import DataError

MAGIC = b"\x93VSC\r\n\x1a\x01"
"""Its last byte is the version of the format; the others show what was sent as text."""
BLOCK = 1024
"""Images of a block: what is decoded at once, and the least that random access decodes."""
MOST_IMAGES = 2**31
_AGAIN = "fetch it again"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    digest: bytes
    """SHA-256 of the codec that decodes it, 32 bytes."""
    quality: int
    shape: tuple[int, ...]
    """Of one image."""
    n_images: int
    bounds: NDArray[np.int64]
    """Where in the file each block begins, and the last one ends, shape (blocks + 1,)."""
    checksums: NDArray[np.uint32]
    """CRC-32 of each block, shape (blocks,)."""

    def images_of(self, block: int) -> slice:
        """Return which images a block holds."""
        return slice(block * BLOCK, min((block + 1) * BLOCK, self.n_images))


def pack(
    blocks: Sequence[bytes], *, digest: bytes, quality: int, shape: tuple[int, ...], n_images: int
) -> bytes:
    """Return the file of some blocks."""
    n_axes = len(shape)
    head = MAGIC + struct.pack(
        f"<32sBB{n_axes}III", digest, quality, n_axes, *shape, BLOCK, n_images
    )
    for block in blocks:
        head += struct.pack("<II", len(block), zlib.crc32(block))
    return b"".join((head, struct.pack("<I", zlib.crc32(head)), *blocks))


def unpack(file: IO[bytes]) -> Header:
    """Return what a file says of itself, all of it held against the file's length.

    Args:
        file: Open for reading, and can be sought; its blocks are not read.

    Raises:
        DataError: It is none, or is damaged, or ends too early or too late.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(len(MAGIC))
    if head[:-1] != MAGIC[:-1]:
        raise DataError("it is no file of `vaesc compress`: it begins otherwise")
    if head[-1:] != MAGIC[-1:]:
        raise DataError("it has another version of the format than this vaesc reads; update vaesc")
    head += file.read(34)
    try:
        digest, quality, n_axes = struct.unpack_from("<32sBB", head, len(MAGIC))
        head += file.read(4 * n_axes + 8)
        *shape, block, n_images = struct.unpack_from(f"<{n_axes}III", head, len(MAGIC) + 34)
    except struct.error:
        raise DataError(f"it ends within its header; {_AGAIN}") from None
    n_blocks = -(-n_images // BLOCK)
    begin = len(head) + 8 * n_blocks + 4
    if block != BLOCK or n_images > MOST_IMAGES or begin > size:
        raise DataError(f"its header is damaged, or it ends within its index; {_AGAIN}")
    index = file.read(8 * n_blocks)
    if file.read(4) != struct.pack("<I", zlib.crc32(head + index)):
        raise DataError(f"its header is damaged: its checksum differs; {_AGAIN}")
    sizes, checksums = np.frombuffer(index, "<u4").reshape(n_blocks, 2).T
    bounds = begin + np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    if bounds[-1] != size:
        raise DataError(f"it must have {bounds[-1]} bytes, and has {size}; {_AGAIN}")
    return Header(
        digest=digest, quality=quality, shape=tuple(shape), n_images=n_images, bounds=bounds,
        checksums=checksums,
    )  # fmt: skip


def block_of(file: IO[bytes], header: Header, block: int) -> bytes:
    """Return the bytes of a block; nothing else is read.

    Raises:
        DataError: They are damaged.
    """
    begin, end = map(int, header.bounds[block : block + 2])
    file.seek(begin)
    found = file.read(end - begin)
    if zlib.crc32(found) != header.checksums[block]:
        rows = header.images_of(block)
        raise DataError(
            f"the block of images {rows.start} to {rows.stop - 1} is damaged: its checksum "
            f"differs; {_AGAIN}"
        )
    return found
