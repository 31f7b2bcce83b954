"""The files of a folder in a bucket, whole or absent there too: one of them is the last to appear.

Nothing that is there is written over: a file is created with ``If-None-Match``, and where there is
one already it must have the same bytes. Of several who write to one place at once, those with
equal files all succeed, and of the others one at most. A server that ignores the condition lets
two mix their files; a reader who checks digests refuses what comes of that.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vaesc.bucket import Bucket, at_once
from vaesc.errors import StoreError
from vaesc.store import file_digest


def publish_folder(folder: Path, bucket: Bucket, last: str) -> None:
    """Copy a folder's files into a bucket.

    Args:
        folder: Their folder; what is in folders of it is let be.
        bucket: Where to; relative to its prefix they get their own names.
        last: The file that says that all are there. If there is one already, nothing is written.

    Raises:
        StoreError: The bucket holds such a folder already, or other files of these names, or
            cannot be written.
    """
    taken = f"{bucket} holds {{}} already; choose another prefix"
    if bucket.modified(last) is not None:
        raise StoreError(taken.format(last))
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != last)

    def create(name: str) -> None:
        bucket.create(name, (folder / name).read_bytes())

    def compare(name: str) -> None:
        found = hashlib.sha256()
        for piece in bucket.pieces(name):
            found.update(piece)
        if found.hexdigest() != file_digest(folder / name):
            raise StoreError(taken.format(f"another {name}"))

    for some in (names, [last]):
        at_once(create, some)
        at_once(compare, some)
