"""``vaesc score``: run a model over new images, and say whether they have drifted."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from importlib import import_module
from typing import Any

from vaesc.bucket import place
from vaesc.cli.files import add_model, local
from vaesc.cli.workers import add_runner, workers_of
from vaesc.errors import ConfigError, VaescError

ANNOUNCE = "tasks.score:announce"


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    what = "codes, errors and anomaly scores of new images, and whether they have drifted"
    parser = commands.add_parser(
        "score", parents=[common], help=what,
        description=f"Write {what}. If they have, a Prefect server that is configured "
        "(PREFECT_API_URL or a profile) is told with the event vaesc.drift.",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument(
        "--block-size", type=int, default=8192, metavar="N",
        help="images in memory at once, for each worker (default: 8192)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="blocks at a time: threads, or processes with --runner dask (default: one a core)",
    )  # fmt: skip
    add_runner(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--no-event", action="store_true", help="tell no Prefect server of drift")
    parser.add_argument(
        "input",
        type=place,
        metavar="IN",
        help="folder of images, or .npy, .npz, .zarr, IDX, or Zarr at s3://bucket/prefix",
    )
    parser.add_argument(
        "output", type=local, metavar="OUT", help="folder to write; must not exist"
    )
    parser.set_defaults(function=score)


def score(options: argparse.Namespace) -> int:
    """Score, print what was found, and pass drift on."""
    from vaesc.registry import load_model
    from vaesc.scoring import check_paths, score_images
    from vaesc.shards import HERE

    for name in ("block_size", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} must be at least 1, got {value}")
    check_paths(options.input, options.output)
    model = load_model(options.model, device=options.device)
    # What it was looked up as: an alias may move while we work.
    origin = model.origin
    version: dict[str, Any] | None = None
    if origin is not None and origin.name:
        version = {"name": origin.name, "version": origin.version}
    started = time.perf_counter()
    with workers_of(options.runner, options.workers) as runner:
        summary = score_images(
            model, options.input, options.output, block_size=options.block_size,
            workers=options.workers if runner is HERE else None, runner=runner,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    found = {
        **summary,
        "version": version,
        "images": str(options.input),
        "out": str(options.output),
        "seconds": round(seconds, 3),
        "images_per_second": round(summary["n_images"] / seconds, 1),
    }
    found["event"], note = _announced(found, wanted=not options.no_event)
    print(json.dumps(found) if options.json else told(found))
    if note:
        print(note, file=sys.stderr if options.json else sys.stdout)
    return 0


def told(found: dict[str, Any]) -> str:
    """Return what was found as people read it."""
    lines = [
        f"{found['n_images']:,} images in {found['seconds']:.1f} s: mean error "
        f"{found['mse']:.4g}, {found['l0']:.2f} atoms an image, {found['unusual_fraction']:.2%} "
        "with a p-value of at most 0.01",
        f"{'statistic':<18}{'value':>10}{'threshold':>11}{'floor':>10}   exceeded",
    ]
    for s in found["drift"]["statistics"]:
        numbers = f"{s['value']:>10.4g}{s['threshold']:>11.4g}{s['floor']:>10.4g}"
        lines.append(f"{s['name']:<18}{numbers}   {'yes' if s['exceeded'] else 'no'}")
    lines += textwrap.wrap(found["drift"]["reason"], 96)
    lines.append(f"scores   {found['out']}")
    return "\n".join(lines)


def _announced(found: dict[str, Any], *, wanted: bool) -> tuple[bool, str]:
    """Tell the Prefect server that is configured, if there is drift to tell of.

    Returns:
        Whether it was told, and why not, where that is worth a line.
    """
    if not (wanted and found["drift"]["drifted"]):
        return False, ""
    if found["version"] is None:
        return False, "no event: a model in a folder is not registered, so nothing retrains it"
    server = import_module("tasks.server")
    if server.configured() is None:
        return False, "no event: no Prefect API is configured (PREFECT_API_URL)"
    try:
        server.connect()
    except VaescError as error:  # the scores are safe, and worth printing
        return False, f"no event: {error}"
    module, _, name = ANNOUNCE.partition(":")
    sent: bool = getattr(import_module(module), name)(found)
    return sent, f"event    vaesc.drift {'sent' if sent else 'NOT sent'}"
