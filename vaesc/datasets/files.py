"""Reading files that may be anything: no claim of a header is believed before it is checked.

A damaged or hostile header can claim terabytes. Before memory is set aside, a claim is held
against the bytes that are there; for deflate, whose ratio never exceeds 1032:1, against the most
they could unpack to.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import cgroup
from vaesc.errors import DataError
from vaesc.store import file_digest

DEFLATE_RATIO = 1032
"""Most bytes that one byte of a deflate stream can stand for (zlib's technical details)."""
_READ_BYTES = 4 * 1024 * 1024


def require_file(path: Path) -> Path:
    """Return `path` if it is a file.

    Raises:
        DataError: There is nothing at `path`, or it is a folder, or a pipe or a device, which may
            never end.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder where a file is needed; name the file inside it")
    if not path.exists():
        raise absent(path)
    if not path.is_file():
        raise DataError(f"{path} is a pipe or a device; write what it gives to a file first")
    return path


def absent(path: Path) -> DataError:
    """Return the complaint that there is nothing at `path`."""
    where = "" if path.is_absolute() else f" (it is relative to {Path.cwd()})"
    return DataError(f"{path} does not exist; check the path{where}")


@contextmanager
def reading(path: Path | str, kind: str) -> Iterator[None]:
    """Turn whatever a reader raises over bad bytes into one sentence about `path`.

    Args:
        path: The file that is read, or its URL.
        kind: What it is read as, such as ``"an IDX file"``.

    Raises:
        DataError: The file is cut short, damaged or not readable.
    """
    try:
        yield
    except DataError:
        raise
    except EOFError as error:
        raise DataError(
            f"{path} is cut short ({first_line(error)}); fetch or write it again"
        ) from error
    except (
        OSError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError,
        struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError, IndexError,
        ArithmeticError, AttributeError, AssertionError,  # decoders of others, over damage
    ) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"{path} cannot be read as {kind} ({reason}); fetch or write it again"
        ) from error


def check_claim(origin: str, claimed: int, at_most: int) -> None:
    """Refuse a header that claims more bytes than can be there.

    Args:
        origin: The file, for the sentence.
        claimed: Bytes of data the header claims.
        at_most: Bytes of data the file could hold.

    Raises:
        DataError: It claims more than that.
    """
    if claimed > at_most:
        raise DataError(
            f"{origin}: the header claims {claimed} bytes of data, but the file can hold at most "
            f"{at_most}; it is cut short or damaged, fetch or write it again"
        )


def check_memory(origin: str, n_bytes: int) -> None:
    """Refuse to load more than this machine's memory, or its part that a container is given.

    Raises:
        DataError: `n_bytes` are more than that.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = cgroup.allowed_bytes()
    have, whose = machine, "this machine's memory"
    if allowed is not None and allowed < machine:
        have, whose = allowed, "the memory of this container or service,"
    if n_bytes > have:
        raise DataError(
            f"{origin} holds {n_bytes} bytes of data, more than {whose} of {have}; "
            "save it as .npy or .zarr, which are read block by block"
        )


def read_exactly(stream: IO[bytes], n_bytes: int, origin: str) -> NDArray[np.uint8]:
    """Read `n_bytes` and nothing more, and check that nothing follows.

    Args:
        stream: Where to read from; reading to its end makes gzip and zip check their CRC.
        n_bytes: How many, checked against what can be there.
        origin: The file, for the sentence.

    Raises:
        DataError: The stream ends before, or goes on after.
    """
    buffer = np.empty(n_bytes, np.uint8)
    view, done = buffer.data, 0
    while done < n_bytes:
        piece = stream.read(min(_READ_BYTES, n_bytes - done))
        if not piece:
            raise DataError(
                f"{origin}: the header claims {n_bytes} bytes of data, but there are {done}; "
                "it is cut short, fetch or write it again"
            )
        view[done : done + len(piece)] = piece
        done += len(piece)
    if stream.read(1):
        raise DataError(
            f"{origin} goes on after the {n_bytes} bytes of data that its header claims; "
            "it is damaged, fetch or write it again"
        )
    return buffer


def digest_of(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over files and the part each plays, wherever they lie."""
    return digest_of_parts((part, _digest(path)) for part, path in files)


def digest_of_parts(parts: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the digests of files, each with the part it plays."""
    total = hashlib.sha256()
    for part, digest in parts:
        total.update(f"{part}:{digest}\n".encode())
    return total.hexdigest()


def _digest(path: Path) -> str:
    with reading(path, "a file"):
        return file_digest(path)


def digest_of_arrays(*arrays: NDArray[Any]) -> str:
    """SHA-256 over the bytes of arrays, in this order."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def files_below(folder: Path) -> list[tuple[str, Path]]:
    """Return every file below `folder` with its name relative to it, sorted by that name."""
    found = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted((path.relative_to(folder).as_posix(), path) for path in found)


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
