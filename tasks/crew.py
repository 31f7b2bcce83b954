"""The workers of a Dask cluster, who compute shards as tasks of a Prefect flow.

Whoever waits here waits for somebody: where no worker is left, or no scheduler, a sentence says
so. No shard outlives the error or the interruption that gave it up, since it would write into a
folder that is cleared away meanwhile.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from tasks.worker_side import (
    computed_alike,
    facts_of_worker,
    give_up,
    own_kind,
    require_alike,
    unseen,
)
from vaesc.arithmetic import THREAD_VARIABLES
from vaesc.config import RuntimeConfig, home
from vaesc.errors import ConfigError, VaescError, machine_told
from vaesc.scratch import own_name, scratch
from vaesc.shards import NOTE, Shard, Summary, Then, let_go
from vaesc.sparse._blocks import resolve_threads

if TYPE_CHECKING:
    from distributed import Client
    from prefect.task_runners import TaskRunner

logger = logging.getLogger(__name__)

R = TypeVar("R")

CONNECT_SECONDS = 5
START_SECONDS = 120
"""How long a cluster may be without any worker, at its start and later."""
LOOK_SECONDS = 5
"""Between two looks at whether any worker is left."""
_KEPT = "a run goes on from the shards that are done"
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


@task(
    name="shard", task_run_name="{shard[name]}", persist_result=False, cache_policy=NO_CACHE,
)  # fmt: skip
def run_shard(shard: dict[str, Any], leader: dict[str, str], batch: str) -> Summary:
    """Compute one shard, in a worker; see :func:`tasks.worker_side.computed_alike`."""
    return computed_alike(shard, leader, batch)


@contextmanager
def _unkept() -> Iterator[None]:
    """Let no flow keep its result for being called in a task that keeps its own.

    Prefect asks the task, and would write what :func:`on_workers` returns, nothing, as a record.
    """
    context = TaskRunContext.get()
    with context.model_copy(update={"persist_result": False}) if context else nullcontext():
        yield


class Crew:
    """The workers of one Dask cluster; a runner of shards."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._setting, self.n_workers = runtime.runner, runtime.workers or resolve_threads(None)
        self.remote = runtime.runner.partition("://")[2]
        self._cluster: Any = None
        self._client: Any = None
        self._address = ""
        self._alone_since: float | None = None

    def address(self) -> str:
        """Return the scheduler's address; the first call starts the cluster and checks it."""
        if self._client is None:
            try:
                import distributed  # noqa: F401 - which sets its loggers to INFO

                logging.getLogger("distributed").setLevel(logging.WARNING)
                self._address = f"tcp://{self.remote}" if self.remote else self._started()
                self._client = self._connected()
                self._check()
            except BaseException:
                self.close()
                raise
        return self._address

    def map(self, shards: Sequence[Shard], then: Then) -> None:
        """Compute shards on the workers, as tasks of a flow; see :class:`vaesc.shards.Runner`.

        Raises:
            VaescError: What a shard raised, or that workers or the scheduler were lost.
        """
        if not shards:
            return
        self.address()
        self._require_fit(shards[0].part.parent)
        kind, batch = own_kind(), uuid4().hex
        started: list[Any] = []

        def submit_all() -> None:
            try:
                started.extend(run_shard.submit(s.to_json(), kind, batch) for s in shards)
                for shard, future in zip(shards, started, strict=True):
                    summary = self.result(future, f"shard {shard.name}")
                    if not (shard.part / NOTE).is_file():
                        raise VaescError(unseen("a worker", shard.part.parent))
                    then(shard, summary)
            except BaseException:
                self._give_up(started, batch)
                raise
            finally:
                self._everywhere(let_go)

        self.run(f"{len(shards)}-shards-of-{shards[0].name.split()[0]}", submit_all)

    def run(self, name: str, body: Callable[[], R]) -> R:
        """Run `body` as a flow whose tasks the workers run."""
        from prefect_dask import DaskTaskRunner

        runner: TaskRunner[Any] = DaskTaskRunner(address=self.address())
        self.require_worker()
        found: list[R] = []
        token = _BODY.set(lambda: found.append(body()))
        try:
            with _unkept():
                on_workers.with_options(task_runner=runner)(name)
        finally:
            _BODY.reset(token)
        return found[0]

    def result(self, future: Any, what: str) -> Any:  # noqa: ANN401
        """Wait for what a worker was given within :meth:`run`, and return what came of it.

        Args:
            future: What submitting it returned.
            what: What people call it.

        Raises:
            VaescError: Its workers were lost again and again; or none is left, and none came
                within :data:`START_SECONDS`; or the scheduler was lost.
        """
        from distributed import KilledWorker

        while True:
            try:
                # What the task raised is in its state, which is lost with its worker, too.
                state = future.wrapped_future.result(timeout=LOOK_SECONDS)
                break
            except TimeoutError:
                self.require_worker()
            except KilledWorker as error:
                raise VaescError(
                    f"the worker of {what} was lost {error.allowed_failures + 1} times: perhaps "
                    f"its machine lacks memory; use fewer workers or smaller blocks ({_KEPT})"
                ) from error
            except CancelledError as error:
                raise VaescError(self._lost()) from error
        return state.result()

    def close(self) -> None:
        """Leave the cluster; end one that was started here."""
        if self._client is not None:
            with suppress(TimeoutError):
                self._client.close(timeout=5)
            self._client = None
        if self._cluster is not None:
            with suppress(TimeoutError):
                self._cluster.close(timeout=15)
            self._cluster = None

    def _started(self) -> str:
        from distributed import LocalCluster

        # Memory is the machine's business: Dask would end a worker at a share of its own.
        self._cluster = LocalCluster(
            n_workers=self.n_workers, threads_per_worker=1, processes=True,
            dashboard_address="127.0.0.1:0", memory_limit=0,
            env=dict.fromkeys(THREAD_VARIABLES, "1"),
        )  # fmt: skip
        return str(self._cluster.scheduler_address)

    def _connected(self) -> Client:
        from distributed import Client

        try:
            return Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"runtime.runner={self._setting}: no Dask scheduler answers at {self.remote} "
                f"within {CONNECT_SECONDS} s; start one (`dask scheduler`) or correct the address"
            ) from error

    def _check(self) -> None:
        """Refuse a cluster without workers, or whose workers cannot do our work."""
        try:
            self._client.wait_for_workers(1 if self.remote else self.n_workers, START_SECONDS)
        except TimeoutError as error:
            raise ConfigError(f"runtime.runner={self._setting}: {self._no_start()}") from error
        with scratch("seen") as folder:
            (folder / "seen").touch()
            answers = self._everywhere(facts_of_worker, str(folder / "seen"), False)
            require_alike(answers, own_kind(computes=False), f"{home()} (VAESC_HOME)")

    def _no_start(self) -> str:
        if self.remote:
            return (
                f"the scheduler has no worker ({START_SECONDS} s); start some "
                f"(`dask worker {self.remote}`)"
            )
        return (
            f"{self.n_workers} processes did not start on this machine within {START_SECONDS} "
            "s; set a smaller runtime.workers, or runtime.runner=threads"
        )

    def _require_fit(self, folder: Path) -> None:
        """Refuse workers that do not see the folder of the parts, or would compute other bytes."""
        probe = folder / own_name("seen")
        with machine_told():
            probe.touch()
        try:
            require_alike(self._everywhere(facts_of_worker, str(probe)), own_kind(), folder)
        finally:
            probe.unlink(missing_ok=True)

    def require_worker(self) -> None:
        """Say that no worker is left, once; give up when none has come for long.

        Raises:
            VaescError: None has come within :data:`START_SECONDS`, or the scheduler was lost.
        """
        n_workers = self._answer(lambda client: len(client.scheduler_info()["workers"]))
        if n_workers is None:
            raise VaescError(self._lost())
        if n_workers:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = time.monotonic()
            logger.warning(
                "%s has no worker left: waiting %d s for another", self._setting, START_SECONDS
            )
        if time.monotonic() - self._alone_since >= START_SECONDS:
            where = f"(`dask worker {self.remote}`) " if self.remote else ""
            raise VaescError(
                f"all workers of {self._setting} were lost, and none came within {START_SECONDS} "
                f"s: start some {where}and run again ({_KEPT})"
            )

    def _lost(self) -> str:
        again = "start it and run again" if self.remote else "run again"
        return f"the scheduler of {self._setting} was lost: {again} ({_KEPT})"

    def _give_up(self, started: Sequence[Any], batch: str) -> None:
        """Cancel the shards that wait, and wait for those at work."""
        if started:
            futures = [future.wrapped_future for future in started]
            self._answer(lambda client: futures[0].client.cancel(futures))
        told = False
        while any(n for n in self._everywhere(give_up, batch).values() if isinstance(n, int)):
            if not told:
                logger.info("waiting for the shards that workers are still at work on")
            told = True
            time.sleep(0.2)

    def _everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what a function says in each worker, or why it cannot; empty without any."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers: dict[str, Any] | None = self._answer(
                lambda client: client.run(function, *arguments, on_error="return")
            )
        return answers or {}

    def _answer(self, question: Callable[[Any], R]) -> R | None:
        """Return what the scheduler answers; None once it does not."""
        from distributed.client import ClosedClientError

        if self._client.status != "running":
            return None
        try:
            return question(self._client)
        except (OSError, CancelledError, ClosedClientError) as error:
            logger.info("%s does not answer: %s", self._setting, error)
            return None
