"""Files of ``vaesc compress``."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.sparse import vstack

from vaesc.applications.code_fit import fit_codes
from vaesc.applications.compression.codec import Codec
from vaesc.applications.compression.entropy import Reader
from vaesc.applications.compression.files import MAGIC, pack, unpack
from vaesc.applications.compression.layers import Layers, flat_images, prepare
from vaesc.applications.compression.learning import fit_details
from vaesc.applications.compression.transforms import Residuals
from vaesc.errors import DataError

from .model_targets import SHAPE, tiny
from .target import Target

_PRICE = 0.02


@functools.cache
def tiny_codec() -> Codec:
    """Return a codec of an untrained model."""
    rng, model = np.random.default_rng(0), tiny()
    unit = rng.random((200, *SHAPE)).astype(np.float32)
    flat = unit.reshape(len(unit), -1)
    prepared = prepare(model, unit)
    base = fit_codes(vstack(prepared.codes, format="csr"), step=0.3, n_classes=2, rng=rng)
    residuals = Residuals(np.stack([flat[:100].mean(axis=0), flat[100:].mean(axis=0)]))
    left = flat - flat_images(model, base, base.quantise(prepared.codes[-1]))
    residuals.add(flat, left)
    transforms = residuals.transforms()
    kinds = transforms.kinds(flat)
    detail = fit_details(transforms.project(left, kinds), _PRICE, rng, n_classes=3)
    shares = np.ones((base.n_classes, transforms.n_kinds), np.uint32)
    layers = Layers(price=_PRICE, base=base, kinds=shares, detail=detail)
    return Codec(model, transforms, (layers, layers))


def _codec(data: bytes, folder: Path) -> None:
    codec = tiny_codec()
    try:
        codec.decompress(data)
    except DataError:
        codec.decompress(_sealed(data))


def _sealed(data: bytes) -> bytes:
    """Put right what checksums there should be: without them no damage would get far."""
    axes_at = len(MAGIC) + 33
    if len(data) <= axes_at:
        return data
    at = axes_at + 1 + 4 * data[axes_at] + 4
    if len(data) < at + 4:
        return data
    (n_images,) = struct.unpack_from("<I", data, at)
    index, n_blocks = at + 4, -(-n_images // 1024)
    end = index + 8 * n_blocks
    if len(data) < end + 4:
        return data
    found, start = bytearray(data), end + 4
    for b in range(n_blocks):
        (length,) = struct.unpack_from("<I", data, index + 8 * b)
        checksum = zlib.crc32(data[start : start + length])
        struct.pack_into("<I", found, index + 8 * b + 4, checksum)
        start += length
    struct.pack_into("<I", found, end, zlib.crc32(found[:end]))
    return bytes(found)


def _seeds() -> list[bytes]:
    codec, rng = tiny_codec(), np.random.default_rng(1)
    images = rng.random((5, *SHAPE)).astype(np.float32)
    empty = pack([], digest=codec.digest, quality=1, shape=SHAPE, n_images=0)
    return [codec.compress(images, 1), codec.compress(np.tile(images, (210, 1, 1)), 2), empty]


def _prepare() -> None:
    header = unpack(io.BytesIO(_seeds()[0]))
    assert header.n_images == 5
    Reader(b"\0\0\0\0")


TARGETS = (
    Target(
        name="codec", what="Codec.decompress: header, index, blocks, with checksums put right",
        run=_codec, seeds=_seeds, prepare=_prepare,
        words=(MAGIC, struct.pack("<I", 1024), struct.pack("<II", 4, 4), b"\xff\xff\xff\x7f"),
    ),
)  # fmt: skip
