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
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TextIO

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.children import die_with_parent, terminate
from tasks.elsewhere import handed_on, require_same, unwanted
from tasks.slots import Gpus, at_once
from tasks.tracking import PARENT_RUN
from tasks.workers import crew_of
from vaesc.arithmetic import THREAD_VARIABLES
from vaesc.config import RuntimeConfig, home
from vaesc.errors import VaescError

ONE_EACH: Any = ThreadPoolTaskRunner(max_workers=1024)
"""A thread for every pipeline that runs; how many those are is decided in :mod:`tasks.slots`."""
_LOOK_SECONDS = 1.0


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
_OVER = Event()
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
        runtime: ``runner`` says where they run, ``workers`` how many at once.

    Yields:
        For each, in order, the object that ``vaesc run --json`` prints; or why there is none.
    """
    if runtime.runner == "threads":
        yield from _side_by_side(pipelines, parent_run, runtime)
        return
    with crew_of(runtime) as crew:
        if crew.remote:
            require_same(crew.address(), runtime.runner)
        yield from crew.run(
            f"{len(pipelines)}-pipelines",
            lambda: list(_side_by_side(pipelines, parent_run, runtime, crew.require_worker)),
        )


def _side_by_side(
    pipelines: Sequence[Pipeline],
    parent_run: str,
    runtime: RuntimeConfig,
    require_worker: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any] | VaescError]:
    """Submit pipelines as slots are free, and yield what came of each, in order.

    Those that have not ended when nobody is left to run them have that sentence for a result.
    """
    environment = {**handed_on(), "VAESC_HOME": str(home()), PARENT_RUN: parent_run}
    waiting, gpus = deque(enumerate(pipelines)), Gpus(runtime)
    free = list(range(at_once(runtime, len(pipelines))))
    ended: SimpleQueue[tuple[int, int, Any]] = SimpleQueue()
    found: dict[int, dict[str, Any] | VaescError] = {}

    def start(number: int, pipeline: Pipeline, slot: int) -> None:
        future = run_pipeline.submit(pipeline, {**environment, **gpus.of(slot)})
        future.add_done_callback(lambda future: ended.put((number, slot, future)))

    def take_one() -> None:
        """Take what has ended, or start what may, or wait a little."""
        may_start = bool(waiting and free)
        try:
            which, slot, future = ended.get(not may_start, _LOOK_SECONDS)
        except Empty:
            require_worker()
            if may_start:
                start(*waiting.popleft(), free.pop(0))
            return
        free.append(slot)
        try:
            found[which] = future.result()
        except Exception as error:  # one that fails spoils no other
            found[which] = _sentence(pipelines[which], error)

    for number in range(len(pipelines)):
        try:
            while number not in found:
                take_one()
        except VaescError as error:
            found[number] = error
        yield found.pop(number)


def _sentence(pipeline: Pipeline, error: Exception) -> VaescError:
    """Return why there is no summary of a pipeline."""
    if isinstance(error, VaescError):
        return error
    if type(error).__name__ == "KilledWorker":
        return VaescError(f"the workers that ran {pipeline.name} were lost, one after the other")
    if isinstance(error, CancelledError):
        return VaescError(f"the Dask scheduler was lost while {pipeline.name} ran: start it again")
    return VaescError(f"the run of {pipeline.name} failed: {type(error).__name__}: {error}")


@task(
    name="pipeline", task_run_name="{pipeline.label}", persist_result=False, cache_policy=NO_CACHE
)
def run_pipeline(pipeline: Pipeline, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one pipeline, passing on its log, and return its summary.

    Prefect sends a worker this function with all that it names: so it names one other.

    Raises:
        VaescError: It failed; its last line says why.
    """
    return _ran(pipeline, environment)


def _ran(pipeline: Pipeline, environment: Mapping[str, str]) -> dict[str, Any]:
    if _OVER.is_set():
        raise VaescError(f"the run of {pipeline.name} was not started: it was given up")
    with tempfile.TemporaryFile("w+") as summary:
        process = _started(pipeline, environment, summary)
        _RUNNING.add(process)
        if _OVER.is_set():  # given up between the last look and now
            process.terminate()
        if is_unwanted := unwanted():
            Thread(target=_end_unwanted, args=(process, is_unwanted), daemon=True).start()
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
        return _read(summary, pipeline)


def _started(
    pipeline: Pipeline, environment: Mapping[str, str], summary: TextIO
) -> subprocess.Popen[str]:
    own = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **environment}
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "vaesc", *pipeline.arguments()],
            stdout=summary, stderr=subprocess.PIPE, text=True, errors="replace", env=own,
            preexec_fn=die_with_parent,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "strerror", None) or error
        raise VaescError(
            f"the run of {pipeline.name} could not be started: {why}; let fewer run at once "
            "(runtime.workers)"
        ) from error


def _end_unwanted(process: subprocess.Popen[str], is_unwanted: Callable[[], bool]) -> None:
    while process.poll() is None:
        if is_unwanted():
            terminate(process)
        time.sleep(_LOOK_SECONDS)


def _read(summary: TextIO, pipeline: Pipeline) -> dict[str, Any]:
    summary.seek(0)
    try:
        found: dict[str, Any] = json.load(summary)
    except ValueError as error:
        raise VaescError(
            f"the run of {pipeline.name} ended well, but printed no summary that can be read "
            f"({error})"
        ) from error
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
