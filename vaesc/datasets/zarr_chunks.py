"""What the chunks of somebody's Zarr array would unpack to, seen before one is unpacked.

Zstandard and Blosc write the size of what is inside at the beginning, and their readers set that
much aside, whatever the array's metadata says of its chunks: 33 KB can become a gigabyte. Deflate
has a ratio it cannot exceed. What cannot be bounded so is not read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.datasets.zarr_places import StoredFile, ZarrPlace
from vaesc.errors import DataError

if TYPE_CHECKING:
    import zarr

_HARMLESS = {
    "bytes", "transpose", "sharding_indexed", "shuffle", "delta", "astype", "bitround", "packbits",
    "quantize", "fixedscaleoffset", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3",
}  # fmt: skip
"""They keep the number of bytes, up to the width of a number."""
_BOUNDED = {"gzip", "zlib"}
_SIZED = {"zstd", "blosc", "lz4"}
_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
_WIDER, _SLACK = 8, 2**16
"""Filters may store numbers of another width, and checksums add a few bytes."""
_ABSENT = 2**64 - 1


def check_chunks(
    array: zarr.Array, place: ZarrPlace, files: Iterable[StoredFile], origin: str
) -> None:
    """Refuse chunks that would unpack to more than a chunk, and codecs that cannot be bounded.

    Args:
        array: The array.
        place: Where it lies.
        files: Every file of it.
        origin: What it is called in the complaint.

    Raises:
        DataError: A codec is none of those read here, or a chunk claims too much.
        OSError: A file cannot be read.
    """
    names = [_plain_name(codec) for codec in _codecs(array.metadata.to_dict())]
    packers = [name for name in names if name in _SIZED | _BOUNDED]
    if odd := [name for name in names if name not in _HARMLESS | _SIZED | _BOUNDED]:
        raise DataError(
            f"{origin} is packed with {odd[0]}, which is not read, since what it would unpack to "
            "cannot be told; write it with zstd, blosc, lz4, gzip or without compression"
        )
    if len(packers) > 1:
        raise DataError(f"{origin} is packed {len(packers)} times; write it with one compressor")
    if not packers or packers[0] in _BOUNDED:
        return
    n_bytes = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    parts = [each for each in files if each.name not in _METADATA]
    for part, said in zip(
        parts, place.each(lambda part: _excess(part, array, packers[0], n_bytes), parts),
        strict=True,
    ):  # fmt: skip
        if said is not None:
            raise DataError(
                f"{origin}: a chunk must hold {n_bytes} bytes, but one in {part.name} {said}; "
                "it is damaged, fetch or write it again"
            )


def _excess(part: StoredFile, array: zarr.Array, packer: str, n_bytes: int) -> str | None:
    """Say what the first chunk of a file claims that claims too much; None if none does."""
    for head in _heads(part, array):
        claimed = _claimed(packer, head)
        if claimed is None:
            return "does not say what it unpacks to"
        if claimed > _WIDER * n_bytes + _SLACK:
            return f"has {claimed}"
    return None


def _codecs(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the description of every codec, also those inside shards."""
    for one in (metadata.get("compressor"), *(metadata.get("filters") or ())):
        if one is not None:
            yield one if isinstance(one, Mapping) else one.get_config()
    for one in metadata.get("codecs") or ():
        yield one
        inside = one.get("configuration") or {}
        yield from _codecs({"codecs": inside.get("codecs")})
        # Where a shard's index lies is only known if it is where everybody puts it.
        index = [_plain_name(c) for c in inside.get("index_codecs") or ()]
        if index not in ([], ["bytes", "crc32c"]) or inside.get("index_location") == "start":
            yield {"name": "a shard index of an unusual kind"}


def _plain_name(codec: Mapping[str, Any]) -> str:
    return str(codec.get("name") or codec.get("id")).removeprefix("numcodecs.")


def _heads(part: StoredFile, array: zarr.Array) -> Iterator[bytes]:
    """Yield the first bytes of every chunk in a file, which may be a shard."""
    if array.shards is None:
        yield part.read(0, 18)
        return
    n = math.prod(array.shards) // math.prod(array.chunks)
    size = part.size
    if size < 16 * n + 4:
        return  # too short to be a shard: zarr says so
    for offset, length in struct.iter_unpack("<QQ", part.read(size - 16 * n - 4, 16 * n)):
        if (offset, length) != (_ABSENT, _ABSENT) and offset < size:
            yield part.read(offset, 18)


def _claimed(packer: str, head: bytes) -> int | None:
    """Return what a chunk says that it unpacks to; None if it does not say so at its beginning."""
    if packer == "blosc":
        return int.from_bytes(head[4:8], "little")
    if packer == "lz4":
        return int.from_bytes(head[:4], "little")
    return _claimed_by_zstd(head)


def _claimed_by_zstd(head: bytes) -> int | None:
    """Read a frame's header (RFC 8878, 3.1.1.1)."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = head[4]
    single, width = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
    if not width and not single:
        return None
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[at : at + (width or 1)], "little") + 256 * (width == 2)
