"""Runs in MLflow: opened, filled and ended by an explicit run id.

One :class:`Tracking` serves any number of threads. Metrics go in batches of at most a thousand:
one round trip an epoch, where single calls manage a few dozen a second.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.errors import RegistryError
from vaesc.processes import host_name, process_from_json
from vaesc.records import Dataset
from vaesc.registry.connection import (
    artifact_root,
    open_client,
    open_home_client,
    registry_uri,
    tracking_uri,
)
from vaesc.registry.entries import (
    HOST_TAG,
    PROCESS_TAG,
    dataset_entity,
    origin_tags,
    param_text,
)
from vaesc.registry.failures import AbsentError, explained, shown
from vaesc.registry.probing import sqlite_path
from vaesc.registry.rescue import own_database, rescue
from vaesc.registry.system import git_tags, requirements, system_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Tracking", "connect", "tracking_uri"]

logger = logging.getLogger(__name__)

PARENT_TAG = "mlflow.parentRunId"
HEALTH_TAG = "vaesc.health"
"""Tag of a run in which something was not as it should be, mended or not: a sentence a line."""
_ALREADY = re.compile("UNIQUE constraint failed|duplicate key value", re.IGNORECASE)
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_PAGE = 1000


def connect(experiment: str = "vaesc", *, create: bool = True) -> Tracking:
    """Open the MLflow in use: ``$MLFLOW_TRACKING_URI``, else a SQLite file in the home.

    Args:
        experiment: The experiment that gets the runs; created with the first run.
        create: Create a SQLite database that is not there yet; False for whoever only looks.

    Raises:
        RegistryError: It cannot be reached, is damaged, or is not there and `create` is False.
    """
    if own_database() in (sqlite_path(tracking_uri()), sqlite_path(registry_uri())):
        rescue(thorough=create)
    client, uri = open_client(create=create)
    return Tracking(client, uri, experiment)


def every_tracking() -> list[Tracking]:
    """Return all that may know of this home's artifacts: the MLflow in use, and the home's own.

    Who points at a server today may have worked without one before. What is not there is left out.

    Raises:
        RegistryError: One that is there cannot be reached, or is damaged.
    """
    found = []
    with suppress(AbsentError):
        found.append(connect(create=False))
    rescue(thorough=False)
    if own := open_home_client():
        found.append(Tracking(*own, "vaesc"))
    return found


class Tracking:
    """The runs of one experiment.

    Args:
        client: How MLflow is asked.
        uri: Which MLflow that is.
        experiment: Name of the experiment.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment: str) -> None:
        self.client, self.uri, self.experiment = client, uri, experiment

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Turn MLflow's errors into one sentence that says what cannot be done."""
        registry = registry_uri()
        where = self.uri if registry == self.uri else f"{self.uri} (models: {registry})"
        return explained(where, doing)

    @functools.cached_property
    def experiment_id(self) -> str:
        """Id of the experiment, which is created if missing.

        Raises:
            RegistryError: It was deleted, or cannot be created.
        """
        with self.explained(f"open the experiment {self.experiment!r}"):
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                return self._create_experiment()
        if found.lifecycle_stage != "active":
            raise RegistryError(
                f"the experiment {self.experiment!r} at {shown(self.uri)} was deleted; "
                "restore it, or name another with --set registry.experiment=NAME"
            )
        return str(found.experiment_id)

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        device: str = "",
    ) -> str:
        """Open a run, with who, where and which code as tags.

        A run without `parent` also gets the versions of all installed packages as an artifact.

        Args:
            name: The run's name.
            parent: Id of the run it is nested in.
            tags: More tags, such as ``vaesc.step``.
            params: Its parameters, see :meth:`log_params`.
            device: The device torch computes on, if it is known.

        Returns:
            The run's id.
        """
        nesting = {PARENT_TAG: parent} if parent else {}
        every = {**origin_tags(), **system_tags(device), **git_tags(), **(tags or {}), **nesting}
        with self.explained(f"open the run {name!r}"):
            run = self.client.create_run(
                self.experiment_id, start_time=now(), run_name=name,
                tags={key: str(value) for key, value in every.items()},
            )  # fmt: skip
            run_id = str(run.info.run_id)
            if parent is None:
                self.client.log_text(run_id, requirements(), "system/requirements.txt")
        self.log_params(run_id, params or {})
        return run_id

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int = 0,
        *,
        model_id: str | None = None,
    ) -> None:
        """Log metrics of one step (an epoch, or 0), all with the same time.

        An infinite value is logged as NaN: MLflow would turn it into 1.8e308, a plausible number.

        Args:
            run_id: The run.
            metrics: Values by key, ``split/metric`` with an optional ``_kN``.
            step: The epoch they belong to, or 0.
            model_id: The logged model they are figures of.
        """
        self._log([(step, metrics)], run_id, model_id)

    def log_history(
        self,
        run_id: str,
        history: Iterable[tuple[int, Mapping[str, float]]],
        times: Iterable[int] | None = None,
    ) -> None:
        """Log the metrics of many epochs as :meth:`log_metrics` would, in few requests.

        Args:
            run_id: The run.
            history: Pairs of an epoch and its metrics.
            times: When each was measured, in milliseconds since 1970; default: now.
        """
        self._log(history, run_id, None, times)

    def _log(
        self,
        history: Iterable[tuple[int, Mapping[str, float]]],
        run_id: str,
        model_id: str | None,
        times: Iterable[int] | None = None,
    ) -> None:
        from mlflow.entities import Metric

        moments = itertools.repeat(now()) if times is None else times
        rows = [
            Metric(
                key, float(value) if math.isfinite(value) else math.nan, moment, step, model_id,
                run_id=run_id,
            )
            for (step, metrics), moment in zip(history, moments, strict=False)
            for key, value in metrics.items()
        ]  # fmt: skip
        with self.explained(f"log metrics to run {run_id}"):
            for batch in _batches(rows, _METRICS_PER_BATCH):
                self.client.log_batch(run_id, metrics=batch)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log settings; text stays as it is, anything else becomes JSON.

        A value longer than MLflow takes is cut, and ends with its SHA-256, so that two long values
        that differ stay different.
        """
        from mlflow.entities import Param

        rows = [Param(key, param_text(value)) for key, value in params.items()]
        with self.explained(f"log parameters to run {run_id}"):
            for batch in _batches(rows, _PARAMS_PER_BATCH):
                self.client.log_batch(run_id, params=batch)

    def tag(self, run_id: str, name: str) -> str:
        """Return a tag of a run, empty if it has none of that name."""
        with self.explained(f"look at run {run_id}"):
            return str(self.client.get_run(run_id).data.tags.get(name, ""))

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags of a run; a tag that is there already gets the new value."""
        from mlflow.entities import RunTag

        rows = [RunTag(key, str(value)) for key, value in tags.items()]
        with self.explained(f"tag run {run_id}"):
            for batch in _batches(rows, _PARAMS_PER_BATCH):
                self.client.log_batch(run_id, tags=batch)

    def log_artifacts(self, run_id: str, path: Path, to: str | None = None) -> None:
        """Copy a file, or everything in a folder, to the run's artifacts.

        Args:
            run_id: The run.
            path: The file or folder.
            to: Folder among the run's artifacts; default: their root.
        """
        with self.explained(f"store {path.name} with run {run_id}"):
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), to)
            else:
                self.client.log_artifact(run_id, str(path), to)

    def log_json(self, run_id: str, value: Any, name: str) -> None:  # noqa: ANN401
        """Store a JSON value as the file `name` among the run's artifacts."""
        with self.explained(f"store {name} with run {run_id}"):
            self.client.log_text(run_id, json.dumps(value, indent=1, sort_keys=True), name)

    def log_dataset(
        self,
        run_id: str,
        record: Dataset,
        attrs: Mapping[str, Any] | None = None,
        context: str = "training",
    ) -> None:
        """Name the data a run worked on: source, shape, counts and digests, not the data.

        Args:
            run_id: The run.
            record: The dataset.
            attrs: More that is known of it, as JSON values: licence, SHA-256 per split.
            context: What the run used it for.
        """
        from mlflow.entities import DatasetInput, InputTag

        tags = {
            "mlflow.data.context": context,
            "vaesc.digest": record.digest,
            "vaesc.content": record.content,
        }
        entry = DatasetInput(
            dataset_entity(record, attrs or {}), [InputTag(k, v) for k, v in tags.items()]
        )
        for last in (False, False, True):
            try:
                with self.explained(f"log the dataset of run {run_id}"):
                    self.client.log_inputs(run_id, [entry])
                return
            except RegistryError as error:
                # MLflow keeps one row for all runs of a dataset: of several that begin at once one
                # inserts it, and the others find it there when they ask again.
                if last or not _ALREADY.search(str(error)):
                    raise
                time.sleep(0.1)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with self.explained(f"end run {run_id}"):
            self.client.set_terminated(run_id, status, now())

    def close_stale_runs(self, *, everywhere: bool = False) -> list[str]:
        """End, as ``KILLED``, the runs whose process on this machine is dead.

        Runs of other machines, of living processes and of processes that cannot be seen from here
        (another container's) are left alone.

        Args:
            everywhere: In all experiments, not only in this one.

        Returns:
            The ids of the runs it ended.
        """
        closed = []
        open_here = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host_name()}'"
        # Taken as a list first: ending runs would shift the pages of the search.
        for run in list(self.find_runs(open_here, everywhere=everywhere)):
            process = process_from_json(run.data.tags.get(PROCESS_TAG, ""))
            if process is not None and process.is_dead():
                self.finish(run.info.run_id, "KILLED")
                closed.append(str(run.info.run_id))
        if closed:
            logger.info("marked %d runs of dead processes as killed", len(closed))
        return closed

    def find_runs(self, condition: str, *, everywhere: bool = False) -> Iterator[Any]:
        """Yield the experiment's runs that meet an MLflow filter, newest first.

        Args:
            condition: The filter.
            everywhere: Yield those of all experiments, whoever made them.
        """
        experiments = self._experiments() if everywhere else [self.experiment_id]
        token = None
        while experiments:
            with self.explained("search its runs"):
                page = self.client.search_runs(
                    experiments, condition, max_results=_PAGE, page_token=token
                )
            yield from page
            if not (token := page.token):
                return

    def _experiments(self) -> list[str]:
        found: list[str] = []
        token = None
        while True:
            with self.explained("list its experiments"):
                page = self.client.search_experiments(max_results=_PAGE, page_token=token)
            found += [str(each.experiment_id) for each in page]
            if not (token := page.token):
                return found

    def run_url(self, run_id: str) -> str | None:
        """Return the address of a run's page; None if no server shows it."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        return f"{shown(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def _create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.create_experiment(self.experiment, artifact_root(self.uri)))
        except MlflowException:
            # Another process was faster; anything else happens again, and is reported.
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)


def _batches(rows: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(rows[start : start + size]) for start in range(0, len(rows), size))


def now() -> int:
    """Return the time as MLflow counts it, in milliseconds."""
    return time.time_ns() // 1_000_000
