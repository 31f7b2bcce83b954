"""What makes a function a step: cached, retried or not, timed, recorded in MLflow.

A step is called with the config and with the records it works on, by position or by name, and
returns a record. What the function itself returns is the artifact: whether this very call made it
or found it in the store (another run was faster, or Prefect's cache was lost) decides the state
that Prefect shows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from tasks import logs
from tasks.caching import RecordSerializer, StepPolicy, results_folder
from tasks.tracking import current
from vaesc.bucket_errors import AwayError
from vaesc.datasets import DownloadError
from vaesc.errors import VaescError, machine_told
from vaesc.records import Record
from vaesc.registry.failures import UnreachableError
from vaesc.steps import Step
from vaesc.store import Artifact

P = ParamSpec("P")
R = TypeVar("R", bound=Record)


class StepTask(Generic[P, R]):
    """A step as a callable: its Prefect task, and the recording of its outcome in MLflow."""

    def __init__(self, step: Step, task: Task[P, Any]) -> None:
        self.step, self.task = step, task
        functools.update_wrapper(self, task.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step, or take it from the cache, and record either.

        Raises:
            Exception: Whatever the step raised in its last attempt.
        """
        started = time.perf_counter()
        task = self.task.with_options(result_storage=results_folder())
        state: State[Any] = task(*args, **kwargs, return_state=True)
        record = cast("R", state.result())
        current().record(
            self.step.name,
            record,
            cached=state.name == "Cached",
            seconds=time.perf_counter() - started,
        )
        return record


def step_task(
    step: Step,
    record_type: type[R],
    *,
    timeout_seconds: float,
    retries: int = 0,
    retry_delay_seconds: list[float] | None = None,
) -> Callable[[Callable[P, Artifact | R | State[R]]], StepTask[P, R]]:
    """Make a function a step.

    Args:
        step: What the step depends on; its name and cache key come from there.
        record_type: The record that it returns.
        timeout_seconds: After this long the step fails.
        retries: For what touches the outside only: what is deterministic fails again.
        retry_delay_seconds: Seconds before each retry.
    """

    def decorate(function: Callable[P, Artifact | R | State[R]]) -> StepTask[P, R]:
        @functools.wraps(function)
        def body(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401
            logs.install()
            with machine_told():
                made = function(*args, **kwargs)
            if not isinstance(made, Artifact):
                return made
            record = step.recorded(made)
            return record if made.computed else Completed(name="Cached", data=record)

        task = Task(
            fn=body, name=step.name, cache_policy=StepPolicy(step=step),
            result_serializer=RecordSerializer(), persist_result=True,
            timeout_seconds=timeout_seconds, retries=retries,
            retry_delay_seconds=retry_delay_seconds or 0,
            retry_jitter_factor=0.5 if retries else None, retry_condition_fn=may_pass,
        )  # fmt: skip
        return StepTask(step, task)

    return decorate


def may_pass(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failure may pass by itself: bad settings and bad data never do.

    Prefect takes plain functions only here: any other callable would silently mean "never".
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, (DownloadError, UnreachableError, AwayError)):
        return True
    return not isinstance(error, VaescError)
