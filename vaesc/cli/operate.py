"""``vaesc serve`` and ``vaesc deploy``: run the schedules here, or hand them to a server."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

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
