"""Arrays in one file: IDX, .npy, .npz, and codes as ``vaesc encode`` writes them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import scipy.sparse

from vaesc.cli import use
from vaesc.config import DatasetConfig
from vaesc.datasets.ingestion import _checked_scale
from vaesc.datasets.sources import source_of
from vaesc.datasets.splits import select_splits
from vaesc.datasets.validation import check_shape

from .folders import pack, split
from .target import Target

_NPY_WORDS = (
    b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"'descr': '<f8'", b"'descr': '|O'",
    b"'descr': [('a', '<f8')]", b"'fortran_order': True", b"'shape': (3, 4)", b"(1099511627776,)",
    b"(-1,)", b"'<U9'", b"'<M8[s]'", b"'|b1'", b"'<c8'", b"'<f2'", b"'>u8'", b"'<f16'",
)  # fmt: skip


def ingested(**settings: object) -> None:
    """Do all that ingestion does before it writes: open, check, split, look at every pixel."""
    config = DatasetConfig(**settings)
    source = source_of(config)
    source.check(config)
    source.fingerprint(config)
    raw = source.load(config, 0)
    shape = check_shape(raw)
    splits = select_splits(raw, config, 0)
    row_bytes = int(np.prod(shape)) * next(iter(raw.parts.values())).images.dtype.itemsize
    _checked_scale(raw, splits, config, max(1, min(64, 2**26 // row_bytes)))


def images(*shape: int) -> np.ndarray:
    """Return bytes that vary."""
    return np.random.default_rng(0).integers(0, 256, shape or (12, 3, 3), dtype=np.uint8)


def npy(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    """Return an array as a .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, version)
    return stream.getvalue()


def idx(values: np.ndarray, code: int = 8) -> bytes:
    """Return an array as an IDX file."""
    head = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def _idx(data: bytes, folder: Path) -> None:
    """``Z`` first: zip the rest, which damages what the checksum would hide."""
    whole = gzip.compress(data[1:], 1, mtime=0) if data[:1] == b"Z" else data
    path = folder / "x-idx3-ubyte"
    path.write_bytes(whole)
    ingested(source="arrays", path=str(path))


def _idx_seeds() -> list[bytes]:
    plain = [idx(images()), idx(images(12, 4) / 255, 14)]
    return [*plain, *(b"Z" + each for each in plain), gzip.compress(plain[0], mtime=0)]


def _npy(data: bytes, folder: Path) -> None:
    path = folder / "x.npy"
    path.write_bytes(data)
    ingested(source="arrays", path=str(path))


def _npy_seeds() -> list[bytes]:
    return [
        npy(images()), npy(images(12, 4) / 255), npy(images(12, 2, 3, 3) > 99),
        npy(np.asfortranarray(images(12, 4)).astype(">i2"), (2, 0)),
        npy((images(12, 5) / 255).astype("f2"), (1, 0)),
    ]  # fmt: skip


def _zipped(data: bytes) -> bytes:
    """Return a zip file: the bytes themselves, or made of the members they are."""
    if data.startswith(b"PK"):
        return data
    first, files = split(data)
    stream = io.BytesIO()
    kind = zipfile.ZIP_STORED if first else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            with suppress(struct.error):  # a name that no zip file can hold
                archive.writestr(info, content)
    return stream.getvalue()


def _npz(data: bytes, folder: Path) -> None:
    path = folder / "x.npz"
    path.write_bytes(_zipped(data))
    ingested(source="arrays", path=str(path))


def _npz_seeds() -> list[bytes]:
    x, y = images(12, 3, 3), np.arange(12) % 3
    raw = [io.BytesIO(), io.BytesIO()]
    np.savez(raw[0], x=x, y=y)
    np.savez_compressed(raw[1], x=x)
    return [
        *(stream.getvalue() for stream in raw),
        pack({"x.npy": npy(x), "y.npy": npy(y)}),
        pack({"x_train.npy": npy(x), "x_test.npy": npy(x[::-1])}, b"stored"),
    ]


def _codes(data: bytes, folder: Path) -> None:
    path = folder / "codes.npz"
    path.write_bytes(_zipped(data))
    codes = use._read_codes(path)
    if codes.shape[1] <= 4096:
        codes @ np.ones((codes.shape[1], 1), np.float32)


def _codes_seeds() -> list[bytes]:
    made = scipy.sparse.random_array((9, 16), density=0.2, format="csr", rng=0, dtype=np.float32)
    stream = io.BytesIO()
    scipy.sparse.save_npz(stream, made)
    with zipfile.ZipFile(stream) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return [stream.getvalue(), pack(files), pack(files, b"stored")]


TARGETS = (
    Target(name="idx", what="IDX, plain and gzipped", run=_idx, seeds=_idx_seeds,
           words=(b"Z", b"\x1f\x8b\x08", b"\x00\x00\x08\x03", b"\x00\x00\x0e\xff")),
    Target(name="npy", what=".npy images", run=_npy, seeds=_npy_seeds, words=_NPY_WORDS),
    Target(name="npz", what=".npz images", run=_npz, seeds=_npz_seeds,
           words=(*_NPY_WORDS, b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\n@@ x.npy\n",
                  b"\n@@ ../x.npy\n")),
    Target(name="codes", what="codes of vaesc encode, for vaesc decode", run=_codes,
           seeds=_codes_seeds,
           words=(*_NPY_WORDS, b"csr", b"coo", b"bsr", b"\n@@ _is_array.npy\n",
                  b"\n@@ row.npy\n", b"\n@@ offsets.npy\n")),
)  # fmt: skip
