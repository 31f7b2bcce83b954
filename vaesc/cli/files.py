"""Files that commands read and write: an output is whole or absent."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vaesc.config import check_local
from vaesc.errors import ConfigError, DataError

NOTHING_KEPT = "OUT was not written; run it again"
"""What a command that was stopped says of what it had made, if its output is whole or absent."""

_MARK = "features"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model to use, and where."""
    parser.add_argument(
        "--model", default="champion", metavar="REF",
        help="alias, version, models:/name/version, run id or folder (default: champion)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def local(text: str) -> Path:
    """Return a file or folder that the user names, for argparse: a URL is refused."""
    try:
        check_local(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def check_output(path: Path, *inputs: Path) -> None:
    """Refuse an output that cannot be written, or that would take the place of an input.

    Raises:
        DataError: It is one.
    """
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} does not exist; make it, or choose another OUT")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a folder, a pipe or a device; name a file as OUT")
    if path.resolve() in [each.resolve() for each in inputs]:
        raise DataError(f"{path} is an input, too, and would be lost; choose another OUT")


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

    # Not by numpy: what a full disk says is lost on the way through its own writing.
    whole = np.ascontiguousarray(images)
    save_npy_blocks(out, [whole], whole.shape, whole.dtype)


def save_npy_blocks(
    out: IO[bytes],
    blocks: Iterable[Any],
    shape: tuple[int, ...],
    dtype: Any,  # noqa: ANN401
) -> None:
    """Write the same bytes as :func:`save_npy` for an array that comes block by block."""
    from numpy.lib import format as npy

    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(out, header)
    for block in blocks:
        out.write(block.tobytes())


def save_local_codes(out: IO[bytes], codes: Any) -> None:  # noqa: ANN401
    """Write local codes as scipy's .npz, with a mark that says what they are.

    Their columns are anchors, not atoms: see :func:`is_local_codes`.
    """
    import numpy as np

    arrays: dict[str, Any] = {
        "format": b"csr", "shape": codes.shape, "data": codes.data, "indices": codes.indices,
        "indptr": codes.indptr, "_is_array": True, _MARK: "local codes",
    }  # fmt: skip
    np.savez_compressed(out, **arrays)


def is_local_codes(path: Path) -> bool:
    """Return whether a .npz file has the mark of :func:`save_local_codes`.

    Raises:
        DataError: It is no .npz file.
    """
    from vaesc.datasets.npy import npz_names

    return _MARK in npz_names(path)
