"""``python -m tests.fuzzing``: search every target for new crashes, one process each.

A table goes to stderr, and one line of JSON to stdout. The exit code is 1 if anything was found;
each finding is a file that ``--replay`` gives to its target again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAMES = (
    "toml", "set", "deployments", "idx", "npy", "npz", "codes", "zarr", "images", "cifar",
    "scores", "model", "store", "refs", "checkpoint", "codec", "parts", "request", "answer",
)  # fmt: skip
_COVERAGE = re.compile(rb"cov: (\d+) ft: (\d+) corp: (\d+)")
_MOST_STARTS = 10


def main() -> int:
    """Run the command line."""
    options = _options()
    if options.replay:
        return _replay(options.target[0], options.replay)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="vaesc-fuzzing-"))
    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(lambda name: _searched(name, options, folder), options.target))
    print(_table(found), file=sys.stderr)
    n_crashes = sum(len(each["crashes"]) for each in found)
    print(json.dumps({"folder": str(folder), "n_crashes": n_crashes, "targets": found}))
    return int(bool(n_crashes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes for each target")
    parser.add_argument("--target", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    parser.add_argument("--folder", help="where to write; default: a new temporary folder")
    parser.add_argument("--replay", type=Path, help="give this file to the one --target")
    return parser.parse_args()


def _searched(name: str, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Search one target; a process that was killed is a crash, and another takes its place."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    total: dict[str, Any] = {"target": name, "executions": 0, "cpu_seconds": 0.0, "crashes": {}}
    for start in range(_MOST_STARTS):
        seconds = options.minutes * 60 - total["cpu_seconds"]
        command = [sys.executable, "-m", f"{__package__}.worker", name, str(seconds),
                   str(options.seed + start), str(folder)]  # fmt: skip
        with (folder / "log").open("ab") as log:
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        _add(total, folder)
        if code == 0:
            break
        artifacts = sorted(folder.glob("killed-*"))
        total["crashes"][f"killed {start}"] = (
            f"{artifacts[-1] if artifacts else ''} ended with {code}, see {folder / 'log'}"
        )
        if not (folder / "stats.json").exists():
            break
        (folder / "stats.json").unlink()
    found = _COVERAGE.findall((folder / "log").read_bytes())
    total |= {"coverage": int(found[-1][0]), "corpus": int(found[-1][2])} if found else {}
    print(f"{name}: {len(total['crashes'])} found", file=sys.stderr)
    return total


def _add(total: dict[str, Any], folder: Path) -> None:
    if not (folder / "stats.json").exists():
        return
    stats = json.loads((folder / "stats.json").read_bytes())
    for key in ("executions", "cpu_seconds"):
        total[key] += stats[key]
    total["crashes"] |= stats["crashes"]
    total |= {k: stats[k] for k in ("guided", "peak_mb", "slowest_ms")}
    total["refused"] = total.get("refused", 0) + stats["refused"]


def _table(found: list[dict[str, Any]]) -> str:
    columns = ("target", "executions", "refused", "cpu_seconds", "coverage", "corpus", "peak_mb",
               "slowest_ms")  # fmt: skip
    rows = [columns, *([str(each.get(c, "-")) for c in columns] for each in found)]
    lines = ["  ".join(f"{cell:>11}" for cell in row) for row in rows]
    crashes = [f"{e['target']}: {k}\n    {v}" for e in found for k, v in e["crashes"].items()]
    return "\n".join([*lines, *crashes])


def _replay(name: str, path: Path) -> int:
    from .oracle import Sandbox, Violation, judge
    from .targets import TARGETS

    target, sandbox = TARGETS[name], Sandbox()
    target.prepare()
    try:
        judged = judge(target.run, path.read_bytes(), sandbox)
        print(f"refused: {judged.sentence}" if judged.refused else "read", file=sys.stderr)
    except Violation as found:
        print(found, found.where, file=sys.stderr)
        raise (found.__cause__ or found) from None
    finally:
        sandbox.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
