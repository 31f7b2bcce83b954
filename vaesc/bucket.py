"""A folder of objects on an S3 server: read, written and listed, or one sentence why not.

Where and as whom is said by the variables that every S3 client reads: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY`` (and ``AWS_SESSION_TOKEN``), ``AWS_REGION``, and ``AWS_ENDPOINT_URL`` for
any server but Amazon's. What goes wrong is put into words by :mod:`vaesc.bucket_errors`.

An object is read in pieces of 8 MiB and written so too, however large it is. A server that fails
or does not answer is asked six times more, with growing pauses, for half a minute at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.bucket_errors import endpoint, no_bucket, told
from vaesc.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
PIECE = 8 * 2**20
"""Bytes that are read or written at once."""
_AT_ONCE = 4
"""Objects that are copied at the same time."""
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^?#]*))?")
_RETRIES = 6
_PATIENCE = timedelta(seconds=30)
_FIRST_PAUSE = timedelta(seconds=0.2)


@dataclass(frozen=True)
class Stored:
    """An object as it is listed."""

    key: str
    bytes: int
    modified: float
    """Seconds since 1970, by the server's clock."""


def is_remote(place: object) -> bool:
    """Tell whether a reference of the user's is a URL of S3."""
    return isinstance(place, str) and place.startswith(SCHEME)


def place(text: str) -> Path | str:
    """Return what somebody names: a path, or a URL of S3 as it is."""
    return text if is_remote(text) else Path(text)


def at_once(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Call a function with each name, a few at the same time; the first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE, "vaesc-bucket") as pool:
        waiting = [pool.submit(function, name) for name in names]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Bucket:
    """The objects of a bucket whose keys begin with a prefix; keys here are relative to it.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        ConfigError: The URL, or that of the server, is none, or holds credentials.
        StoreError: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        if "@" in url:
            raise ConfigError(
                "an s3:// URL must not hold credentials; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, and take them out of the URL"
            )
        found = _URL.fullmatch(url)
        if not found:
            raise ConfigError(
                f"a place on S3 must be s3://bucket or s3://bucket/prefix, got {url}"
            )
        self.name, self.prefix = found[1], (found[2] or "").removesuffix("/")
        parts = self.prefix.split("/") if self.prefix else []
        if odd := [p for p in parts if p in ("", ".", "..") or not p.isprintable()]:
            raise ConfigError(
                "a place on S3 must have a name between any two slashes, other than . and .. and "
                f"without control characters, got {odd[0]!r} in {url!r}"
            )
        endpoint()
        self.url = f"{SCHEME}{self.name}" + (f"/{self.prefix}" if self.prefix else "")
        try:
            import obstore  # noqa: F401
        except ImportError:
            raise StoreError(f'{self.url} needs obstore: pip install "vaesc[s3]"') from None

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    @cached_property
    def client(self) -> S3Store:
        """The connection; what it raises is put into words by :meth:`telling`."""
        from obstore.store import S3Store

        server = endpoint()
        options: dict[str, Any] = {"endpoint": server} if server else {}
        return S3Store(
            self.name,
            prefix=self.prefix or None,
            client_options={
                "allow_http": bool(server and server.lower().startswith("http:")),
                "connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60),
            },
            retry_config={
                "max_retries": _RETRIES, "retry_timeout": _PATIENCE,
                "backoff": {
                    "init_backoff": _FIRST_PAUSE, "max_backoff": timedelta(seconds=10), "base": 2,
                },
            },
            **options,
        )  # fmt: skip

    def to_open(self) -> Any:  # noqa: ANN401 - zarr's annotations are not followed
        """Return a store of zarr's that reads below the prefix."""
        from zarr.storage import ObjectStore

        return ObjectStore(self.client, read_only=True)

    def list(self, below: str = "") -> Iterator[Stored]:
        """Yield every object whose key begins with ``below/``; with none, all."""
        import obstore

        with self.telling("list"):
            for batch in obstore.list(self.client, prefix=below or None):
                for each in batch:
                    modified = each["last_modified"].timestamp()
                    yield Stored(each["path"], each["size"], modified)

    def has(self, below: str = "") -> bool:
        """Return whether there is any object whose key begins with ``below/``."""
        return next(self.list(below), None) is not None

    def modified(self, key: str) -> float | None:
        """Return when an object was written, in seconds since 1970; None if there is none."""
        import obstore

        try:
            with self.telling("read"):
                return obstore.head(self.client, key)["last_modified"].timestamp()
        except FileNotFoundError:
            return None

    def read(self, key: str, most: int) -> bytes | None:
        """Return a small object's bytes; None if there is none.

        Raises:
            ValueError: It has more than `most` bytes.
        """
        import obstore

        try:
            with self.telling("read"):
                found = obstore.get(self.client, key)
                if found.meta["size"] > most:
                    raise ValueError(f"{key} is larger than {most} bytes")
                return bytes(found.bytes())
        except FileNotFoundError:
            return None

    def read_range(self, key: str, start: int, n_bytes: int) -> bytes:
        """Return some bytes of an object.

        Raises:
            FileNotFoundError: There is no such object.
        """
        import obstore

        with self.telling("read"):
            return bytes(obstore.get_range(self.client, key, start=start, length=n_bytes))

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes, some at a time.

        Raises:
            FileNotFoundError: There is no such object.
        """
        import obstore

        # Not range by range: rclone's server answers those with the wrong status.
        with self.telling("read"):
            for piece in obstore.get(self.client, key).stream(min_chunk_size=PIECE):
                yield bytes(piece)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file into an object, which appears when it is whole."""
        import obstore

        with self.telling("write"):
            obstore.put(self.client, key, path, chunk_size=PIECE, max_concurrency=2)

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""
        import obstore

        with self.telling("write"):
            obstore.put(self.client, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object unless there is one; say whether this call wrote it.

        A server that ignores ``If-None-Match`` writes always: read what is there then.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self.telling("write"):
                obstore.put(self.client, key, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def move(self, key: str, target: str) -> None:
        """Give an object another key, if it is there."""
        import obstore

        with self.telling("write"):
            try:
                obstore.copy(self.client, key, target)
            except FileNotFoundError:
                return
            obstore.delete(self.client, [key])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error."""
        import obstore

        if keys := list(keys):
            with self.telling("write"):
                obstore.delete(self.client, keys)

    @contextmanager
    def telling(self, verb: str) -> Iterator[None]:
        """Turn what the client raises into one sentence, which holds no credentials.

        Args:
            verb: What is tried: list, read or write.

        Raises:
            BucketError: The server does not answer (AwayError), does not let us, or has no such
                bucket.
            FileNotFoundError: There is no such object.
            AlreadyExistsError, PreconditionError: As obstore raises them.
        """
        from obstore import exceptions

        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise no_bucket(self.url) from None
            raise FileNotFoundError(f"no such object in {self.url}") from None
        except exceptions.BaseError as error:
            raise told(str(error), verb, self.url) from None
