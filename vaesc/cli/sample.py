"""``vaesc sample``: new images from a registered model.

The model must have been made with the application *generation*: what its priors are fitted to is
kept in it (:mod:`vaesc.applications.generation.sampler`).
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    local,
    read_images,
    save_npy_blocks,
    whole_or_absent,
)
from vaesc.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vaesc.applications.generation.sampler import Sampler

_MOST = 2**40
_MOST_ON_A_SHEET = 10_000
_MOST_ON_A_WAY = 100_000
_COLUMNS = 10
"""Of a sheet, at least, if there are as many images."""


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    what = "new images of a registered model, as numbers (.npy) or as a contact sheet (.png)"
    parser = commands.add_parser("sample", parents=[common], help=what, description=what)
    add_model(parser)
    parser.add_argument("output", type=local, metavar="OUT", help="OUT.npy or OUT.png")
    parser.add_argument("-n", type=int, default=100, help="how many images (default: 100)")
    parser.add_argument(
        "--prior", choices=("standard", "mixture", "coded", "aggregated", "sparse"),
        help="where latents come from: N(0, I); a mixture fitted to training latents, as it is or "
        "sparse-coded; posteriors of training images; a model of sparse codes (default: the best "
        "on validation images)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--class", dest="of_class", metavar="C", help="images of one class")
    for name, verb in (("on", "uses"), ("off", "lacks")):
        parser.add_argument(
            f"--{name}", type=int, nargs="+", default=[], metavar="ATOM",
            help=f"atoms that every image {verb} (prior sparse); write OUT before them",
        )  # fmt: skip
    parser.add_argument(
        "--interpolate",
        type=local,
        metavar="A.npy",
        help="instead of samples: N images from the first to the second of the two in this file",
    )
    parser.add_argument(
        "--along", choices=("linear", "spherical"), default="linear",
        help="the way between them (default: linear)",
    )  # fmt: skip
    parser.set_defaults(function=sample, kept=NOTHING_KEPT)


def sample(options: argparse.Namespace) -> int:
    """Write new images; what can be wrong is found before a model is loaded."""
    _check(options)
    ends = None if options.interpolate is None else _ends(options.interpolate)
    from vaesc.applications.generation import Sampler
    from vaesc.registry import load_model

    sampler = Sampler.of(load_model(options.model, device=options.device))
    if options.output.suffix == ".npy":
        _check_space(options, sampler.model.shape)
    made = _made(sampler, options, ends)
    first = next(made)  # what is wrong with the arguments is said before a file is begun
    made = itertools.chain([first], made)
    with whole_or_absent(options.output) as out:
        if options.output.suffix == ".png":
            _save_png(out, [sampler.model.to_unit(block) for block in made])
        else:
            save_npy_blocks(out, made, (options.n, *first.shape[1:]), first.dtype)
    print(f"{options.n} images -> {options.output}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.output.suffix not in (".npy", ".png"):
        raise ConfigError(f"OUT of vaesc sample must end in .npy or .png, got {options.output}")
    if options.n < 1:
        raise ConfigError(f"-n must be at least 1, got {options.n}")
    if options.output.suffix == ".png" and options.n > _MOST_ON_A_SHEET:
        raise ConfigError(
            f"a contact sheet holds at most {_MOST_ON_A_SHEET} images, got -n {options.n}; "
            "write a .npy"
        )
    if options.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {options.seed}")
    if options.n > _MOST:
        raise ConfigError(f"-n must be at most {_MOST}; ask for fewer images")
    drawn = options.prior or options.of_class or options.on or options.off
    if options.interpolate is not None and drawn:
        raise ConfigError("--interpolate draws nothing; leave --prior, --class, --on, --off out")
    if options.interpolate is not None and options.n > _MOST_ON_A_WAY:
        raise ConfigError(
            f"a way between two images holds at most {_MOST_ON_A_WAY} images, got -n {options.n}"
        )
    check_output(options.output, *filter(None, [options.interpolate]))


def _check_space(options: argparse.Namespace, shape: tuple[int, ...]) -> None:
    """Refuse what the disk cannot hold before hours are spent on it."""
    needed = 4 * options.n * math.prod(shape)
    free = shutil.disk_usage(options.output.parent).free
    if needed > free:
        raise ConfigError(
            f"-n {options.n} images take {needed / 1e9:.3g} GB and {options.output.parent} has "
            f"{free / 1e9:.3g} GB free; ask for fewer"
        )


def _ends(path: Path) -> Any:  # noqa: ANN401
    """Return the two images of a file."""
    images = read_images(path)
    if images.ndim < 2 or len(images) != 2:
        raise DataError(f"{path} must hold two images, shape (2, ...), got shape {images.shape}")
    return images


def _made(sampler: Sampler, options: argparse.Namespace, ends: Any) -> Iterator[Any]:  # noqa: ANN401
    if ends is not None:
        return iter([sampler.interpolate(ends[0], ends[1], options.n, along=options.along)])
    return sampler.blocks(
        options.n, prior=options.prior, seed=options.seed, of_class=options.of_class,
        on=options.on, off=options.off,
    )  # fmt: skip


def _save_png(out: IO[bytes], unit: Sequence[Any]) -> None:
    from vaesc.report.sprites import as_picture, save_sheet

    pictures = [as_picture(image) for block in unit for image in block]
    columns = max(min(_COLUMNS, len(pictures)), math.isqrt(len(pictures) - 1) + 1)
    starts = range(0, len(pictures), columns)
    save_sheet([pictures[start : start + columns] for start in starts], out)
