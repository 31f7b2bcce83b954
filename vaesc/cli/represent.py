"""``vaesc represent|cluster``: features and clusters of images, by a registered model alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    local,
    read_images,
    save_local_codes,
    save_npy,
    whole_or_absent,
)
from vaesc.errors import ConfigError

if TYPE_CHECKING:
    from vaesc.applications.representation import Representation


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    for name, function, what in (
        (
            "represent",
            represent,
            "images (.npy) to features for probes and searches (codes .npz, latents .npy)",
        ),
        ("cluster", cluster, "images (.npy) to the cluster of each (.csv)"),
    ):
        parser = commands.add_parser(name, parents=[common], help=what, description=what)
        add_model(parser)
        if function is represent:
            parser.add_argument(
                "--features", default="local",
                choices=("local", "split-local", "latents", "codes"),
                help="local codes of the latents, which nothing decodes; the same with their "
                "signs apart; the latents; or the model's own sparse codes, as `vaesc encode` "
                "writes them (default: local)",
            )  # fmt: skip
        else:
            parser.add_argument(
                "--n-clusters", type=int, metavar="N",
                help="divide these very images into N (default: the clusters of the training)",
            )  # fmt: skip
        parser.add_argument("input", type=local, metavar="IN")
        parser.add_argument("output", type=local, metavar="OUT")
        parser.set_defaults(function=function, kept=NOTHING_KEPT)


def represent(options: argparse.Namespace) -> int:
    """Write the features of a file of images: codes as scipy's .npz, latents as .npy."""
    suffix = ".npy" if options.features == "latents" else ".npz"
    images, representation = _opened(options, suffix)
    features = representation.features(images, options.features)
    with whole_or_absent(options.output) as out:
        if suffix == ".npy":
            save_npy(out, features)
        elif options.features == "codes":
            from scipy.sparse import save_npz

            save_npz(out, features)
        else:
            save_local_codes(out, features)
    n, width = features.shape
    print(f"{n} images, {width} columns of {options.features}: {options.output}")
    return 0


def cluster(options: argparse.Namespace) -> int:
    """Write a line ``image,cluster`` for each image of a file, both counted from 0."""
    if options.n_clusters is not None and options.n_clusters < 1:
        raise ConfigError(f"--n-clusters must be at least 1, got {options.n_clusters}")
    images, representation = _opened(options, ".csv")
    if options.n_clusters is None:
        found, n = representation.clusters(images), representation.n_clusters
    else:
        found, n = representation.divided(images, options.n_clusters), options.n_clusters
    lines = ["image,cluster", *(f"{row},{of}" for row, of in enumerate(found))]
    with whole_or_absent(options.output) as out:
        out.write(("\n".join(lines) + "\n").encode())
    print(f"{len(found)} images in {n} clusters: {options.output}")
    return 0


def _opened(options: argparse.Namespace, suffix: str) -> tuple[Any, Representation]:
    """Return the images of IN and the model's representation; what is wrong quickly first."""
    if options.output.suffix != suffix:
        raise ConfigError(f"OUT must end in {suffix} here, got {options.output}")
    check_output(options.output, options.input)
    images = read_images(options.input)
    from vaesc.applications.representation import Representation
    from vaesc.registry import load_model

    return images, Representation.of(load_model(options.model, device=options.device))
