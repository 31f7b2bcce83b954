"""Who does the work: the option ``--runner``, and the workers it asks for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaesc.shards import Runner

WORKERS = "tasks.workers"


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Add the option that says who does the work."""
    parser.add_argument(
        "--runner", metavar="threads|dask|dask://HOST:PORT",
        help="this process, a Dask cluster of processes on this machine, or one that runs "
        "elsewhere and sees the same files (needs vaesc[dask]; default: threads)",
    )  # fmt: skip


@contextmanager
def workers_of(runner: str | None, n_workers: int | None) -> Iterator[Runner]:
    """Provide who computes shards: workers are tasks of a Prefect server, threads need none."""
    from vaesc import shards

    if runner in (None, "threads"):
        yield shards.HERE
        return
    module = import_module(WORKERS)
    runtime = module.runtime_of(runner, n_workers)
    with module.workers(runtime):
        import_module("tasks.server").connect()
        yield shards.runner()
