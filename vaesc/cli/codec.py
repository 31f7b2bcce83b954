"""``vaesc compress|decompress``: images as a file of the codec that a registered model carries.

Images are .npy arrays of shape (n, *image shape), uint8 or float; compressed they end in .vsc.
What is decompressed is written block by block, and appears only once all of it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    local,
    read_images,
    whole_or_absent,
)
from vaesc.errors import ConfigError, DataError
from vaesc.shapes import n_pixels

if TYPE_CHECKING:
    from vaesc.applications.compression.codec import Codec

SUFFIX = ".vsc"
_ROWS = re.compile(r"(\d{0,18}):(\d{0,18})")


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    for name, function, what in (
        ("compress", compress, "images (.npy) to few bytes (.vsc), with loss"),
        ("decompress", decompress, "a file of `vaesc compress` (.vsc) to images (.npy)"),
    ):
        parser = commands.add_parser(name, parents=[common], help=what, description=what)
        add_model(parser)
        if function is compress:
            parser.add_argument(
                "--quality", type=int, default=5, metavar="Q",
                help="from 1, fewest bytes, to 9, least error (default: 5)",
            )  # fmt: skip
        else:
            parser.add_argument(
                "--rows", metavar="A:B", help="only images A to B - 1, from 0 (default: all)"
            )
        parser.add_argument("input", type=local, metavar="IN")
        parser.add_argument("output", type=local, metavar="OUT")
        parser.set_defaults(function=function, kept=NOTHING_KEPT)


def compress(options: argparse.Namespace) -> int:
    """Write a file of images as one of few bytes."""
    import time

    _check_suffix(options.output, SUFFIX)
    check_output(options.output, options.input)
    images = read_images(options.input)
    codec = _codec(options)
    start = time.perf_counter()
    data = codec.compress(images, options.quality)
    seconds = time.perf_counter() - start
    with whole_or_absent(options.output) as out:
        out.write(data)
    n = len(images)
    rate = f", {8 * len(data) / (n * n_pixels(codec.model.shape)):.4f} bits per pixel" if n else ""
    print(
        f"{n} images: {options.input} -> {options.output}, {len(data)} bytes{rate}, "
        f"{n / seconds:.0f} images/s"
    )
    return 0


def decompress(options: argparse.Namespace) -> int:
    """Write the images of a compressed file, or some of them; no more of it is read than that."""
    import time

    from vaesc.applications.compression.files import unpack
    from vaesc.datasets.files import require_file

    _check_suffix(options.output, ".npy")
    check_output(options.output, options.input)
    rows = _rows(options.rows)
    with require_file(options.input).open("rb") as file:
        with _told_of(options.input):
            unpack(file)  # what is no such file is said before a model is loaded, for seconds
        codec = _codec(options)
        start = time.perf_counter()
        with _told_of(options.input):
            n = _written(codec, file, rows, options.output)
    rate = n / (time.perf_counter() - start)
    print(f"{n} images: {options.input} -> {options.output}, {rate:.0f} images/s")
    return 0


def _written(codec: Codec, file: IO[bytes], rows: slice, path: Path) -> int:
    """Write the images `rows` of an open file to `path`, and return how many they are."""
    from numpy.lib import format as npy

    header = codec.header(file)
    first, last, _ = rows.indices(header.n_images)
    if rows != slice(None) and not first < last:
        raise ConfigError(
            f"--rows {_shown(rows)} names no image: there are {header.n_images}, from 0"
        )
    facts = {
        "descr": codec.descr, "fortran_order": False, "shape": (last - first, *codec.model.shape)
    }  # fmt: skip
    with whole_or_absent(path) as out:
        npy.write_array_header_1_0(out, facts)
        for part in codec.parts(file, header, slice(first, last)):
            out.write(part.tobytes())
    return last - first


@contextlib.contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Let what is wrong with a file's content name the file."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _codec(options: argparse.Namespace) -> Codec:
    from vaesc.applications.compression.codec import Codec
    from vaesc.registry import load_model

    return Codec.of(load_model(options.model, device=options.device))


def _rows(text: str | None) -> slice:
    if text is None:
        return slice(None)
    found = _ROWS.fullmatch(text)
    if not found:
        raise ConfigError(f"--rows must be two numbers such as 100:200, got {text!r}")
    return slice(*(int(number) if number else None for number in found.groups()))


def _shown(rows: slice) -> str:
    return ":".join("" if end is None else str(end) for end in (rows.start, rows.stop))


def _check_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise ConfigError(f"OUT must end in {suffix}, got {path}")
