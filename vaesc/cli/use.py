"""``vaesc encode|decode|reconstruct``: use a registered model on files.

Images are .npy arrays of shape (n, *image shape), uint8 or float. Codes are scipy's sparse .npz.
The output is written beside and renamed: a file that exists is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vaesc.errors import DataError

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    for name, function, what in (
        ("encode", encode, "images (.npy) to sparse codes (.npz, scipy CSR)"),
        ("decode", decode, "sparse codes (.npz, scipy CSR) to images (.npy)"),
        ("reconstruct", reconstruct, "images (.npy) through the code and back (.npy)"),
    ):
        parser = commands.add_parser(name, parents=[common], help=what, description=what)
        parser.add_argument(
            "--model", default="champion", metavar="REF",
            help="alias, version, models:/name/version, run id or folder (default: champion)",
        )  # fmt: skip
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
        parser.add_argument("input", type=Path, metavar="IN")
        parser.add_argument("output", type=Path, metavar="OUT")
        parser.set_defaults(function=function)


def encode(options: argparse.Namespace) -> int:
    """Write the codes of a file of images."""
    import scipy.sparse

    def work(model: SparseVAE, out: IO[bytes]) -> int:
        codes = model.encode(_read_images(options.input))
        scipy.sparse.save_npz(out, codes)
        return int(codes.shape[0])

    return _convert(options, work, ".npz")


def decode(options: argparse.Namespace) -> int:
    """Write the images of a file of codes."""
    import numpy as np

    def work(model: SparseVAE, out: IO[bytes]) -> int:
        images = model.decode(_read_codes(options.input))
        np.save(out, images, allow_pickle=False)
        return len(images)

    return _convert(options, work, ".npy")


def reconstruct(options: argparse.Namespace) -> int:
    """Write what the model makes of a file of images."""
    import numpy as np

    def work(model: SparseVAE, out: IO[bytes]) -> int:
        images = model.reconstruct(_read_images(options.input))
        np.save(out, images, allow_pickle=False)
        return len(images)

    return _convert(options, work, ".npy")


def _convert(
    options: argparse.Namespace, work: Callable[[SparseVAE, IO[bytes]], int], suffix: str
) -> int:
    if options.output.suffix != suffix:
        raise DataError(f"OUT must end in {suffix} for {options.input.name}, got {options.output}")
    if not options.input.is_file():
        raise DataError(f"{options.input} is not a file; give one as IN")
    from vaesc.registry import load_model

    model = load_model(options.model, device=options.device)
    with _whole_or_absent(options.output) as out:
        n = work(model, out)
    print(f"{n} images: {options.input} -> {options.output}")
    return 0


@contextlib.contextmanager
def _whole_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` only when the block has succeeded."""
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} does not exist; make it, or choose another OUT")
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


def _read_images(path: Path) -> Any:  # noqa: ANN401
    from vaesc.datasets import read_npy

    return read_npy(path)


def _read_codes(path: Path) -> Any:  # noqa: ANN401
    import zipfile

    import scipy.sparse

    try:
        return scipy.sparse.csr_array(scipy.sparse.load_npz(path))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} does not hold codes as `vaesc encode` writes them ({error})"
        ) from error
