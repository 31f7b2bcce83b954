"""Where the user's Zarr arrays lie: a folder, or a prefix of a bucket that is read in place.

Both are asked the same few questions, so that what is checked of arrays on the disk (every chunk
is there, none claims too much) is checked in a bucket too, and their fingerprint is the same: the
SHA-256 over names and contents of their files, wherever they lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vaesc.bucket import Bucket
from vaesc.datasets.files import files_below, reading
from vaesc.errors import DataError
from vaesc.store import file_digest

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""Files that a Zarr store or array begins with."""
_AT_ONCE = 8
T = TypeVar("T")


class StoredFile(Protocol):
    """One file of a store."""

    @property
    def name(self) -> str:
        """Name without its folder."""

    @property
    def size(self) -> int:
        """Length."""

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return some of its bytes; fewer at its end."""

    def digest(self) -> str:
        """SHA-256 of its bytes."""


class ZarrPlace(Protocol):
    """A Zarr store that is there; as text, its path or URL."""

    def to_open(self) -> Any:  # noqa: ANN401 - a path, or a store of zarr's
        """Return what zarr opens."""

    def files(self, below: str = "") -> list[tuple[str, StoredFile]]:
        """Return every file of an array with its name relative to it, sorted by that name."""

    def reading(self) -> AbstractContextManager[None]:
        """Turn what zarr raises within the block into one sentence."""

    def each(
        self, function: Callable[[StoredFile], T], files: Iterable[StoredFile]
    ) -> Iterator[T]:
        """Call a function with each file; some at a time, where that takes waiting."""


@dataclass(frozen=True)
class LocalFile:
    """A file on the disk."""

    path: Path

    @property
    def name(self) -> str:
        """Name without its folder."""
        return self.path.name

    @property
    def size(self) -> int:
        """Length."""
        return self.path.stat().st_size

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return some of its bytes."""
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(n_bytes)

    def digest(self) -> str:
        """SHA-256 of its bytes."""
        with reading(self.path, "a file"):
            return file_digest(self.path)


@dataclass(frozen=True)
class ZarrFolder:
    """A Zarr store in a folder."""

    path: Path

    def __str__(self) -> str:
        """Return its path."""
        return str(self.path)

    def to_open(self) -> str:
        """Return its path."""
        return str(self.path)

    def files(self, below: str = "") -> list[tuple[str, StoredFile]]:
        """Return every file below a folder of it."""
        return [(name, LocalFile(path)) for name, path in files_below(self.path / below)]

    def reading(self) -> AbstractContextManager[None]:
        """Turn what zarr raises into one sentence."""
        return reading(self.path, "a Zarr array or group")

    def each(
        self, function: Callable[[StoredFile], T], files: Iterable[StoredFile]
    ) -> Iterator[T]:
        """Call a function with each file."""
        return map(function, files)


@dataclass(frozen=True)
class RemoteFile:
    """An object of a bucket."""

    bucket: Bucket
    key: str
    size: int

    @property
    def name(self) -> str:
        """Name without its folder."""
        return self.key.rpartition("/")[2]

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return some of its bytes."""
        length = min(n_bytes, self.size - start)
        return self.bucket.read_range(self.key, start, length) if length > 0 else b""

    def digest(self) -> str:
        """SHA-256 of its bytes."""
        total = hashlib.sha256()
        for piece in self.bucket.pieces(self.key):
            total.update(piece)
        return total.hexdigest()


@dataclass(frozen=True)
class ZarrBucket:
    """A Zarr store in a bucket."""

    bucket: Bucket

    def __str__(self) -> str:
        """Return its URL."""
        return self.bucket.url

    def to_open(self) -> Any:  # noqa: ANN401
        """Return a store of zarr's that reads it."""
        return self.bucket.to_open()

    def files(self, below: str = "") -> list[tuple[str, StoredFile]]:
        """Return every object below a prefix of it."""
        start = len(below) + 1 if below else 0
        return sorted(
            (
                (o.key[start:], RemoteFile(self.bucket, o.key, o.bytes))
                for o in self.bucket.list(below)
            ),
            key=lambda found: found[0],
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what zarr and the server say into one sentence."""
        with reading(self.bucket.url, "a Zarr array or group"), self.bucket.telling("read"):
            yield

    def each(
        self, function: Callable[[StoredFile], T], files: Iterable[StoredFile]
    ) -> Iterator[T]:
        """Call a function with each object, some at a time; what it returns comes in order."""
        with ThreadPoolExecutor(_AT_ONCE, "vaesc-zarr") as pool:
            yield from pool.map(function, files)


def zarr_in_bucket(url: str) -> ZarrBucket:
    """Return the Zarr store at a URL of S3.

    Raises:
        DataError: There is none.
        ConfigError: The URL is none.
        StoreError: The bucket cannot be read, or obstore is not installed.
    """
    bucket = Bucket(url)
    try:
        found = next((m for m in MARKS if bucket.read(m, 2**26) is not None), None)
    except ValueError as error:
        raise DataError(f"{bucket} cannot be read as a Zarr array or group ({error})") from error
    if found is None:
        raise DataError(
            f"{bucket} is not a Zarr array or group (it has no zarr.json), and nothing else is "
            "read from a bucket; check the URL, or copy the file to this machine"
        )
    return ZarrBucket(bucket)
