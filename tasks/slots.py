"""Pipelines side by side: how many of them, and on which GPU each."""

from __future__ import annotations

import math
import os
from pathlib import Path

from vaesc import cgroup
from vaesc.config import RuntimeConfig
from vaesc.sparse._blocks import allowed_cores, resolve_threads

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def at_once(runtime: RuntimeConfig, n: int) -> int:
    """Return how many of `n` pipelines run at once: ``runtime.workers``, or as many as suit.

    Those are two a core of this process, since each computes on one thread and often waits; one
    for each worker of a cluster on this machine; and for a cluster elsewhere all of them, which
    its workers take as they are free.
    """
    if runtime.workers:
        return runtime.workers
    if runtime.runner == "threads":
        return 2 * cores()
    return resolve_threads(None) if runtime.runner == "dask" else n


def cores() -> int:
    """Return how many cores this process may use, by its affinity and its control groups."""
    allowed, quota = allowed_cores(), cgroup.cores()
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


class Gpus:
    """Which GPU of this machine each slot computes on.

    Where there are several, and neither the user nor the config chooses among them, slots take
    turns. Workers elsewhere have the GPUs that their machine gives them.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        chosen = VISIBLE in os.environ or runtime.device not in ("auto", "cuda")
        elsewhere = runtime.runner.startswith("dask://")
        self.n = 0 if chosen or elsewhere or runtime.ranks > 1 else n_gpus()

    def of(self, slot: int) -> dict[str, str]:
        """Return what a slot's process finds in its environment."""
        return {VISIBLE: str(slot % self.n)} if self.n > 1 else {}


def n_gpus() -> int:
    """Return how many GPUs torch finds; torch is asked only where there is a driver of one."""
    if not any(driver.exists() for driver in _DRIVERS):
        return 0
    import torch

    return int(torch.cuda.device_count())
