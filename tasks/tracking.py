"""One MLflow run per pipeline run, one nested run per step, whether computed or cached.

The parent run of the flow is found through a context variable and never passed to a task, so that
no cache key can depend on it. A cached step has its nested run too: its metrics and its history
are read from the artifact and logged again, with the tag ``vaesc.cached_from`` that names the run
which computed them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.exceptions import ExternalSignal, MissingContextError
from prefect.logging import get_run_logger

from tasks.logs import ProgressReporter
from vaesc.config import PipelineConfig, config_digest, flat_settings, home, settings
from vaesc.errors import RegistryError, VaescError, machine_told, require_memory
from vaesc.progress import Listener
from vaesc.records import (
    Applied,
    Dataset,
    Evaluation,
    Latents,
    ModelVersion,
    Record,
    Refined,
    TrainedVAE,
)
from vaesc.registry import rescue
from vaesc.registry.mutex import sweep_locks
from vaesc.registry.recorded import CONFIG
from vaesc.registry.system import device_tags
from vaesc.registry.tracking import HEALTH_TAG, Tracking, now
from vaesc.registry.tracking import connect as connect_tracking
from vaesc.scratch import sweep
from vaesc.store import Store, read_artifact

PARENT_RUN = "VAESC_PARENT_RUN"
"""Environment variable: the MLflow run in which this process's pipeline run is nested."""
LOG_EPOCHS_EVERY_SECONDS = 5.0
SEND_EPOCHS_EVERY_SECONDS = 2.0
_LONGEST_TAG = 4000
_MADE_BY_TORCH = (TrainedVAE, Latents, Refined, Evaluation, Applied)
"""Records of what is computed on the device that the config names."""
_CURRENT: ContextVar[PipelineRun] = ContextVar("vaesc_pipeline_run")


class PipelineRun:
    """The parent MLflow run of one flow run, and what its steps have reported so far."""

    def __init__(
        self, config: PipelineConfig, tracking: Tracking, run_id: str, *, candidate: bool = False
    ) -> None:
        self.config, self.tracking, self.run_id = config, tracking, run_id
        self.candidate = candidate
        self.flow_run_id = flow_run_id()
        self.steps: list[dict[str, Any]] = []
        self.records: dict[str, Record] = {}
        self.metrics: dict[str, float] = {}
        self.health: list[str] = []
        """What was not as it should be in any step, mended or not: one sentence each."""
        self.started = time.perf_counter()
        self._open: dict[str, str] = {}

    @contextmanager
    def nested(self, step: str) -> Iterator[StepRun]:
        """Open the nested MLflow run of a step that is about to be computed.

        It stays open on success: :meth:`record` adds the metrics and ends it. A retried step opens
        a new one; the failed attempt's is ended as FAILED.
        """
        run_id = self._start_nested(step)
        reporter = ProgressReporter(step, _logger())
        heard = StepRun(run_id, self.tracking, reporter)
        try:
            with reporter.shown():
                yield heard
            heard.flush()
        except BaseException as error:
            if isinstance(error, Exception):  # an interruption waits for no server
                with suppress(Exception):  # the step's own error is the one to raise
                    heard.flush()
            self.tracking.finish(run_id, status_of(error))
            self._open.pop(step)
            raise

    def record(self, step: str, record: Record, *, cached: bool, seconds: float) -> None:
        """Log the outcome of a step to its nested run and to the parent, and remember it."""
        run_id = self._open.get(step) or self._start_nested(step)
        metrics = self._log_outcome(run_id, record, cached=cached)
        self.tracking.set_tags(run_id, {"vaesc.seconds": f"{seconds:.3f}"})
        self.tracking.finish(run_id, "FINISHED")
        self._open.pop(step)
        self.tracking.log_metrics(self.run_id, metrics, step=0)
        self.metrics.update(metrics)
        self.records[step] = record
        self.steps.append(
            {
                "name": step,
                "state": "cached" if cached else "computed",
                "seconds": round(seconds, 3),
                "digest": record.digest,
            }
        )

    def unfinished(self) -> list[str]:
        """Return the nested runs that nobody has ended."""
        return list(self._open.values())

    def _start_nested(self, step: str) -> str:
        run_id = self.tracking.start_run(
            step,
            parent=self.run_id,
            tags={"vaesc.step": step, "prefect.flow_run_id": self.flow_run_id},
            params=_params(self.config, step),
        )
        self._open[step] = run_id
        return run_id

    def _log_outcome(self, run_id: str, record: Record, *, cached: bool) -> dict[str, float]:
        tags = {"vaesc.digest": record.digest, "vaesc.content": record.content}
        if cached:
            tags["vaesc.cached_from"] = record.run_id
        elif isinstance(record, _MADE_BY_TORCH):
            tags |= device_tags(self.config.runtime.device)
        self.tracking.set_tags(run_id, tags)
        if isinstance(record, ModelVersion):
            return {}
        folder = Path(record.uri)
        artifact = read_artifact(folder, files=False)
        self.tell(artifact.summary.get("health", ()), run_id)
        metrics = {k: float(v) for k, v in artifact.summary.get("metrics", {}).items()}
        self.tracking.log_metrics(run_id, metrics, step=0)
        if cached:
            self.tracking.log_history(run_id, enumerate(_history(folder), start=1))
        if isinstance(record, Dataset):
            known = {k: artifact.summary[k] for k in ("licence", "sha256")}
            for run in (run_id, self.run_id):
                self.tracking.log_dataset(run, record, known)
        return metrics

    def tell(self, troubles: Sequence[str], run_id: str = "") -> None:
        """Put what was not sound where it is looked for: on the run, and on that of the step."""
        if not troubles:
            return
        self.health += troubles
        for run, found in ((run_id, troubles), (self.run_id, self.health)):
            if run:
                self.tracking.set_tags(run, {HEALTH_TAG: "\n".join(found)[:_LONGEST_TAG]})


class StepRun(Listener):
    """The nested MLflow run of a step that is being computed; hears of its progress and epochs."""

    def __init__(self, run_id: str, tracking: Tracking, reporter: ProgressReporter) -> None:
        self.id, self._tracking, self._reporter = run_id, tracking, reporter
        self._said = self._sent = -LOG_EPOCHS_EVERY_SECONDS
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._times: list[int] = []

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Show progress, if there is memory to go on with."""
        require_memory()
        self._reporter(done, total, **figures)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics to MLflow, all of them, and to the log, one in five seconds.

        A request to MLflow takes some ten milliseconds: quick epochs wait for one another.
        """
        require_memory()
        self._waiting.append((epoch, dict(metrics)))
        self._times.append(now())
        if time.monotonic() - self._sent >= SEND_EPOCHS_EVERY_SECONDS:
            try:
                self.flush()
            except RegistryError as error:  # no reason to lose a training: they wait on
                self._sent = time.monotonic()
                _logger().warning("metrics of %d epochs wait: %s", len(self._waiting), error)
        if time.monotonic() - self._said < LOG_EPOCHS_EVERY_SECONDS:
            return
        self._said = time.monotonic()
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        _logger().info("epoch %d  %s", epoch, text)

    def flush(self) -> None:
        """Send the epochs that wait."""
        if self._waiting:
            self._tracking.log_history(self.id, self._waiting, self._times)
        self._waiting, self._times, self._sent = [], [], time.monotonic()


@contextmanager
def pipeline_run(
    config: PipelineConfig,
    *,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    candidate: bool = False,
) -> Iterator[PipelineRun]:
    """Open the parent MLflow run of the current flow run, and end it with the flow.

    Args:
        config: The run's config.
        name: Its name; default: preset and the beginning of the config's digest.
        tags: More tags.
        candidate: Whether the gate decides on the model that it registers.
    """
    tracking = connect_tracking(config.registry.experiment)
    tracking.close_stale_runs()
    sweep_locks(tracking)
    for folder in (Store().root / "tmp", home() / "tmp"):
        sweep(folder)
    every = {
        "vaesc.preset": config.preset,
        "vaesc.config_digest": config_digest(config),
        "prefect.flow_run_id": flow_run_id(),
        **(tags or {}),
    }
    run_id = tracking.start_run(
        name or f"{config.preset}-{config_digest(config)[:8]}",
        parent=os.environ.get(PARENT_RUN), tags=every, params=dict(flat_settings(config)),
    )  # fmt: skip
    run = PipelineRun(config, tracking, run_id, candidate=candidate)
    token = _CURRENT.set(run)
    try:
        run.tell(rescue.told())
        tracking.log_json(run_id, settings(config), CONFIG)
        with machine_told():
            yield run
    except BaseException as error:
        end_badly(tracking, run.run_id, error, nested=run.unfinished())
        raise
    else:
        tracking.finish(run.run_id, "FINISHED")
    finally:
        _CURRENT.reset(token)
        rescue.keep_copy()


def end_badly(
    tracking: Tracking, run_id: str, error: BaseException, nested: Sequence[str] = ()
) -> None:
    """Note in MLflow why a run ended; what it says of that must not hide the error itself."""
    what = str(error) if isinstance(error, VaescError) else repr(error)
    try:
        tracking.set_tags(run_id, {"vaesc.error": what[:_LONGEST_TAG]})
        for each in (*nested, run_id):
            tracking.finish(each, status_of(error))
    except RegistryError as refusal:
        _logger().warning("MLflow does not know that run %s has ended: %s", run_id, refusal)


def current() -> PipelineRun:
    """Return the run that the calling task belongs to.

    Raises:
        RuntimeError: A step was called outside a flow that opened one.
    """
    try:
        return _CURRENT.get()
    except LookupError:
        raise RuntimeError("a step runs inside `with pipeline_run(config):` only") from None


def _params(config: PipelineConfig, step: str) -> dict[str, Any]:
    """Return the settings that concern `step`."""
    sections = {
        "ingest": ("dataset",), "train": ("vae", "training", "window_mib"),
        "extract": ("runtime",), "learn": ("dictionary", "window_mib"),
        "refine": ("refine", "dictionary", "evaluation", "window_mib"),
        "evaluate": ("evaluation", "dictionary", "window_mib"),
        "generation": ("generation", "dictionary", "window_mib"),
        "register": ("registry",),
    }.get(step, (step, "dictionary"))  # fmt: skip
    return {k: v for k, v in flat_settings(config) if k.split(".")[0] in ("seed", *sections)}


def status_of(error: BaseException) -> str:
    """Return how MLflow is to call the end of a run: somebody's wish, or a failure."""
    return "KILLED" if isinstance(error, (KeyboardInterrupt, ExternalSignal)) else "FAILED"


def _history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.json"
    return json.loads(path.read_text()) if path.exists() else []


def flow_run_id() -> str:
    """Return the id of the Prefect flow run that is going on; empty outside one."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else ""


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
