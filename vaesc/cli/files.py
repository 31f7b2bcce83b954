"""Files that commands write: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vaesc.errors import DataError


def check_folder(path: Path) -> None:
    """Refuse a file whose folder is not there.

    Raises:
        DataError: It is not.
    """
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} does not exist; make it, or choose another OUT")


@contextlib.contextmanager
def whole_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` only when the block has succeeded."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
