"""Drift seen where there is some, and not seen where there is none.

A model of one data set (default MNIST) is trained briefly and registered. Batches of its held-out
test images must raise no alarm, batches of another data set (default Fashion-MNIST) must; then the
flow `score` runs on both whole test sets against a real Prefect server, where drift must start a
run of the deployment retrain/nightly, and its absence must not. The last line is one JSON object.

::

    .venv/bin/python -m benchmarks.drift --folder DIR       # which holds MNIST/raw/*.gz
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import KINDS, briefly, make_model

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.drift import Drift, Reference

Scored = tuple["csr_array", NDArray[np.float32]]
"""Codes and errors of images."""

ROOT = Path(__file__).parents[1]
SIZES = (100, 1000)
SHARES = (0.05, 0.1, 0.2, 0.3)

REGISTER = """
import sys
from pathlib import Path
from vaesc.registry import connect, register
tracking = connect()
run = tracking.start_run("trained briefly")
register(Path(sys.argv[1]), tracking, run_id=run)
tracking.finish(run)
from flows.retrain import retrain
retrain.to_deployment("nightly").apply()
from flows.drift_automation import drift_automation
drift_automation().create()
"""
SCORE = "import json, sys; from flows.score import score; print(json.dumps(score(sys.argv[1])))"


def main() -> int:
    """Train, count alarms, run the flow, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--own", default="mnist", help="preset of the model's data")
    parser.add_argument("--other", default="fashion-mnist", help="preset of the foreign data")
    parser.add_argument("--folder", help="where data sets lie, in torchvision's layout")
    parser.add_argument("--kind", choices=KINDS, default="article")
    parser.add_argument("--limit", type=int, default=0, help="most images of each split")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--no-flow", action="store_true", help="without a Prefect server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home, started = Path(name), time.perf_counter()
        config = briefly(options.own, options.kind, folder=options.folder, limit=options.limit)
        model = make_model(config, home)
        print(f"{options.own}, {options.kind}: model in {time.perf_counter() - started:.0f} s")
        images = {preset: _test_images(preset, options) for preset in (options.own, options.other)}
        found = _counted(model, images, options)
        if not options.no_flow:
            found["flow"] = _flow(home, model, images)
    print(json.dumps(found))
    return 0


def _test_images(preset: str, options: argparse.Namespace) -> NDArray[np.uint8]:
    from vaesc.config_files import load_config
    from vaesc.datasets.sources import source_of

    where = [f"dataset.folder={options.folder}"] if options.folder else []
    config = load_config(preset, assignments=where).dataset
    images = source_of(config).load(config, seed=0).parts["test"].images
    return np.asarray(images)[: options.limit or None]


def _counted(
    folder: Path, images: dict[str, NDArray[np.uint8]], options: argparse.Namespace
) -> dict[str, Any]:
    """Count the alarms over batches of each data set, and of one with a share of the other."""
    from vaesc.bundle import SparseVAE

    model = SparseVAE.load(folder, "cpu")
    reference = model.reference
    assert reference is not None
    found: dict[str, Any] = {"reference_images": reference.n_images}
    scored = {name: (model.encode(each), model.score(each)) for name, each in images.items()}
    for preset, each in images.items():
        codes, mse = scored[preset]
        whole = _judged(reference, codes, mse)
        print(f"{preset}, all {len(each):,}: {whole.reason}")
        found[preset] = {"drifted": whole.drifted, "statistics": whole.to_json()["statistics"]}
        for n in (size for size in SIZES if size <= len(each)):
            row = _alarms(reference, codes, mse, n, options.batches)
            found[preset][f"batches of {n}"] = row
            held = "held-out" if preset == options.own else "foreign"
            print(f"{held} {preset}: {row['alarms']} alarms in {row['batches']} batches of {n} "
                  f"({row['beyond thresholds']} beyond a threshold alone)")  # fmt: skip
    found["mixed"] = _mixed(reference, scored[options.own], scored[options.other], options.batches)
    return found


def _mixed(
    reference: Reference, own: Scored, other: Scored, batches: int
) -> dict[str, dict[str, int]]:
    """Count the alarms over random batches of the model's data with a share of foreign images."""
    from vaesc.drift import Statistics, compare

    rng = np.random.default_rng(1)

    def some(scored: Scored, n: int) -> Statistics:
        codes, mse = scored
        rows = rng.choice(len(mse), n, replace=False)
        return Statistics.of(reference, codes[rows], mse[rows])

    found: dict[str, dict[str, int]] = {}
    for n in (size for size in SIZES if size <= len(own[1])):
        found[f"batches of {n}"] = row = {}
        for share in SHARES:
            foreign = round(n * share)
            row[f"{share:.0%} foreign"] = sum(
                compare(reference, some(own, n - foreign) + some(other, foreign)).drifted
                for _ in range(batches)
            )
        print(f"alarms in {batches} batches of {n} by share of foreign images: {row}")
    return found


def _alarms(
    reference: Reference, codes: csr_array, mse: NDArray[np.float32], n: int, batches: int
) -> dict[str, Any]:
    """Count alarms over batches that share no image, or over random ones where too few do."""
    rng = np.random.default_rng(0)
    apart = n * batches <= len(mse)
    order = rng.permutation(len(mse))
    counted = {"batches": batches, "disjoint": apart, "alarms": 0, "beyond thresholds": 0}
    for i in range(batches):
        rows = order[i * n : (i + 1) * n] if apart else rng.choice(len(mse), n, replace=False)
        drift = _judged(reference, codes[rows], mse[rows])
        counted["alarms"] += drift.drifted
        counted["beyond thresholds"] += any(s.value > s.threshold for s in drift.statistics)
    return counted


def _judged(reference: Reference, codes: csr_array, mse: NDArray[np.float32]) -> Drift:
    from vaesc.drift import Statistics, compare

    return compare(reference, Statistics.of(reference, codes, mse))


def _flow(home: Path, model: Path, images: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Score both whole sets with the registered champion on a server, and see what is started."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))},
        "VAESC_HOME": str(home), "PREFECT_HOME": str(home / "none"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def run(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=ROOT, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    run("-m", "tasks.server", "start")
    try:
        url = json.loads((home / "prefect" / "server.json").read_text())["url"]
        environment["PREFECT_API_URL"] = url
        run("-c", REGISTER, str(model))
        found = {}
        for preset, each in images.items():
            path = home / f"{preset}.npy"
            np.save(path, each)
            summary = json.loads(run("-c", SCORE, str(path)).splitlines()[-1])
            started = _waited(lambda: _started(url), seconds=20)
            found[preset] = {
                "drifted": summary["drift"]["drifted"], "event": summary["event"],
                "images_per_second": summary["images_per_second"],
                "retrainings": len(started),
                "because": [r["parameters"]["reason"] for r in started],
            }  # fmt: skip
            print(f"flow score on {preset}: {len(started)} retrainings started")
        return found
    finally:
        run("-m", "tasks.server", "stop")


def _waited(ask: Callable[[], list[Any]], *, seconds: float) -> list[Any]:
    deadline = time.monotonic() + seconds
    while not (found := ask()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def _started(url: str) -> list[dict[str, Any]]:
    """Return the runs of deployments, of which there is one."""
    request = urllib.request.Request(
        f"{url}/flow_runs/filter", b"{}", {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return [r for r in json.loads(answer.read()) if r["deployment_id"]]


if __name__ == "__main__":
    sys.exit(main())
