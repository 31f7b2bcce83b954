"""``vaesc encode|decode|reconstruct``: use a registered model on files.

Images are .npy arrays of shape (n, *image shape), uint8 or float. Codes are scipy's sparse .npz.
The output is written beside and renamed: a file that exists is whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    is_local_codes,
    local,
    read_images,
    save_npy,
    whole_or_absent,
)
from vaesc.errors import ConfigError, DataError


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
        add_model(parser)
        parser.add_argument("input", type=local, metavar="IN")
        parser.add_argument("output", type=local, metavar="OUT")
        parser.set_defaults(function=function, kept=NOTHING_KEPT)


def encode(options: argparse.Namespace) -> int:
    """Write the codes of a file of images."""
    from scipy.sparse import save_npz

    return _convert(options, read_images, "encode", ".npz", save_npz)


def decode(options: argparse.Namespace) -> int:
    """Write the images of a file of codes."""
    return _convert(options, _read_codes, "decode", ".npy", save_npy)


def reconstruct(options: argparse.Namespace) -> int:
    """Write what the model makes of a file of images."""
    return _convert(options, read_images, "reconstruct", ".npy", save_npy)


def _convert(
    options: argparse.Namespace,
    read: Callable[[Path], Any],
    method: str,
    suffix: str,
    save: Callable[[IO[bytes], Any], None],
) -> int:
    """Read IN, give it to a method of the model, and save what that returns as OUT.

    What can be wrong with IN and OUT is found first: loading a model takes seconds.
    """
    if options.output.suffix != suffix:
        raise ConfigError(f"OUT of vaesc {method} must end in {suffix}, got {options.output}")
    check_output(options.output, options.input)
    given = read(options.input)
    from vaesc.registry import load_model

    model = load_model(options.model, device=options.device)
    made = getattr(model, method)(given)
    with whole_or_absent(options.output) as out:
        save(out, made)
    print(f"{made.shape[0]} images: {options.input} -> {options.output}")
    return 0


def _read_codes(path: Path) -> Any:  # noqa: ANN401
    import scipy.sparse

    from vaesc.bundle import whole_csr
    from vaesc.datasets.files import reading
    from vaesc.datasets.npy import read_npz, read_npz_text

    if is_local_codes(path):
        raise DataError(
            f"{path} holds local codes of `vaesc represent`, whose columns are anchors, not "
            "atoms; only codes of `vaesc encode` can be decoded"
        )
    # Not by scipy: it sets aside whatever memory a header claims.
    with reading(path, "codes of `vaesc encode`"):
        if (kind := read_npz_text(path, "format")) != "csr":
            raise ValueError(f"a sparse matrix in {kind.upper()}, not CSR format")
        parts = read_npz(path, ("data", "indices", "indptr", "shape"))
        if parts["shape"].shape != (2,) or parts["shape"].dtype.kind not in "ui":
            raise ValueError(f"its shape is {parts['shape'].tolist()}")
        codes = scipy.sparse.csr_array(
            (parts["data"], parts["indices"], parts["indptr"]),
            shape=tuple(map(int, parts["shape"])),
        )
    try:
        return whole_csr(codes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
