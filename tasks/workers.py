"""Many workers: the shards of a step as Prefect tasks on a Dask cluster.

``runtime.runner`` chooses: ``threads`` is this process; ``dask`` a cluster of processes on this
machine, started when the first shards are due and ended with the run; ``dask://host:port`` one
that somebody else runs. Every shard is a Prefect task named for what it does. One whose worker is
lost is computed again by another; the others' parts are kept (:mod:`vaesc.shards`).

Workers need the same vaesc, and must see the folder of the store: both are checked before anything
is computed. They report to Prefect only; MLflow is written by the process that runs the flow.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner

from tasks.elsewhere import require_api
from vaesc import __version__
from vaesc.config import RuntimeConfig, home
from vaesc.errors import ConfigError, VaescError
from vaesc.scratch import scratch
from vaesc.shards import NOTE, Shard, Summary, Then, compute, digest_of_source, running
from vaesc.sparse._blocks import resolve_threads

R = TypeVar("R")

CONNECT_SECONDS = 5
START_SECONDS = 120
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def workers(runtime: RuntimeConfig) -> Iterator[None]:
    """Let the workers that a config asks for run the shards of the block's steps.

    Raises:
        ConfigError: Dask is not installed, or the cluster does not answer, or its workers do not
            see the store or have another vaesc.
    """
    if runtime.runner == "threads":
        yield
        return
    with crew_of(runtime) as crew, running(crew):
        yield


@contextmanager
def crew_of(runtime: RuntimeConfig) -> Iterator[Crew]:
    """Provide a Dask cluster for the time of the block."""
    if missing := [name for name in ("distributed", "prefect_dask") if find_spec(name) is None]:
        raise ConfigError(
            f"runtime.runner={runtime.runner} needs {' and '.join(missing)}: "
            'pip install "vaesc[dask]"'
        )
    crew = Crew(runtime)
    try:
        if crew.remote:
            # What cannot be reached is said before anything is computed.
            require_api(crew.address(), runtime.runner)
        yield crew
    finally:
        crew.close()


def runtime_of(runner: str, n_workers: int | None) -> RuntimeConfig:
    """Return the settings of somebody who has two options instead of a config.

    Raises:
        ConfigError: One of them breaks its rule.
    """
    try:
        return RuntimeConfig(runner=runner, workers=n_workers or 0)
    except ValueError as error:
        raise ConfigError(str(error)) from error


_BODY: ContextVar[Callable[[], None]] = ContextVar("vaesc_body_of_flow")


@flow(name="on-workers", flow_run_name="{what}", persist_result=False)
def on_workers(what: str) -> None:
    """Do what :meth:`Crew.run` was given, which is no parameter.

    Prefect sends each task its flow, with its parameters and all that the function names: had it
    a model for a parameter, every shard would. Hence a function that names one other.
    """
    _do_body()


def _do_body() -> None:
    _BODY.get()()


class Crew:
    """The workers of one Dask cluster; a runner of shards."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._setting, self.n_workers = runtime.runner, runtime.workers or resolve_threads(None)
        self.remote = runtime.runner.partition("://")[2]
        self._cluster: Any = None
        self._address = ""

    def address(self) -> str:
        """Return the scheduler's address; the first call starts the cluster and checks it."""
        if not self._address:
            address = f"tcp://{self.remote}" if self.remote else self._started()
            self._check(address)
            self._address = address
        return self._address

    def map(self, shards: Sequence[Shard], then: Then) -> None:
        """Compute shards on the workers, as tasks of a flow; see :class:`vaesc.shards.Runner`.

        Raises:
            VaescError: What a shard raised, or that its worker was lost again and again.
        """
        if not shards:
            return
        from distributed.scheduler import KilledWorker

        def submit_all() -> None:
            source = digest_of_source()
            started = [run_shard.submit(shard.to_json(), source) for shard in shards]
            for shard, future in zip(shards, started, strict=True):
                try:
                    summary = future.result()
                except KilledWorker as error:
                    raise VaescError(
                        f"the worker of shard {shard.name} was lost {error.allowed_failures + 1} "
                        "times: perhaps its machine lacks memory; use fewer workers or smaller "
                        "blocks (shards that are done are kept, and the next run goes on from "
                        "them)"
                    ) from error
                if not (shard.part / NOTE).is_file():
                    raise VaescError(_UNSEEN.format(who="a worker", folder=shard.part.parent))
                then(shard, summary)

        self.run(f"{len(shards)}-shards-of-{shards[0].name.split()[0]}", submit_all)

    def run(self, name: str, body: Callable[[], R]) -> R:
        """Run `body` as a flow whose tasks the workers run."""
        from prefect_dask import DaskTaskRunner

        runner: TaskRunner[Any] = DaskTaskRunner(address=self.address())
        found: list[R] = []
        token = _BODY.set(lambda: found.append(body()))
        try:
            on_workers.with_options(task_runner=runner)(name)
        finally:
            _BODY.reset(token)
        return found[0]

    def close(self) -> None:
        """End a cluster that was started here."""
        if self._cluster is not None:
            with suppress(TimeoutError):
                self._cluster.close(timeout=15)
            self._cluster = None

    def _started(self) -> str:
        from distributed import LocalCluster

        # Memory is the machine's business: Dask would end a worker at a share of its own.
        self._cluster = LocalCluster(
            n_workers=self.n_workers, threads_per_worker=1, processes=True,
            dashboard_address="127.0.0.1:0", memory_limit=0, env=dict.fromkeys(_ONE_THREAD, "1"),
        )  # fmt: skip
        return str(self._cluster.scheduler_address)

    def _check(self, address: str) -> None:
        """Refuse a cluster that does not answer, or whose workers cannot do our work."""
        from distributed import Client

        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"runtime.runner={self._setting}: no Dask scheduler answers at {self.remote} "
                "within 5 s; start one (`dask scheduler`) or correct the address"
            ) from error
        with client, scratch("seen") as folder:
            (folder / "seen").touch()
            try:
                client.wait_for_workers(1 if self.remote else self.n_workers, START_SECONDS)
            except TimeoutError as error:
                raise ConfigError(
                    f"runtime.runner={self._setting}: the scheduler has no worker "
                    f"({START_SECONDS} s); start some (`dask worker {self.remote}`)"
                ) from error
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = client.run(facts_of_worker, str(folder / "seen"), on_error="return")
            _require_alike(answers, folder)


_UNSEEN = (
    "{who} does not see what this process writes to {folder}: mount one file system there, for "
    "this run and all of its workers (on Kubernetes one ReadWriteMany claim, see docs/scale.md), "
    "or set runtime.runner=threads"
)


def _require_alike(answers: Mapping[str, Any], folder: Path) -> None:
    for worker, facts in sorted(answers.items()):
        if not isinstance(facts, dict):
            raise ConfigError(
                f"the worker {worker} cannot use vaesc ({facts}); install vaesc[dask] "
                f"{__version__} there"
            )
        if facts["source"] != digest_of_source():
            raise ConfigError(_UNLIKE.format(worker=f"the worker {worker}", **facts))
        if not facts["sees"]:
            raise ConfigError(_UNSEEN.format(who=f"the worker {worker}", folder=home()))


_UNLIKE = (
    "{worker} has another vaesc (version {version}, source {source:.12}) than this process: "
    "install the same one on every machine, and restart the workers"
)


def facts_of_worker(seen: str) -> dict[str, Any]:
    """Return, in a worker, which vaesc it has, and whether it sees a file of ours."""
    return {
        "version": __version__, "source": _own_source(), "sees": Path(seen).exists(),
        "pid": os.getpid(),
    }  # fmt: skip


@cache
def _own_source() -> str:
    """Return the source of the first call: later edits are not what is loaded."""
    return digest_of_source()


@task(
    name="shard", task_run_name="{shard[name]}", persist_result=False, cache_policy=NO_CACHE,
)  # fmt: skip
def run_shard(shard: dict[str, Any], source: str) -> Summary:
    """Compute one shard, in a worker.

    Raises:
        ConfigError: This worker came late, and has another vaesc.
        VaescError: What the shard's function raised.
    """
    return computed_alike(shard, source)


def computed_alike(shard: Mapping[str, Any], source: str) -> Summary:
    """Compute a shard if this process has the same vaesc as the one that asks."""
    if _own_source() != source:
        facts = {"version": __version__, "source": _own_source()}
        raise ConfigError(_UNLIKE.format(worker="a worker", **facts))
    return compute(Shard.from_json(shard))
