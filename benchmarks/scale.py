"""Beyond one machine, as figures: linear cost, workers, ranks, a store on S3.

============ ======================================================================================
linear       the same model over 10^4, 10^5, ... images, up to N: cost and memory
workers      Dask against one process, a worker killed (:mod:`benchmarks.workers`)
ranks        a training shared by two processes, one killed (:mod:`benchmarks.ranks`)
shared_store store on S3, MLflow on PostgreSQL (:mod:`benchmarks.shared_store`)
============ ======================================================================================

Images are Fashion-MNIST's, shifted and with noise, streamed into a Zarr array (never all in
memory); a brief training makes a model of the article's size; then, for each number of images, a
process of its own extracts latents, codes them, decodes and measures, and writes codes and errors
to Zarr. Its rate is given by the clock, and by the CPU time it used: what else the machine did
meanwhile is in the first and hardly in the second.

``--only`` names some parts. The last line is one JSON object of all figures; exit code 1 if
digests differ that must not, a process needs 1,500 MB or more, or rates per CPU second of 100,000
images and more lie more than a tenth apart.

::

    .venv/bin/python -m benchmarks.scale --images 10000000       # or: make scale
    .venv/bin/python -m benchmarks.scale --images 1000000        # or: make scale N=1000000
    .venv/bin/python -m benchmarks.scale --only workers ranks
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import briefly, make_model
from benchmarks.scoring import score_apart, synthesise

_SMALLEST = 10_000
_MOST_FOR_WORKERS = 1_000_000
_BLOCK_SIZE = 1024
"""Images of a block: many enough for the smallest number of images to occupy every thread."""
_LONG = 1_000_000
"""So many take long enough to be timed once; of fewer, the best of three in one process counts."""
MOST_MB = 1500
MOST_APART = 0.1
"""By which rates per CPU second may lie apart, as a fraction of the slowest."""
_LINEAR_FROM = 100_000
"""Fewer images are measured, too, but take a third of a second, of which starting is a tenth."""
PARTS = ("linear", "workers", "ranks", "shared_store")


def main() -> int:
    """Score every number of images, and print how cost and memory grow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--preset", default="fashion-mnist")
    parser.add_argument("--model", type=Path, help="a saved model, instead of training one")
    parser.add_argument("--folder", type=Path, help="where to put the files for the while")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    failed = False
    for part in options.only:
        print(f"== {part}", flush=True)
        if part == "linear":
            found[part] = _linear(options)
            failed = failed or not found[part]["within bounds"]
        else:
            found[part], code = _apart(part, options)
            failed = failed or code != 0
    print(json.dumps(found))
    return int(failed)


def _linear(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model = options.model or make_model(briefly(options.preset, "article"), folder)
        return summary([_row(n, model, options.preset, folder) for n in sizes(options.images)])


def _apart(part: str, options: argparse.Namespace) -> tuple[Any, int]:
    """Run another benchmark, and return its figures and its exit code."""
    command = [sys.executable, "-m", f"benchmarks.{part}"]
    if part == "workers":
        command += ["--images", str(min(options.images, _MOST_FOR_WORKERS))]
        command += ["--folder", str(options.folder)] if options.folder else []
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    print("\n".join(lines[:-1]), flush=True)
    try:
        figures = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"failed": f"exit code {done.returncode}"}, done.returncode or 1
    inner = figures.get(part)  # some put all they found under their name
    return inner if isinstance(inner, dict) else figures, done.returncode


def sizes(most: int) -> list[int]:
    """Return 10^4, 10^5, ... below `most`, and `most`."""
    found = []
    n = _SMALLEST
    while n < most:
        found.append(n)
        n *= 10
    return [*found, most]


def _row(n: int, model: Path, preset: str, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        apart, started = Path(name), time.perf_counter()
        synthesise(preset, n, apart / "images.zarr")
        made = time.perf_counter() - started
        found = score_apart(model, apart, block_size=_BLOCK_SIZE, tries=1 if n >= _LONG else 3)
    row = {
        "images": n,
        **{name: found[name] for name in (
            "seconds", "images_per_second", "images_per_cpu_second", "peak_rss_mb",
            "largest_rss_mb_by_half", "mb_written", "mse", "l0",
        )},
        "seconds_to_synthesise": round(made, 1),
    }  # fmt: skip
    print(
        f"{n:>12,} images  {row['seconds']:8.1f} s  {row['images_per_second']:7,.0f} images/s  "
        f"{row['images_per_cpu_second']:7,.0f} images per CPU second  "
        f"peak {row['peak_rss_mb']:6,.0f} MB",
        flush=True,
    )
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows, how far their rates lie apart, and the largest memory."""
    spread = {
        "of all": _apart_by(rows),
        f"from {_LINEAR_FROM:,} images": _apart_by(
            [row for row in rows if row["images"] >= _LINEAR_FROM] or rows
        ),
    }
    peak = max(row["peak_rss_mb"] for row in rows)
    return {
        "rows": rows,
        "fastest over slowest, less 1": spread,
        "peak_rss_mb": peak,
        "goal: all within 10 %": max(spread["of all"].values()) < MOST_APART,
        "within bounds": peak < MOST_MB
        and spread[f"from {_LINEAR_FROM:,} images"]["images_per_cpu_second"] < MOST_APART,
    }


def _apart_by(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for name in ("images_per_second", "images_per_cpu_second"):
        rates = [row[name] for row in rows]
        found[name] = round(max(rates) / min(rates) - 1, 4)
    return found


if __name__ == "__main__":
    sys.exit(main())
