"""What MLflow holds of a finished pipeline run: enough to run it again and to compare.

Its config and the manifests of its artifacts are files of the run; a run from before they were
kept has its parameters and a content digest for each step instead. Reading writes nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.errors import RegistryError
from vaesc.registry.environment import Environment, recorded_environment
from vaesc.registry.failures import AbsentError, shown
from vaesc.registry.lookup import RUN_ID, find_version, parsed
from vaesc.registry.tracking import PARENT_TAG, Tracking, connect

if TYPE_CHECKING:
    from mlflow.entities import Run

CONFIG = "config.json"
"""Artifact of a run: every setting."""
MANIFESTS = "manifests.json"
"""Artifact of a run: for each step the manifest of what it made (:mod:`vaesc.store`)."""
_REQUIREMENTS = "system/requirements.txt"
_MAX_NESTED = 1000


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One step of a recorded run."""

    digest: str
    """Its artifact's address: the SHA-256 of what went in."""
    content: str
    """The SHA-256 of what came out."""
    manifest: Mapping[str, Any] | None
    """What went in and every file that came out; None if the run keeps none."""
    environment: Environment | None
    """In what it was computed, maybe by an earlier run; None if that is not in this MLflow."""


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A finished pipeline run, as MLflow has it."""

    run_id: str
    settings: Mapping[str, Any]
    """Its config as nested dicts."""
    config_digest: str
    commit: str
    """The git commit of the vaesc that ran; empty if it ran from no checkout."""
    steps: Mapping[str, RecordedStep]
    metrics: Mapping[str, float]
    warm_start: str
    """What it took from an earlier model; empty if it started from nothing."""


def recorded_run(ref: str, *, name: str = "vaesc") -> RecordedRun:
    """Read a pipeline run from the MLflow in use.

    Args:
        ref: The id of its MLflow run; or an alias, a version or ``models:/NAME/VERSION``, for the
            run that registered that model.
        name: The registered model, where `ref` does not name one.

    Raises:
        RegistryError: MLflow cannot be reached, there is no such run, or it is not a finished
            pipeline run; the sentence says which.
    """
    tracking = connect(create=False)
    run = _pipeline_run(tracking, ref, name)
    nested = _steps_of(tracking, run)
    if not nested:
        raise RegistryError(
            f"run {_id(run)} is not that of a pipeline: it has no steps; name a run that "
            "`vaesc run` printed"
        )
    manifests = _artifact(tracking, run, MANIFESTS)
    kept = json.loads(manifests) if manifests else {}
    environments = _Environments(tracking)
    config = _artifact(tracking, run, CONFIG)
    tags = run.data.tags
    return RecordedRun(
        run_id=_id(run),
        settings=json.loads(config) if config else _nested(run.data.params),
        config_digest=tags.get("vaesc.config_digest", ""),
        commit=tags.get("mlflow.source.git.commit", ""),
        steps={
            step: RecordedStep(
                digest=each.data.tags["vaesc.digest"], content=each.data.tags["vaesc.content"],
                manifest=kept.get(step), environment=environments.of(each),
            )
            for step, each in nested.items()
        },
        metrics=dict(run.data.metrics),
        warm_start=tags.get("vaesc.warm_start", ""),
    )  # fmt: skip


def _pipeline_run(tracking: Tracking, ref: str, name: str) -> Run:
    """Return the run that `ref` means, which must be finished and no step of another."""
    text = parsed(ref, name)[1]
    if RUN_ID.fullmatch(text):
        run = _get(tracking, text)
        if step := run.data.tags.get("vaesc.step"):
            raise RegistryError(
                f"run {_id(run)} is the step {step} of a pipeline run; reproduce that one, "
                f"{run.data.tags.get(PARENT_TAG)}"
            )
    else:
        version = find_version(tracking, ref, name)
        if not version.run_id:
            raise AbsentError(f"{ref!r} was registered by no run; name the id of a run")
        registering = _get(tracking, version.run_id)
        run = _get(tracking, registering.data.tags.get(PARENT_TAG, version.run_id))
    if run.info.status != "FINISHED":
        raise RegistryError(
            f"run {_id(run)} is {run.info.status}, not FINISHED; only a finished run says what "
            "to compare with"
        )
    return run


def _get(tracking: Tracking, run_id: str) -> Run:
    try:
        with tracking.explained(f"look up run {run_id}"):
            run: Run = tracking.client.get_run(run_id)
    except AbsentError as error:
        raise AbsentError(
            f"there is no run {run_id} in MLflow at {shown(tracking.uri)}; set VAESC_HOME or "
            "MLFLOW_TRACKING_URI to where it is"
        ) from error
    if run.info.lifecycle_stage == "deleted":
        raise AbsentError(
            f"run {run_id} was deleted; restore it first: mlflow runs restore --run-id {run_id}"
        )
    return run


def _steps_of(tracking: Tracking, run: Run) -> dict[str, Run]:
    """Return the nested run of each step that came to an end, by the step's name."""
    with tracking.explained(f"list the steps of run {_id(run)}"):
        nested = tracking.client.search_runs(
            [run.info.experiment_id], f"tags.`{PARENT_TAG}` = '{_id(run)}'",
            max_results=_MAX_NESTED,
        )  # fmt: skip
    return {
        each.data.tags["vaesc.step"]: each
        for each in reversed(nested)  # newest last: a failed attempt has no content anyway
        if "vaesc.step" in each.data.tags and "vaesc.content" in each.data.tags
    }


class _Environments:
    """In what steps were computed; a cached one by the run that its tag names."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._whole: dict[str, Environment] = {}

    def of(self, step: Run) -> Environment | None:
        """Return the environment of a step; None if the run that computed it is not here."""
        try:
            if source := step.data.tags.get("vaesc.cached_from"):
                step = _get(self._tracking, source)
            parent = step.data.tags.get(PARENT_TAG, _id(step))
            if parent not in self._whole:
                self._whole[parent] = self._of_run(parent)
        except AbsentError:
            return None
        return self._whole[parent].with_tags(step.data.tags)

    def _of_run(self, run_id: str) -> Environment:
        """Return that of a pipeline run; in a claim, its parent has the list of packages."""
        run = _get(self._tracking, run_id)
        above = run
        while (listed := _artifact(self._tracking, above, _REQUIREMENTS)) is None:
            if not (parent := above.data.tags.get(PARENT_TAG)):
                break
            above = _get(self._tracking, parent)
        return recorded_environment(run.data.tags, listed or "")


def _artifact(tracking: Tracking, run: Run, path: str) -> str | None:
    """Return the text of one of a run's files; None if it has no such file."""
    folder, _, name = path.rpartition("/")
    with (
        tracking.explained(f"fetch {path} of run {_id(run)}"),
        tempfile.TemporaryDirectory(prefix="vaesc-") as here,
    ):
        there = tracking.client.list_artifacts(_id(run), folder or None)
        if not any(Path(each.path).name == name for each in there):
            return None
        copy = tracking.client.download_artifacts(_id(run), path, here)
        return Path(copy).read_text(encoding="utf-8")


def _nested(params: Mapping[str, str]) -> dict[str, Any]:
    """Rebuild settings from parameters: text stays text, all else was written as JSON."""
    found: dict[str, Any] = {}
    for key, text in params.items():
        section, _, name = key.rpartition(".")
        place = found.setdefault(section, {}) if section else found
        try:
            place[name] = json.loads(text)
        except ValueError:
            place[name] = text
    return found


def _id(run: Run) -> str:
    return str(run.info.run_id)
