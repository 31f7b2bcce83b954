"""The table of results: what each application measured, from the runs that measured it.

::

    vaesc run --preset mnist-all --json > mnist-all.json
    vaesc run --preset fashion-all --json > fashion-all.json
    python -m benchmarks.results *-all.json --preface docs/preface.md --write docs/results.md

A run's JSON names its steps' artifacts; the figures come from those, each checked by its SHA-256.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.applications.findings import read_findings
from vaesc.report.text import number
from vaesc.shared import this_store
from vaesc.steps import APPLICATIONS

_HEAD = """# Results

What each use of the model measured beside its baselines, which were measured in the same run, and
beside published figures. Made by `python -m benchmarks.results` from the runs' artifacts.
"""


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="what `vaesc run --json` printed")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write it there, too")
    parser.add_argument("--preface", type=Path, metavar="FILE.md", help="what stands before it")
    options = parser.parse_args()
    preface = "\n" + options.preface.read_text() if options.preface else ""
    text = _HEAD + preface + "".join(map(_of_run, options.runs))
    print(text)
    if options.write:
        options.write.write_text(text)
    return 0


def _of_run(path: Path) -> str:
    run = json.loads(path.read_bytes())
    preset = path.stem
    lines = [
        f"\n## {preset}\n",
        f"`vaesc run --preset {preset}`, {run['seconds']:,.0f} s in all.\n",
    ]
    for step in run["steps"]:
        if step["name"] in APPLICATIONS:
            lines += _of_application(step)
    return "\n".join(lines) + "\n"


def _of_application(step: Mapping[str, Any]) -> Iterator[str]:
    found = read_findings(this_store().open(step["name"], step["digest"]).path)
    state = f"{step['seconds']:,.0f} s" if step["state"] == "computed" else "from the cache"
    yield f"### {found['title']}\n"
    yield f"{found['sentence']} ({state})\n"
    yield "| | ours | baseline, same run | published | goal |"
    yield "| --- | --- | --- | --- | --- |"
    yield from map(_row, found["figures"])
    yield ""
    for table in found["tables"]:
        yield from _table(table)
    tried = [f["shortfall"] for f in found["figures"] if f["shortfall"]]
    notes = list(dict.fromkeys([*tried, *found["notes"]]))
    yield from (f"- {note}" for note in notes)
    if notes:
        yield ""


def _table(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the findings, folded away: each baseline's numbers are there."""
    yield f"<details><summary>{table['title']}</summary>\n"
    yield _cells(*table["head"])
    yield _cells(*["---"] * len(table["head"]))
    for row in table["rows"]:
        yield _cells(*(cell if isinstance(cell, str) else number(cell) for cell in row))
    yield "\n</details>\n"


def _row(figure: Mapping[str, Any]) -> str:
    goal = "-"
    if figure["goal"] is not None:
        sign = ">=" if figure["better"] == "higher" else "<="
        goal = f"{sign} {number(figure['goal'])}: {'met' if figure['met'] else '**missed**'}"
    return _cells(
        f"{figure['what']} (`{figure['key']}`)",
        f"**{number(figure['ours'])}** {figure['method']}",
        f"{number(figure['baseline'])} {figure['baseline_name']}",
        "; ".join(f"{number(p['value'])} {p['name']} ({p['source']})" for p in figure["published"])
        or "-",
        goal,
    )


def _cells(*cells: str) -> str:
    escaped: Sequence[str] = [cell.replace("|", "\\|").strip() for cell in cells]
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    raise SystemExit(main())
