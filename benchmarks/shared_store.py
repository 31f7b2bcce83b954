"""The whole pipeline with its store on S3 and MLflow on PostgreSQL, against one on this machine.

Brings up the stack of :mod:`deployments.stack` (PostgreSQL, S3, MLflow, Prefect), runs a preset
once without any of it, once with all of it, and once more from another, empty home, which finds
every step in the bucket. Addresses and contents of all artifacts must be the same, none missing;
the last run computes nothing but its own registration. The last line is one JSON object; exit
code 1 if it is otherwise.

::

    .venv/bin/python -m benchmarks.shared_store --preset digits
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.stack import BUCKET, Stack

_REGISTER = "register"
"""The step that makes no artifact: it writes to MLflow."""
_OF_SERVERS = ("PREFECT", "MLFLOW", "AWS_", "VAESC_")


def main() -> int:
    """Run three times, compare, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_store", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vaesc-shared-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL runs as another user inside it
        found = measure(Path(name), options.preset, options.set)
    print(json.dumps({"shared_store": found}))
    return 0 if found["identical"] and set(found["computed_by_second"]) <= {_REGISTER} else 1


def measure(folder: Path, preset: str, settings: list[str]) -> dict[str, Any]:
    """Return how long each run took, and whether all made the same."""
    arguments = ["--preset", preset, *(part for s in settings for part in ("--set", s))]
    alone = _run(folder / "alone", {}, arguments)
    with Stack(folder / "stack") as stack:
        storage = stack.storage
        shared = {
            **stack.environment, "VAESC_STORE": f"s3://{BUCKET}/store",
            "AWS_ENDPOINT_URL": storage["MLFLOW_S3_ENDPOINT_URL"], "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": storage["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": storage["AWS_SECRET_ACCESS_KEY"],
        }  # fmt: skip
        first = _run(folder / "first", shared, arguments)
        second = _run(folder / "second", shared, arguments)
    runs = {"alone": alone, "first": first, "second": second}
    made = {name: _made(folder / name, run) for name, run in runs.items()}
    return {
        "preset": preset,
        "identical": made["alone"] == made["first"] == made["second"],
        "artifacts": len(made["alone"]),
        "computed_by_second": [
            s["name"] for s in second["steps"] if s["state"] == "computed"
        ],
        "seconds": {name: run["seconds"] for name, run in runs.items()},
    }  # fmt: skip


def _run(home: Path, servers: Mapping[str, str], arguments: list[str]) -> dict[str, Any]:
    """Run the pipeline in a home of its own, and return its summary."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(_OF_SERVERS)}
    environment = {**own, **servers, "VAESC_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "vaesc", "run", *arguments, "--json"],
        env=environment, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if not servers:
        subprocess.run(
            [sys.executable, "-m", "tasks.server", "stop"], env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    summary: dict[str, Any] = json.loads(done.stdout)
    print(f"{home.name:<8} {summary['seconds']:8.1f} s", flush=True)
    return summary


def _made(home: Path, summary: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return address and content of what each step made, by step."""
    found = {}
    for step in summary["steps"]:
        if step["name"] != _REGISTER:
            (manifest,) = (home / "store").glob(f"*/??/{step['digest']}/manifest.json")
            content = json.loads(manifest.read_bytes())["content"]
            found[step["name"]] = (step["digest"], content)
    return found


if __name__ == "__main__":
    sys.exit(main())
