"""``vaesc sweep``: a grid over any settings, side by side, as one table."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from typing import Any

from vaesc.cli.run import add_settings
from vaesc.cli.workers import add_runner
from vaesc.errors import VaescError

SWEEP = "flows.sweep:sweep"


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "sweep",
        parents=[common],
        help="run a grid over any settings, and rank its cells by a metric",
        description="Run the pipeline for every combination of a grid. The models are registered "
        "under the model's name with -sweep added: none becomes the champion that is used; "
        "`vaesc run` with the best cell's settings registers it, from the cache.",
    )
    add_settings(parser)
    parser.add_argument(
        "--grid", action="append", default=[], metavar="a.b=c,d",
        help="a setting and its values; several of these make every combination",
    )  # fmt: skip
    parser.add_argument(
        "--metric", metavar="NAME",
        help="what cells are ranked by (default: test/mse_kN at their sparsity level; must be "
        "named where that differs between cells)",
    )  # fmt: skip
    parser.add_argument("--largest", action="store_true", help="more of the metric is better")
    add_runner(parser)
    parser.set_defaults(function=sweep)


def sweep(options: argparse.Namespace) -> int:
    """Run every cell and print the table; exit code 1 if a cell failed, or none is the best."""
    from vaesc.config_files import load_config
    from vaesc.datasets import check
    from vaesc.sweep import best_lacks, cells_of, metric_of

    settings = [*options.set, *([f"runtime.runner={options.runner}"] if options.runner else [])]
    every = cells_of(options.preset, options.config, settings, options.grid)
    configs = [
        load_config(options.preset, options.config, [*settings, *cell.assignments])
        for cell in every
    ]
    metric = metric_of(options.metric, configs)
    for dataset in {config.dataset: None for config in configs}:
        check(dataset)
    import_module("tasks.server").connect()
    module, _, name = SWEEP.partition(":")
    config_file = str(options.config.resolve()) if options.config else None
    found = getattr(import_module(module), name)(
        options.preset, config_file, settings, options.grid, metric, options.largest
    )
    print(json.dumps(found, allow_nan=False) if options.json else told(found))
    if found["best"] is None and (sentence := best_lacks(found["cells"], found["metric"])):
        raise VaescError(sentence)
    return 1 if found["n_failed"] else 0


def told(found: dict[str, Any]) -> str:
    """Return the table as people read it."""
    from vaesc.sweep import columns_of, shown

    rows, names = found["cells"], columns_of(found["cells"], found["metric"])
    settings = list(rows[0]["settings"])
    widths = [max(len(n), *(len(row["settings"][n]) for row in rows)) + 2 for n in settings]
    head = "".join(f"{n:<{w}}" for n, w in zip(settings, widths, strict=True))
    lines = ["", head + "".join(f"{n:>20}" for n in names) + f"{'seconds':>10}  run"]
    for row in rows:
        left = "".join(f"{row['settings'][n]:<{w}}" for n, w in zip(settings, widths, strict=True))
        numbers = "".join(f"{shown(row['metrics'].get(n)):>20}" for n in names)
        end = row["run_id"][:8] if row["state"] == "finished" else row["error"]
        lines.append(f"{left}{numbers}{shown(row['seconds']):>10}  {end}")
    best = found["best"]
    named = " ".join(f"{k}={v}" for k, v in best["settings"].items()) if best else ""
    way = "largest" if found["largest"] else "smallest"
    lines += [
        "",
        f"best     {named} ({way} {found['metric']})" if best else
        f"best     none: {found['metric']} is known of no cell",
        f"table    {found['table']}",
        f"run      {found['run_id']}  {found['seconds']:.1f} s",
    ]  # fmt: skip
    return "\n".join(lines)
