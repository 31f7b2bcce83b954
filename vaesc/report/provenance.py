"""Where a report's numbers come from: commands, steps, settings, versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from vaesc.config import flat_settings
from vaesc.config_files import load_config
from vaesc.errors import ConfigError
from vaesc.report.text import escape, table


def provenance(run: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the report's last section; what `run` does not say is left out."""
    parts = [_commands(run), _steps(run), _settings(run), _versions(run)]
    identity = [
        f"{name} <code>{escape(run[key])}</code>"
        for key, name in (
            ("run_id", "MLflow run"),
            ("flow_run_id", "Prefect flow run"),
            ("config_digest", "config digest"),
        )
        if run.get(key)
    ]
    first = f'<p class="ids">{"<br>".join(identity)}</p>' if identity else ""
    return f"<section>\n<h2>Provenance</h2>\n{first}{''.join(filter(None, parts))}\n</section>"


def commands(run: Mapping[str, Any]) -> list[str]:
    """Return the commands that make the run again: those it names, else drawn from its config."""
    if run.get("commands"):
        return [str(command) for command in run["commands"]]
    config = run.get("config")
    if not config:
        return []
    words = ["vaesc", "run", "--preset", str(config.get("preset", "digits"))]
    for assignment in _assignments(config):
        words += ["--set", assignment]
    return [shlex.join(words)]


def _assignments(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs from the preset, as ``section.name=value``."""
    path = config.get("dataset", {}).get("path")
    given = [f"dataset.path={json.dumps(path)}"] if path else []
    yield from given
    try:
        base = dict(flat_settings(load_config(str(config.get("preset", "digits")), None, given)))
    except ConfigError:
        base = {}
    for key, value in _flat(config):
        if key != "preset" and key in base and base[key] != value:
            yield f"{key}={'none' if value is None else json.dumps(value)}"


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", leaf) for key, leaf in value.items())
        else:
            yield name, value


def _commands(run: Mapping[str, Any]) -> str:
    lines = "\n".join(commands(run))
    if not lines:
        return ""
    return f'<h3>Make it again</h3><pre tabindex="0">{escape(lines)}</pre>'


def _steps(run: Mapping[str, Any]) -> str:
    if not run.get("steps"):
        return ""
    rows = [
        [
            escape(step.get("name", "")),
            escape(step.get("state", "")),
            f"{float(step.get('seconds') or 0):.1f}",
            f"<code>{escape(str(step.get('digest', ''))[:16])}</code>",
        ]
        for step in run["steps"]
    ]
    return "<h3>Steps</h3>" + table(["", "state", "seconds", "digest"], rows)


def _settings(run: Mapping[str, Any]) -> str:
    rows = [[escape(k), escape(json.dumps(v))] for k, v in _flat(run.get("config") or {})]
    return _folded("Every setting", rows)


def _versions(run: Mapping[str, Any]) -> str:
    rows = [[escape(k), escape(v)] for k, v in _flat(run.get("tags") or {})]
    return _folded("Versions, machine, commit", rows)


def _folded(title: str, rows: list[list[str]]) -> str:
    if not rows:
        return ""
    content = table(["", ""], rows)
    return f'<details class="pairs"><summary>{escape(title)}</summary>{content}</details>'
