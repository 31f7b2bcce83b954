"""``vaesc models list|show|...``: look models up in the registry, and say which is champion."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from vaesc.cli import outside, promotion


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    parser = commands.add_parser("models", help="look models up in the registry")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="every version, newest first")
    listing.add_argument("--json", action="store_true", help="print one JSON array, nothing else")
    listing.set_defaults(function=list_versions)
    show = actions.add_parser("show", parents=[common], help="one version, whole")
    show.add_argument("ref", help="alias (champion), version (3) or models:/name/version")
    show.add_argument("--name", default="vaesc", help="registered model (default: vaesc)")
    show.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    show.set_defaults(function=show_version)
    promotion.add_actions(actions, common)
    outside.add_actions(actions, common)


def list_versions(options: argparse.Namespace) -> int:
    """Print every registered version."""
    from vaesc.registry import list_models

    versions = list_models()
    if options.json:
        print(json.dumps(versions))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "aliases", "dataset", "MSE at k", "created", box=None)
    for v in versions:
        table.add_row(
            v["name"], str(v["version"]), ", ".join(v["aliases"]), v.get("dataset", ""),
            _headline(v.get("metrics", {})), str(v.get("created", "")),
        )  # fmt: skip
    Console().print(table if versions else "no model is registered yet; `vaesc run` registers one")
    return 0


def show_version(options: argparse.Namespace) -> int:
    """Print one version with its metrics, digests and tags."""
    from vaesc.registry import show_model

    facts = show_model(options.ref, name=options.name)
    if options.json:
        print(json.dumps(facts))
        return 0
    for key, value in _readable(facts).items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name in sorted(value):
                print(f"  {name:<36}{_cell(value[name])}")
        elif "\n" in str(value):
            shown = str(value).replace("&emsp;", "")  # MLflow's page needs it, a terminal does not
            print(f"{key}:\n{textwrap.indent(shown, '  ')}")
        else:
            print(f"{key:<16}{_cell(value)}")
    return 0


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a version's facts without what only machines read."""
    decision = facts["decision"]
    told = f"{decision['outcome']}: {decision['reason']}" if decision else "none yet"
    tags = {k: v for k, v in facts["tags"].items() if k not in ("vaesc.decision", "vaesc.atoms")}
    return {**facts, "decision": told, "tags": tags}


def _headline(metrics: dict[str, float]) -> str:
    found = {k: v for k, v in metrics.items() if k.startswith("test/mse_k")}
    return "  ".join(
        f"{k.removeprefix('test/mse_')} {v:.4f}"
        for k, v in sorted(found.items(), key=lambda item: int(item[0].rsplit("k", 1)[1]))
    )


def _cell(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
