"""What each step of the pipeline costs: seconds, memory and bytes by n, d, K and k.

Images are Fashion-MNIST's, shifted and with noise, in a Zarr array that is never all in memory.
The pipeline's own steps run over it, each in a process of its own whose peak memory is looked at:
ingest, train (one epoch), extract, learn (two epochs), evaluate (one sparsity level); with
``--set refine.epochs=1`` there is *refine*, too. Those before a step are to be named as well.
First for every number of images; then, with the smallest number, for other latent dimensions d,
numbers of atoms K and sparsity levels k, one at a time. The last line is one JSON object of all
figures; exit code 1 if a process needs more than 1,500 MB for the plain settings.

::

    .venv/bin/python -m benchmarks.sizing --images 100000 1000000
    .venv/bin/python -m benchmarks.sizing --images 20000 --only-images --steps ingest train extract
    .venv/bin/python -m benchmarks.sizing --images 1000000 --only-images --set window_mib=16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.scoring import synthesise
from benchmarks.streaming import _status

MOST_MB = 1500
STEPS = ("ingest", "train", "extract", "learn", "refine", "evaluate")
PLAIN = (
    "training.epochs=1", "training.warmup_epochs=0", "training.beta_schedule=constant",
    "dictionary.max_epochs=2", "refine.epochs=0", "evaluation.topk_epochs=0",
)  # fmt: skip
OTHERWISE = {
    "d": [("vae.latent_dim=16",), ("vae.latent_dim=64",)],
    "K": [("dictionary.n_atoms=128",), ("dictionary.n_atoms=512",)],
    "k": [("dictionary.n_nonzero_coefs=4",), ("dictionary.n_nonzero_coefs=16",)],
}
"""What is changed from d = 32, K = 256, k = 8."""


def main() -> int:
    """Measure every step at every size, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--preset", default="fashion-mnist")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--only-images", action="store_true", help="leave d, K and k alone")
    parser.add_argument("--folder", type=Path, help="where to put the files for the while")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_one_step(options)))
        return 0
    rows = []
    for n in sorted(options.images):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            synthesise(options.preset, n, folder / "images.zarr")
            rows += _rows(options.steps, folder, n, tuple(options.set))
            if n == min(options.images) and not options.only_images:
                for cases in OTHERWISE.values():
                    for changed in cases:
                        rows += _rows(options.steps, folder, n, (*options.set, *changed))
    print(json.dumps({"sizing": rows}))
    plain = [row["peak_rss_mb"] for row in rows if row["changed"] == " ".join(options.set)]
    return int(max(plain) > MOST_MB)


def _rows(
    steps: Sequence[str], folder: Path, n: int, changed: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Run each step in a process of its own; what a change leaves alone lies in the store."""
    rows, refined = [], any(s.startswith("refine.epochs=") for s in changed)
    for step in steps:
        if step == "refine" and not refined:
            continue
        command = [
            sys.executable, "-m", "benchmarks.sizing", "--step", step, "--folder", folder,
            "--set", *PLAIN, *changed,
        ]  # fmt: skip
        environment = {**os.environ, "VAESC_HOME": str(folder / "home")}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        row = {
            "images": n,
            "changed": " ".join(changed),
            **json.loads(done.stdout.splitlines()[-1]),
        }
        if row.pop("computed"):
            rows.append(row)
            print(
                f"{n:>12,} images  {row['changed']:28} {step:9} {row['seconds']:8.1f} s  "
                f"{row['cpu_seconds']:8.1f} CPU s  peak {row['peak_rss_mb']:6,.0f} MB  "
                f"{row['mb_written']:8,.1f} MB written",
                flush=True,
            )
    return rows


def _one_step(options: argparse.Namespace) -> dict[str, Any]:
    """Make a step's artifact, those before it lying in the store, and return what it took."""
    from vaesc.config_files import load_config
    from vaesc.datasets import fingerprint
    from vaesc.records import Record
    from vaesc.steps import INGEST, run_step, steps_of
    from vaesc.store import Store

    images = options.folder / "images.zarr"
    config = load_config("arrays", assignments=[f"dataset.path={images}", *options.set])
    levels = (config.dictionary.n_nonzero_coefs,)
    config = replace(config, evaluation=replace(config.evaluation, sparsity_levels=levels))
    store, started = Store(options.folder / "store"), time.perf_counter()
    records: dict[str, Record | str] = {"source": fingerprint(config.dataset)}
    hashed = time.perf_counter() - started
    for step in steps_of(config):
        wanted = ("source",) if step is INGEST else step.inputs
        inputs = {name: records[name] for name in wanted if name in records}
        started, cpu = time.perf_counter(), time.process_time()
        made = run_step(step, config, inputs, store=store)
        records[step.kind] = step.recorded(made)
        if step.name == options.step:
            break
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    started = time.perf_counter()
    run_step(step, config, inputs, store=store)
    files = [p for p in made.path.rglob("*") if p.is_file()]
    return {
        "step": step.name,
        "computed": made.computed,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_if_cached": round(time.perf_counter() - started, 2),
        "seconds_to_hash_the_source": round(hashed, 2),
        "peak_rss_mb": round(_status("VmHWM"), 1),
        "mb_written": round(sum(f.stat().st_size for f in files) / 1e6, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
