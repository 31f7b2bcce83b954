"""What a shard costs Prefect and Dask besides its work, in CPU seconds.

Shards of next to no work (16 digits encoded by a small network) are computed in this process, by
Dask alone, and as a run computes them: as Prefect's tasks on Dask's workers. Told are the CPU
seconds a shard: of the process that leads (Dask's scheduler is in it), of all workers together,
and of Prefect's server beyond its idling, until ten seconds after. The last line is one JSON
object, in which ``besides_work`` is the sum less what the work takes here.

::

    .venv/bin/python -m benchmarks.shards [--shards 100] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from vaesc.config import DatasetConfig, RuntimeConfig, VAEConfig
from vaesc.progress import SILENT
from vaesc.shards import HERE, Shard, compute

_SETTLED = 10.0
"""Seconds in which a server has written what it was told."""


def main() -> int:
    """Make a data set and a network, compute the shards every way, and print what they cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.environ["VAESC_HOME"] = name
        for stale in [key for key in os.environ if key.startswith("PREFECT")]:
            del os.environ[stale]
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        try:
            found = _measured(Path(name), options.shards, options.workers)
        finally:
            stop = [sys.executable, "-m", "tasks.server", "stop"]
            subprocess.run(stop, check=False, stdout=subprocess.DEVNULL)
    print(json.dumps(found))
    return 0


def _measured(folder: Path, n: int, n_workers: int) -> dict:
    _prepare(folder)
    from tasks import server

    port = server.connect().rpartition(":")[2].partition("/")[0]  # before Prefect is imported
    from distributed import Client

    from tasks.workers import crew_of

    found = {"shards": n, "workers": n_workers}
    with (
        crew_of(RuntimeConfig(runner="dask", workers=n_workers)) as crew,
        Client(crew.address(), set_as_default=False) as client,
    ):

        def by_dask(shards: list[Shard]) -> None:
            for future in [client.submit(compute, shard, pure=False) for shard in shards]:
                future.result()

        ways = {
            "here": lambda shards: HERE.map(shards, lambda *_: None),
            "dask": by_dask,
            "prefect_and_dask": lambda shards: crew.map(shards, lambda *_: None),
        }
        for name, way in ways.items():
            _cost(way, folder, 4 * n_workers, client)  # what is imported once is no shard's
            with _Served(port) as served:
                found[name] = _cost(way, folder, n, client)
            found[name]["server"] = round(served.seconds / n, 4)
            print(f"{name:<17}{found[name]}", flush=True)
    work = sum(found["here"].values())
    besides = {name: round(sum(found[name].values()) - work, 3) for name in list(ways)[1:]}
    return {**found, "besides_work": besides}


class _Served:
    """CPU seconds of Prefect's server for what the block asks of it."""

    def __init__(self, port: str) -> None:
        self._processes = [
            process for process in psutil.process_iter(["cmdline"])
            if {"server", "start", port} <= set(process.info["cmdline"] or ())
        ]  # fmt: skip
        self.seconds = 0.0

    def __enter__(self) -> _Served:
        idle = -self._cpu()
        time.sleep(_SETTLED)
        self._idle = (idle + self._cpu()) / _SETTLED
        self._begun, self._before = time.monotonic(), self._cpu()
        return self

    def __exit__(self, *error) -> None:
        time.sleep(_SETTLED)
        spent = self._cpu() - self._before
        self.seconds = spent - self._idle * (time.monotonic() - self._begun)

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)


def _prepare(folder: Path) -> None:
    from vaesc.datasets import ingest
    from vaesc.models import VAE, save_vae

    for name in ("dataset", "vae"):
        (folder / name).mkdir()
    digits = DatasetConfig(source="digits")
    ingest(digits, folder / "dataset", seed=0, block_size=8192, listener=SILENT)
    save_vae(VAE(VAEConfig(hidden=(16,), latent_dim=8), (8, 8)), folder / "vae")


def _cost(way: Callable, folder: Path, n: int, client) -> dict[str, float]:
    """Return the CPU seconds a shard of this process, and of the workers together."""
    parts = folder / "parts"
    parts.mkdir()
    shards = [
        Shard(
            name=f"extract test/{i}", function="vaesc.latents:extract_shard", part=parts / str(i),
            arguments={
                "dataset": str(folder / "dataset"), "vae": str(folder / "vae"), "split": "test",
                "start": i, "stop": i + 16,
            },
            how={"device": "cpu", "block_size": 16},
        )
        for i in range(n)
    ]  # fmt: skip
    theirs, own = sum(client.run(time.process_time).values()), time.process_time()
    way(shards)
    own, theirs = time.process_time() - own, sum(client.run(time.process_time).values()) - theirs
    shutil.rmtree(parts)
    return {"leader": round(own / n, 4), "workers": round(theirs / n, 4)}


if __name__ == "__main__":
    raise SystemExit(main())
