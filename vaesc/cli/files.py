"""Files that commands read and write: an output is whole or absent."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vaesc.errors import DataError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model to use, and where."""
    parser.add_argument(
        "--model", default="champion", metavar="REF",
        help="alias, version, models:/name/version, run id or folder (default: champion)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def check_folder(path: Path) -> None:
    """Refuse an output in a folder that does not exist."""
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


def read_images(path: Path) -> Any:  # noqa: ANN401
    """Return the images of a .npy file, whatever their shape and type."""
    from vaesc.datasets import read_npy

    return read_npy(path)


def save_npy(out: IO[bytes], images: Any) -> None:  # noqa: ANN401
    """Write an array as .npy."""
    import numpy as np

    np.save(out, images, allow_pickle=False)
