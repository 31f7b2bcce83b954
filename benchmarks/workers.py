"""Many workers against one process: how much faster, the same bytes, and what a kill costs.

Images are a data set's, shifted by up to two pixels and with noise. Each way is a process of its
own: `extract` and `score` in one process on one thread, on all of its threads, on Dask's workers,
and on them while one is killed with SIGKILL after the first shard. Digests are SHA-256 of all
files that are written. Seconds leave out starting the cluster, which stands beside. The last line
is one JSON object.

::

    .venv/bin/python -m benchmarks.workers --images 1000000 --workers 2
    .venv/bin/python -m benchmarks.workers --images 20000          # minutes; too few to gain
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from benchmarks.models import KINDS, briefly, make_model
from benchmarks.scoring import synthesise
from vaesc.config import DatasetConfig
from vaesc.progress import SILENT, Listener


def main() -> int:
    """Make images and model, do the work every way, and print how it went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="article")
    parser.add_argument("--preset", default="fashion-mnist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to put the files for the while")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_measured(options.folder, options.way, options.workers)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name).resolve()
        _prepare(options, folder)
        ways = {
            way: _child(folder, way, options.workers)
            for way in ("one-thread", "threads", "dask", "killed")
        }
        _stop_server(folder)
    one, many = ways["one-thread"], ways["dask"]
    found = {
        "images": options.images,
        "workers": options.workers,
        "ways": ways,
        "speed_up_extract": round(one["extract_seconds"] / many["extract_seconds"], 3),
        "speed_up_score": round(one["score_seconds"] / many["score_seconds"], 3),
        "identical": len({(w["latents"], w["scores"]) for w in ways.values()}) == 1,
        "identical_after_kill": ways["killed"]["latents"] == one["latents"],
    }
    print(json.dumps(found))
    return 0 if found["identical"] else 1


def _prepare(options: argparse.Namespace, folder: Path) -> None:
    from vaesc.datasets import ingest

    make_model(briefly(options.preset, options.kind), folder).rename(folder / "bundle")
    synthesise(options.preset, options.images, folder / "images.zarr")
    (folder / "dataset").mkdir()
    config = DatasetConfig(source="arrays", path=str(folder / "images.zarr"))
    ingest(config, folder / "dataset", seed=0, block_size=8192, listener=SILENT)


def _child(folder: Path, way: str, n_workers: int) -> dict:
    """Do the work one way, in a process of its own."""
    threads = {"OMP_NUM_THREADS": "1"} if way == "one-thread" else {}
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers", "--way", way, "--folder", str(folder),
         "--workers", str(n_workers)],
        env={**outside, **threads, "VAESC_HOME": str(folder / "home")}, text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{way:<11} extract {found['extract_seconds']:8.2f} s   score "
          f"{found['score_seconds']:8.2f} s   cluster {found['cluster_seconds']:6.2f} s",
          flush=True)  # fmt: skip
    return found


def _measured(folder: Path, way: str, n_workers: int) -> dict:
    from vaesc.bundle import SparseVAE
    from vaesc.latents import extract
    from vaesc.scoring import score_images
    from vaesc.shards import HERE

    started = time.perf_counter()
    with nullcontext(HERE) if "thread" in way else _crew(n_workers) as runner:
        ready = time.perf_counter()
        out = folder / way
        out.mkdir()
        killer = _Killer(runner) if way == "killed" else SILENT
        extract(folder / "dataset", folder / "bundle", out, device="cpu", runner=runner,
                listener=killer)  # fmt: skip
        extracted = time.perf_counter()
        model = SparseVAE.load(folder / "bundle", "cpu")
        score_images(model, folder / "images.zarr", folder / f"{way}-scores", runner=runner)
        scored = time.perf_counter()
    return {
        "cluster_seconds": round(ready - started, 3),
        "extract_seconds": round(extracted - ready, 3),
        "score_seconds": round(scored - extracted, 3),
        "latents": _digest(out),
        "scores": _digest(folder / f"{way}-scores"),
    }


def _crew(n_workers: int):
    from tasks import server
    from tasks.workers import crew_of
    from vaesc.config import RuntimeConfig

    server.connect()
    crew = crew_of(RuntimeConfig(runner="dask", workers=n_workers))
    return _Started(crew)


class _Started:
    """A crew whose cluster is up when the block begins."""

    def __init__(self, crew) -> None:
        self._crew = crew

    def __enter__(self):
        crew = self._crew.__enter__()
        crew.address()
        return crew

    def __exit__(self, *error) -> None:
        self._crew.__exit__(*error)


class _Killer(Listener):
    """Kills a worker once the first shard is heard of."""

    def __init__(self, crew) -> None:
        self._crew, self._done = crew, False

    def progress(self, done: float, total: float, **figures: float) -> None:
        if not self._done:
            from distributed import Client

            self._done = True
            with Client(self._crew.address(), set_as_default=False) as client:
                os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(folder)}\n".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _stop_server(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tasks.server", "stop"], check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "VAESC_HOME": str(folder / "home")},
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
