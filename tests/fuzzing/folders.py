"""Folders as bytes, so that a fuzzer can damage names, links and contents alike.

``\n@@ name\n`` begins a file, ``\n@@ name -> target\n`` a symbolic link; whatever comes before
the first mark is for the target to use. Any bytes at all are some folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

MARK = b"\n@@ "
_MOST = 64


def pack(files: Mapping[str, bytes], first: bytes = b"") -> bytes:
    """Return a folder as bytes; a name ``a -> b`` is a link."""
    return first + b"".join(MARK + n.encode() + b"\n" + c for n, c in files.items())


def pack_folder(folder: Path, first: bytes = b"") -> bytes:
    """Return a folder on disk as bytes."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return pack({p.relative_to(folder).as_posix(): p.read_bytes() for p in found}, first)


def split(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return what comes first, and the name and content of each file."""
    first, *rest = data.split(MARK)[: _MOST + 1]
    named = [part.partition(b"\n") for part in rest]
    return first, [(name.decode("utf-8", "replace"), content) for name, _, content in named]


def unpack(data: bytes, folder: Path) -> bytes:
    """Write a folder, and return what came first. Names that would lead out of it are left out."""
    first, files = split(data)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files:
        name, arrow, target = name.partition(" -> ")
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            continue
        with suppress(OSError, ValueError):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
                continue
            if arrow:
                path.symlink_to(target)
            else:
                path.write_bytes(content)
    return first
