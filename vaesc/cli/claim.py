"""``vaesc claim``: the article's claim over several seeds, and a verdict for each k."""

from __future__ import annotations

import argparse
import json
import textwrap
from importlib import import_module
from typing import Any

from vaesc.cli.run import add_settings
from vaesc.errors import ConfigError

CLAIM = "flows.claim:claim"


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "claim",
        parents=[common],
        help="test the article's claim over several seeds, with intervals",
        description="Run the pipeline with several seeds and judge, for each sparsity level, "
        "whether sparse codes of latents reconstruct better than sparse codes of pixels.",
    )
    add_settings(parser)
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="number of seeds, from seed on"
    )
    parser.set_defaults(function=claim)


def claim(options: argparse.Namespace) -> int:
    """Run every seed, weigh what came out, and print it."""
    from vaesc.config_files import load_config
    from vaesc.datasets import check
    from vaesc.sweep import MOST_CELLS

    if not 1 <= options.seeds <= MOST_CELLS:
        raise ConfigError(f"--seeds must be from 1 to {MOST_CELLS}, got {options.seeds}")
    config = load_config(options.preset, options.config, options.set)
    last = config.seed + options.seeds - 1
    load_config(options.preset, options.config, [*options.set, f"seed={last}"])
    check(config.dataset)
    import_module("tasks.server").connect()
    module, _, name = CLAIM.partition(":")
    config_file = str(options.config.resolve()) if options.config else None
    found = getattr(import_module(module), name)(
        options.preset, config_file, options.set, options.seeds
    )
    print(json.dumps(found) if options.json else told(found))
    return 0


def told(found: dict[str, Any]) -> str:
    """Return the outcome as people read it."""
    lines = [
        "",
        f"{found['dataset']}, {found['n_test']} test images, {len(found['seeds'])} seeds, "
        f"K = {found['n_atoms']}: {found['claimant']} over pixels, clipped",
        f"{'k':>5}{'bits':>8}{'ratio':>9}   95 % interval      verdict",
    ]
    for claim, bits in zip(found["claim"], found["bits"]["per_image"], strict=True):
        lines.append(
            f"{claim['k']:>5}{bits:>8.0f}{claim['ratio']:>9.3f}   "
            f"{claim['low']:.3f} to {claim['high']:.3f}     {claim['verdict']}"
        )
    middle = found["geometric_mean"]
    lines.append(
        f"geometric mean {middle['ratio']:.3f} ({middle['low']:.3f} to {middle['high']:.3f})\n"
    )
    lines.append(
        "Intervals resample seeds and test images; few seeds say little about seeds: the report "
        "and\n--json hold each seed's ratio.\n"
    )
    lines.append(f"{'test MSE':<17}" + "".join(f"{f'k = {k}':>10}" for k in found["levels"]))
    for name in found["order"]:
        lines.append(f"{name:<17}" + "".join(map(_cell, found["methods"][name]["mse"])))
    lines += ["", *textwrap.wrap(found["verdict"], 96), "", f"report   {found['report']}"]
    lines.append(f"run      {found['run_id']}  {found['seconds']:.1f} s")
    return "\n".join(lines)


def _cell(mse: float | None) -> str:
    return f"{'-':>10}" if mse is None else f"{mse:>10.5f}"
