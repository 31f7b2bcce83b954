"""Data in folders: Zarr stores, image files, CIFAR-10, what ``vaesc score`` wrote."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from PIL import Image

from vaesc.arrays import create_group, write_array, write_csr
from vaesc.datasets.image_folder import EXTENSIONS
from vaesc.scoring import SCORES, SUMMARY, open_scores

from .array_targets import images, ingested
from .folders import pack, pack_folder, unpack
from .target import Target

_CIFAR_ROW = 3073


def _zarr(data: bytes, folder: Path) -> None:
    unpack(data, folder / "x.zarr")
    ingested(source="arrays", path=str(folder / "x.zarr"))


def made(write: Callable[[Path], object], first: bytes = b"") -> bytes:
    """Return the folder that `write` fills, as bytes."""
    folder = Path(tempfile.mkdtemp(prefix="vaesc-fuzz-"))
    try:
        write(folder)
        return pack_folder(folder, first)
    finally:
        shutil.rmtree(folder)


def _zarr_seeds() -> list[bytes]:
    x, y = images(12, 3, 3), np.arange(12) % 3

    def v2(folder: Path) -> None:
        zarr.create_array(str(folder), data=x, chunks=(5, 3, 3), zarr_format=2, overwrite=True)

    def group(folder: Path) -> None:
        made = create_group(folder / "g")
        write_array(made, "x", x, ("a", "b", "c"))
        write_array(made, "y", y, ("a",))
        zarr.consolidate_metadata(str(folder / "g"))
        for each in (folder / "g").iterdir():
            each.rename(folder / each.name)
        (folder / "g").rmdir()

    plain = {"data": x, "chunks": (12, 3, 3), "overwrite": True}
    return [
        made(v2), made(group),
        made(lambda f: zarr.create_array(str(f), **plain, compressors=None)),
        made(lambda f: zarr.create_array(str(f), **plain, compressors=zarr.codecs.GzipCodec())),
        made(lambda f: zarr.create_array(str(f), **plain, compressors=zarr.codecs.BloscCodec())),
        made(lambda f: zarr.create_array(str(f), data=x / 255, chunks=(4, 3, 3),
                                         shards=(8, 3, 3), overwrite=True)),
    ]  # fmt: skip


def _images(data: bytes, folder: Path) -> None:
    """Every PNG's checksums are made right if the bytes begin with ``crc``."""
    first = unpack(data, folder / "x")
    if first.startswith(b"crc"):
        for path in (folder / "x").rglob("*.png"):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(_with_checksums(path.read_bytes()))
    ingested(source="folder", path=str(folder / "x"))


def _with_checksums(png: bytes) -> bytes:
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        n = min(struct.unpack(">I", png[at : at + 4])[0], len(png) - at - 12)
        body = png[at + 4 : at + 8 + n]
        parts += [png[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + n
    return b"".join(parts) + png[at:]


def _image_seeds() -> list[bytes]:
    found = []
    for suffix in sorted(EXTENSIONS):
        files = {}
        for i, pixels in enumerate(images(4, 5, 5)):
            stream = io.BytesIO()
            kind = {".pgm": "PPM", ".jpg": "JPEG", ".tif": "TIFF"}.get(suffix)
            Image.fromarray(pixels).save(stream, kind or suffix[1:].replace("ppm", "PPM"))
            files[f"{'ab'[i % 2]}/{i}{suffix}"] = stream.getvalue()
        found.append(pack(files, b"crc" if suffix == ".png" else b""))
    return found


def _cifar(data: bytes, folder: Path) -> None:
    unpack(data, folder / "x")
    ingested(source="cifar10", folder=str(folder / "x"), download=False)


def _cifar_seeds() -> list[bytes]:
    row = bytes(range(1, 5)) * 768
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    binary = {
        f"cifar-10-batches-bin/{n}.bin": bytes([i]) + row[i:] + row[:i]
        for i, n in enumerate(names)
    }
    call = b"cbuiltins\nlen\n(]tR."  # a pickle that calls a function
    pickled = {f"cifar-10-batches-py/{n}": call for n in (*names, "batches.meta")}
    assert all(len(each) == _CIFAR_ROW for each in binary.values())
    return [pack(binary), pack(pickled)]


def _scores(data: bytes, folder: Path) -> None:
    unpack(data, folder / "x")
    scores = open_scores(folder / "x")
    scores.codes(), scores.mse(), scores.p_values()


def _score_seeds() -> list[bytes]:
    from scipy.sparse import csr_array

    def write(folder: Path) -> None:
        group = create_group(folder / SCORES)
        write_csr(group, "codes", csr_array(np.eye(4, 6, dtype=np.float32)))
        for name in ("mse", "p_value"):
            write_array(group, name, np.ones(4, np.float32), ("sample",))
        (folder / SUMMARY).write_text(json.dumps({"n_images": 4}))

    return [made(write)]


_ZARR_WORDS = (
    b'"shape": [1000000000000]', b'"chunk_shape": [', b'"name": "zstd"', b'"name": "blosc"',
    b'"name": "gzip"', b'"name": "numcodecs.bz2"', b'"id": "pickle"', b'"id": "lzma"',
    b'"data_type": "string"', b'"data_type": "uint8"', b'"|O"', b'"fill_value": ',
    b"\n@@ zarr.json\n", b"\n@@ .zarray\n", b"\n@@ .zgroup\n",
    b"\n@@ c/0/0/0 -> ../../../outside/secret\n",
    b"\n@@ zarr.json -> ../outside/secret\n", b"\n@@ x -> ..\n", b'"../../outside"',
)  # fmt: skip
TARGETS = (
    Target(name="zarr", what="Zarr stores, v2 and v3", run=_zarr, seeds=_zarr_seeds,
           words=_ZARR_WORDS),
    Target(name="images", what="folders of image files", run=_images, seeds=_image_seeds,
           words=(b"crc", b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"zTXt", b"acTL", b"%!PS-Adobe-3.0",
                  b"GIF89a", b"RIFF", b"P5\n9999999 9999999\n255\n", b"II*\0", b"\xff\xd8\xff\xc2",
                  b"\n@@ a/9.png -> ../../outside/secret\n", b"\n@@ b/9.png -> /dev/zero\n")),
    Target(name="cifar", what="CIFAR-10 in either layout", run=_cifar, seeds=_cifar_seeds,
           words=(b"\n@@ cifar-10-batches-py/test_batch\n",)),
    Target(name="scores", what="open_scores", run=_scores, seeds=_score_seeds, words=_ZARR_WORDS),
)  # fmt: skip
