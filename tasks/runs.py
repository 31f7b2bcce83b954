"""Many pipelines: each in a process of its own, several at once, all in one MLflow run.

A process has its arithmetic on one thread and its memory to itself, so that any number of
pipelines run side by side and each gives the bytes it gives alone. It goes through Prefect, MLflow
and the caches as ``vaesc run`` does; what has run before costs seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.children import die_with_parent
from tasks.tracking import PARENT_RUN
from tasks.workers import crew_of
from vaesc.arithmetic import THREAD_VARIABLES
from vaesc.config import RuntimeConfig, home
from vaesc.errors import VaescError

AT_ONCE: Any = ThreadPoolTaskRunner(max_workers=2 * (os.cpu_count() or 1))
"""Pipelines that run at once, on one thread each; those beyond the processors share them."""
_HANDED_ON = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Servers that a process on another machine must find, too."""


@dataclass(frozen=True)
class Pipeline:
    """Which pipeline is run: the arguments of ``vaesc run``, and what it is called."""

    name: str
    """What people read: ``seed 0``."""
    preset: str
    config_file: str | None
    settings: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name of its task."""
        return self.name.replace(" ", "-")

    def arguments(self) -> list[str]:
        """Return the command line after ``vaesc``; its own shards are its own threads' work."""
        where = ["--config", self.config_file] if self.config_file else []
        every = (*self.settings, "runtime.runner=threads", "runtime.workers=0")
        laid_over = [part for setting in every for part in ("--set", setting)]
        return ["run", "--json", "--preset", self.preset, *where, *laid_over]


_RUNNING: set[subprocess.Popen[str]] = set()
"""The pipelines that this process has started and that have not ended."""
_OVER = threading.Event()
"""Set once they are given up: what still waits for its turn must not start."""


@contextmanager
def none_outlives() -> Iterator[None]:
    """End the pipelines that still run when the block is left, however it is left.

    They are waited for in threads, which an interruption of the main thread does not reach.
    """
    _OVER.clear()
    try:
        yield
    finally:
        _OVER.set()
        for process in list(_RUNNING):
            process.terminate()


def run_all(
    pipelines: Sequence[Pipeline], parent_run: str, runtime: RuntimeConfig
) -> Iterator[dict[str, Any] | VaescError]:
    """Run pipelines side by side, in one MLflow run: as tasks of this flow, or on Dask's workers.

    Args:
        pipelines: What to run.
        parent_run: The MLflow run that theirs are nested in.
        runtime: ``runner`` says where they run.

    Yields:
        For each, in order, the object that ``vaesc run --json`` prints; or why there is none.
    """
    if runtime.runner == "threads":
        yield from _submitted(pipelines, parent_run)
        return
    with crew_of(runtime) as crew:
        yield from crew.run(
            f"{len(pipelines)}-pipelines",
            lambda: list(_submitted(pipelines, parent_run, crew.result)),
        )


def _submitted(
    pipelines: Sequence[Pipeline],
    parent_run: str,
    result: Callable[[Any, str], Any] = lambda future, name: future.result(),
) -> Iterator[dict[str, Any] | VaescError]:
    handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    environment = {**handed_on, "VAESC_HOME": str(home()), PARENT_RUN: parent_run}
    started = [run_pipeline.submit(each, environment) for each in pipelines]
    for each, future in zip(pipelines, started, strict=True):
        try:
            yield result(future, each.name)
        except VaescError as error:
            yield error


@task(
    name="pipeline", task_run_name="{pipeline.label}", persist_result=False, cache_policy=NO_CACHE
)
def run_pipeline(pipeline: Pipeline, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one pipeline, passing on its log, and return its summary.

    Raises:
        VaescError: It failed; its last line says why.
    """
    if _OVER.is_set():
        raise VaescError(f"the run of {pipeline.name} was not started: it was given up")
    own = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **environment}
    with tempfile.TemporaryFile("w+") as summary:
        process = subprocess.Popen(
            [sys.executable, "-m", "vaesc", *pipeline.arguments()],
            stdout=summary, stderr=subprocess.PIPE, text=True, env=own,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        _RUNNING.add(process)
        if _OVER.is_set():  # given up between the last look and now
            process.terminate()
        try:
            last = _listened(process, pipeline)
            code = process.wait()
        finally:
            process.terminate()  # of no effect on one that has ended
            _RUNNING.discard(process)
        if code < 0:
            name = signal.Signals(-code).name
            raise VaescError(
                f"the run of {pipeline.name} was ended by {name}; its last word was: {last}"
            )
        if code:
            raise VaescError(f"the run of {pipeline.name} failed: {last.removeprefix('vaesc: ')}")
        summary.seek(0)
        found: dict[str, Any] = json.load(summary)
    return found


def _listened(process: subprocess.Popen[str], pipeline: Pipeline) -> str:
    """Pass on what a process says, and return its last line."""
    logger, last = get_run_logger(), "it said nothing"
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip():
            last = line.strip()
            logger.info("%s: %s", pipeline.name, last)
    return last
