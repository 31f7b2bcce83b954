"""``vaesc run`` and ``vaesc report``: do the main job, look at what came out."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

from vaesc.cli.files import local
from vaesc.config import PipelineConfig, home
from vaesc.errors import VaescError

PIPELINE = "flows.pipeline:pipeline"


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    parser = commands.add_parser(
        "run",
        parents=[common],
        help="dataset to registered model: ingest, train, extract, learn, evaluate, register",
        formatter_class=_LateHelp,
        description="Run the pipeline. Steps whose inputs are unchanged come from the cache.",
    )
    add_settings(parser)
    parser.set_defaults(function=run)

    parser = commands.add_parser(
        "report", parents=[common], help="say where the report of a run is, and open it"
    )
    parser.add_argument("run", nargs="?", help="MLflow run id (default: the newest run)")
    parser.add_argument("--no-open", action="store_true", help="only print the path")
    parser.set_defaults(function=report)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is to be run."""
    parser.add_argument(
        "--preset", default="digits", metavar="NAME", help="where the settings start"
    )
    parser.add_argument("--config", type=local, metavar="FILE.toml", help="settings laid over it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="one setting laid over both"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


class _LateHelp(argparse.RawDescriptionHelpFormatter):
    """Appends presets and settings, gathered only when somebody asks for the help."""

    def format_help(self) -> str:
        return super().format_help() + settings_help()


def settings_help() -> str:
    """Return every preset and setting with its documentation, as text."""
    from vaesc.config_files import describe_settings, presets

    lines = ["\npresets:"]
    for name, sentence in presets().items():
        lines += _entry(name, sentence)
    lines.append("\nsettings (for --set, and as TOML sections for --config):")
    for key, kind, default, document in describe_settings():
        lines += _entry(key, f"{document} [{kind}; default {default}]")
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> int:
    """Run the pipeline and print what came of it."""
    from vaesc.config_files import load_config
    from vaesc.datasets import check

    config = load_config(options.preset, options.config, options.set)
    # Ingestion would say the same, but only once Prefect and MLflow are up.
    check(config.dataset)
    import_module("tasks.server").connect()
    summary = _call(PIPELINE, config)
    if options.json:
        print(json.dumps(summary))
    else:
        print(_told(summary))
    return 0


def report(options: argparse.Namespace) -> int:
    """Print the path of a run's report and open it in a browser."""
    folder = home() / "runs"
    reports = sorted(folder.glob("*/report.html"), key=lambda p: p.stat().st_mtime)
    if options.run:
        reports = [p for p in reports if p.parent.name.startswith(options.run)]
    if not reports:
        which = f"run {options.run}" if options.run else "any run"
        raise VaescError(f"there is no report of {which} in {folder}; `vaesc run` makes one")
    print(reports[-1])
    if not options.no_open and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(reports[-1].as_uri())
    return 0


def _call(entrypoint: str, config: PipelineConfig) -> dict[str, Any]:
    module, _, name = entrypoint.partition(":")
    summary: dict[str, Any] = getattr(import_module(module), name)(config)
    return summary


def _told(summary: dict[str, Any]) -> str:
    """Return the summary as people read it."""
    steps = [
        f"  {s['name']:<10}{s['state']:<10}{s['seconds']:>8.1f} s   {s['digest'][:12]}"
        for s in summary["steps"]
    ]
    model = summary["model"]
    names = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
    return "\n".join(
        [
            "",
            *steps,
            "",
            *textwrap.wrap(_beside_report(summary, "verdict.txt"), 96),
            "",
            *_health(summary),
            f"model    {model['name']} version {model['version']}{names}",
            f"report   {summary['report']}",
            f"run      {summary['run_id']}  {summary['seconds']:.1f} s",
        ]
    )


def _health(summary: dict[str, Any]) -> list[str]:
    """Return what was not as it should be in training, mended or not."""
    found = _beside_report(summary, "health.txt").splitlines()
    return [line for told in found for line in (*textwrap.wrap(f"! {told}", 96), "")]


def _beside_report(summary: dict[str, Any], name: str) -> str:
    return Path(summary["report"]).with_name(name).read_text(encoding="utf-8").strip()


def _entry(name: str, text: str) -> list[str]:
    first, *rest = textwrap.wrap(text, 70) or [""]
    if len(name) > 25:
        return [f"  {name}", *(f"{'':28}{line}" for line in [first, *rest])]
    return [f"  {name:<26}{first}", *(f"{'':28}{line}" for line in rest)]
