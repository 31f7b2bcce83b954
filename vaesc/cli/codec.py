"""``vaesc compress|decompress``: images as a file of the codec that a registered model carries.

Images are .npy arrays of shape (n, *image shape), uint8 or float; compressed they end in .vsc.
What is decompressed is written block by block, and appears only once all of it is there.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.cli.files import add_model, check_folder, read_images, whole_or_absent
from vaesc.errors import ConfigError, DataError

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
        parser.add_argument("input", type=Path, metavar="IN")
        parser.add_argument("output", type=Path, metavar="OUT")
        parser.set_defaults(function=function)


def compress(options: argparse.Namespace) -> int:
    """Write a file of images as one of few bytes."""
    import time

    _check_suffix(options.output, SUFFIX)
    check_folder(options.output)
    images = read_images(options.input)
    codec = _codec(options)
    start = time.perf_counter()
    data = codec.compress(images, options.quality)
    seconds = time.perf_counter() - start
    with whole_or_absent(options.output) as out:
        out.write(data)
    n, shape = len(images), codec.model.shape
    n_pixels = n * shape[0] * (shape[1] if len(shape) > 1 else 1)
    rate = f", {8 * len(data) / n_pixels:.4f} bits per pixel" if n else ""
    print(
        f"{n} images: {options.input} -> {options.output}, {len(data)} bytes{rate}, "
        f"{n / seconds:.0f} images/s"
    )
    return 0


def decompress(options: argparse.Namespace) -> int:
    """Write the images of a compressed file, or some of them."""
    import time

    from numpy.lib import format as npy

    from vaesc.datasets.files import require_file

    _check_suffix(options.output, ".npy")
    check_folder(options.output)
    rows = _rows(options.rows)
    data = require_file(options.input).read_bytes()
    codec = _codec(options)
    try:
        start = time.perf_counter()
        header = codec.header(data)
        first, last, _ = rows.indices(header.n_images)
        if options.rows and not first < last:
            raise ConfigError(
                f"--rows {options.rows} names no image: there are {header.n_images}, from 0"
            )
        with whole_or_absent(options.output) as out:
            shape = (last - first, *codec.model.shape)
            npy.write_array_header_1_0(
                out, {"descr": codec.descr, "fortran_order": False, "shape": shape}
            )
            for part in codec.parts(data, header, slice(first, last)):
                out.write(part.tobytes())
        seconds = time.perf_counter() - start
    except DataError as error:
        raise DataError(f"{options.input}: {error}") from error
    n = last - first
    print(f"{n} images: {options.input} -> {options.output}, {n / seconds:.0f} images/s")
    return 0


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


def _check_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise ConfigError(f"OUT must end in {suffix}, got {path}")
