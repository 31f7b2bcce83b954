"""``vaesc claim``: the article's claim over several seeds, an interval and a verdict for each k.

Every seed is one ``vaesc run`` in a process of its own, as many at once as there are processors;
what a run finds in the cache it does not compute. From each run's evaluation the errors of every
test image under every method are taken, and weighed together (:mod:`vaesc.evaluation.claim`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vaesc.cli.run import add_settings
from vaesc.errors import ConfigError, VaescError

COEFFICIENT_BITS = 8
"""Bits of a coefficient in the rate that is reported."""


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "claim",
        parents=[common],
        help="test the article's claim over several seeds, with intervals",
        description="Run the pipeline with several seeds and judge, for each sparsity level, "
        "whether sparse codes of latents reconstruct better than sparse codes of pixels.",
    )
    add_settings(parser)
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="number of seeds, from seed on"
    )
    parser.set_defaults(function=claim)


def claim(options: argparse.Namespace) -> int:
    """Run every seed, weigh what came out, and print it."""
    from vaesc.config_files import load_config

    started = time.perf_counter()
    if options.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {options.seeds}")
    config = load_config(options.preset, options.config, options.set)
    seeds = list(range(config.seed, config.seed + options.seeds))
    runs = _run_all(options, seeds)
    found = {
        "dataset": config.dataset.source,
        "seeds": seeds,
        **_weigh([_evaluation(run) for run in runs], config.seed),
        "runs": [run["run_id"] for run in runs],
        "reports": [run["report"] for run in runs],
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(json.dumps(found) if options.json else _told(found))
    return 0


def _run_all(options: argparse.Namespace, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Run one pipeline a seed, side by side, and return what each printed."""
    cores = os.cpu_count() or 1
    at_once = min(cores, len(seeds))
    # Fixed by the machine and the command alone: the last bits of a sum may depend on threads.
    threads = str(max(1, cores // at_once))
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda seed: _run_one(options, seed, threads), seeds))


def _run_one(options: argparse.Namespace, seed: int, threads: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "vaesc", "run", "--json", "--preset", options.preset]
    if options.config:
        command += ["--config", str(options.config)]
    for assignment in [*options.set, f"seed={seed}"]:
        command += ["--set", assignment]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise VaescError(f"the run of seed {seed} failed: {last.removeprefix('vaesc: ')}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def _evaluation(run: dict[str, Any]) -> Path:
    """Return the folder of a run's evaluation, verified."""
    from vaesc.store import Store

    digest = next(step["digest"] for step in run["steps"] if step["name"] == "evaluate")
    return Path(Store().open("evaluation", digest).path)


def _weigh(folders: Sequence[Path], seed: int) -> dict[str, Any]:
    from vaesc.config import derive_seed
    from vaesc.evaluation.claim import rate_bits, weigh_seeds
    from vaesc.evaluation.results import read_errors

    results = [json.loads((folder / "results.json").read_bytes()) for folder in folders]
    first = results[0]
    levels, names = first["levels"], first["order"]
    weighed = weigh_seeds(
        [read_errors(folder, names, levels) for folder in folders], levels,
        claimant=first["claimant"],
        shared=len({r["test_sha256"] for r in results}) == 1,
        seed=derive_seed(seed, "claim/bootstrap"),
    )  # fmt: skip
    bits = rate_bits(levels, first["n_atoms"], COEFFICIENT_BITS)
    return {
        **{key: first[key] for key in ("claimant", "levels", "n_atoms", "n_test", "order")},
        **weighed,
        "bits": {"coefficient_bits": COEFFICIENT_BITS, "per_image": bits},
        "parameters": first["parameters"],
    }


def _told(found: dict[str, Any]) -> str:
    """Return the outcome as people read it."""
    lines = [
        "",
        f"{found['dataset']}, {found['n_test']} test images, {len(found['seeds'])} seeds, "
        f"K = {found['n_atoms']}: {found['claimant']} over pixels, clipped",
        f"{'k':>5}{'bits':>8}{'ratio':>9}   95 % interval      verdict",
    ]
    for claim, bits in zip(found["claim"], found["bits"]["per_image"], strict=True):
        lines.append(
            f"{claim['k']:>5}{bits:>8.0f}{claim['ratio']:>9.3f}   "
            f"{claim['low']:.3f} to {claim['high']:.3f}     {claim['verdict']}"
        )
    middle = found["geometric_mean"]
    lines.append(
        f"geometric mean {middle['ratio']:.3f} ({middle['low']:.3f} to {middle['high']:.3f})\n"
    )
    lines.append("test MSE" + "".join(f"{f'k = {k}':>10}" for k in found["levels"]))
    for name in found["order"]:
        curve = found["methods"][name]["mse"]
        lines.append(f"{name:<8}" + "".join(f"{mse:>10.5f}" for mse in curve))
    lines += [f"report   {path}" for path in found["reports"]]
    return "\n".join(lines)
