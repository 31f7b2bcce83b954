"""``vaesc label``: classes of all images from a few labels."""

from __future__ import annotations

import argparse

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    local,
    read_images,
    save_npy,
    whole_or_absent,
)
from vaesc.cli.progress import shown
from vaesc.errors import ConfigError, DataError


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    what = "classes of all images from the labels of a few"
    parser = commands.add_parser(
        "label", parents=[common], help=what,
        description=f"Write {what}: they spread over the model's latents, and a network learns "
        "from that. 60,000 images take about a minute; however few they are, the network makes "
        "hundreds of steps.",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--probabilities", type=local, metavar="FILE.npy",
        help="write each class's probability too, shape (n, classes), classes increasing",
    )  # fmt: skip
    parser.add_argument("images", type=local, metavar="IMAGES.npy")
    parser.add_argument(
        "labels", type=local, metavar="LABELS.npy", help="an integer per image; -1: unknown"
    )
    parser.add_argument("output", type=local, metavar="OUT.npy", help="int64, a class per image")
    parser.set_defaults(function=label, kept=NOTHING_KEPT)


def label(options: argparse.Namespace) -> int:
    """Write the class of every image; what can be wrong with the files is found first."""
    outputs = [path for path in (options.output, options.probabilities) if path is not None]
    for path in outputs:
        if path.suffix != ".npy":
            raise ConfigError(f"what vaesc label writes must end in .npy, got {path}")
        check_output(path, options.images, options.labels)
    if len(outputs) == 2 and outputs[0].resolve() == outputs[1].resolve():
        raise ConfigError(f"--probabilities must be another file than OUT, got {outputs[1]}")
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"--seed must be between 0 and 2^63 - 1, got {options.seed}")
    images, given = read_images(options.images), read_images(options.labels)
    from vaesc.applications.semi_supervised import labelling
    from vaesc.registry import load_model

    if not images.ndim:
        raise DataError(
            f"{options.images} must hold images, shape (n, ...), and holds one number alone"
        )
    labelling.check_labels(given, len(images))
    model = load_model(options.model, device=options.device)
    with shown("labelling") as listener:
        classes, names, probabilities = labelling.label(
            model, images, given, seed=options.seed, listener=listener
        )
    if options.probabilities is not None:
        with whole_or_absent(options.probabilities) as out:
            save_npy(out, probabilities)
    with whole_or_absent(options.output) as out:
        save_npy(out, classes)
    print(f"{len(classes)} images, {len(names)} classes, {(given >= 0).sum()} labels: "
          f"{options.images} -> {options.output}")  # fmt: skip
    return 0
