"""``vaesc retrain``, ``serve`` and ``deploy``: retrain now, on schedule here, or on a server."""

from __future__ import annotations

import argparse
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from vaesc.cli.run import add_settings

RETRAIN = "flows.retrain:retrain"
SERVE = "flows.serve:serve"
DEPLOY = "flows.serve:deploy"
_DEPLOYMENTS = Path("deployments/prefect.yaml")


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    for name, function, what in (
        ("serve", serve, "run the schedules of deployments/prefect.yaml in this process"),
        ("deploy", deploy, "hand the deployments to a Prefect server's work pools"),
    ):
        parser = commands.add_parser(name, parents=[common], help=what, description=what)
        parser.add_argument(
            "--file", type=Path, default=_DEPLOYMENTS, metavar="FILE.yaml", help=str(_DEPLOYMENTS)
        )
        parser.set_defaults(function=function)
    what = "train a candidate, compare it with the champion, promote it if the gate lets it pass"
    parser = commands.add_parser("retrain", parents=[common], help=what, description=what)
    add_settings(parser)
    parser.add_argument("--warm-start", action="store_true", help="start from the champion")
    parser.add_argument("--force", action="store_true", help="even if there is nothing new")
    parser.set_defaults(function=retrain)


def retrain(options: argparse.Namespace) -> int:
    """Train a candidate, decide, and say what was decided; a rejection is no failure."""
    from vaesc.config_files import load_config
    from vaesc.datasets import check

    check(load_config(options.preset, options.config, options.set).dataset)
    import_module("tasks.server").connect()
    module, _, name = RETRAIN.partition(":")
    found: dict[str, Any] = getattr(import_module(module), name)(
        preset=options.preset, settings=options.set,
        config_file=str(options.config.resolve()) if options.config else None,
        warm_start=options.warm_start, force=options.force,
    )  # fmt: skip
    print(json.dumps(found) if options.json else f"{found['outcome']}: {found['reason']}")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serve every deployment until interrupted."""
    return _call(SERVE, options.file)


def deploy(options: argparse.Namespace) -> int:
    """Create the work pool if needed, and every deployment."""
    code = _call(DEPLOY, options.file)
    if import_module("tasks.server").status() == os.environ.get("PREFECT_API_URL"):
        print(
            "Deployed to the local Prefect server, which stops when idle: for schedules that "
            "run every night, set PREFECT_API_URL to a server, or keep `vaesc serve` going."
        )
    return code


def _call(entrypoint: str, file: Path) -> int:
    import_module("tasks.server").connect()
    module, _, name = entrypoint.partition(":")
    getattr(import_module(module), name)(file)
    return 0
