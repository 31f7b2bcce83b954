"""A bundle becomes one version of the registered model: loadable, or not there at all.

The order is what makes it safe. MLflow registers a model whose upload was cut off as readily as a
whole one, so the version is created last: the files are uploaded, fetched back, loaded the way any
user of MLflow would, and made to reconstruct a few images like the model they came from.

Registering is idempotent: a version carries its model's digest, and one that is there and whole is
returned as it is. The first version becomes ``champion``, a later one ``challenger``; a version
that replaces a damaged one of the same model takes over its aliases.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import vaesc
from vaesc.config import home
from vaesc.errors import RegistryError
from vaesc.records import Dataset, ModelVersion, Record
from vaesc.registry.card import model_card, opening
from vaesc.registry.card_facts import Facts, facts_of
from vaesc.registry.entries import user_name
from vaesc.registry.failures import AbsentError
from vaesc.registry.files import (
    BUNDLE,
    DIGEST_TAG,
    damage_of,
    model_digest,
    seems_whole,
    shown_version,
)
from vaesc.registry.history import (
    CHALLENGER,
    CHAMPION,
    Kind,
    make_move,
    moves,
    next_move,
    write_move,
)
from vaesc.registry.lookup import METRICS_TAG, aliases_of, find_versions
from vaesc.registry.mutex import promoting
from vaesc.registry.packing import Images, example_images, pack, ramp
from vaesc.registry.system import git_tags
from vaesc.registry.tracking import PARENT_TAG, Tracking, connect
from vaesc.scratch import scratch

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

    from vaesc.bundle import SparseVAE

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-5
"""Largest difference of a pixel in [0, 1] between two loads of one model; a GPU's sums vary."""


def register(
    bundle: Path,
    tracking: Tracking | None = None,
    *,
    run_id: str,
    name: str = "vaesc",
    records: Mapping[str, Record] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    example: Images | None = None,
    candidate: bool = False,
) -> ModelVersion:
    """Register a saved model as a version of `name`, unless the same model is registered already.

    Args:
        bundle: Folder that :meth:`vaesc.bundle.SparseVAE.save` wrote.
        tracking: Which MLflow; default: the one in use.
        run_id: The MLflow run on whose behalf this is done.
        name: Name of the registered model.
        records: What the steps made, by step: their digests and runs become tags.
        tags: More tags of the version.
        metrics: The model's figures, kept with the version.
        example: A few images in the range of the model's dataset, shape (n, *shape), on which the
            registered model is checked; default: test images of ``records["ingest"]``.
        candidate: Whether the gate decides on it: then it is not made champion, also if it is the
            first version.

    Returns:
        The version's record; its digest and content are those of the model.

    Raises:
        RegistryError: MLflow cannot be reached, or what it stored is not the model.
    """
    from filelock import FileLock

    tracking = tracking or connect()
    digest = model_digest(bundle)
    lock = home() / "locks" / f"register-{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        same = find_versions(tracking, name, digest)
        found = next((v for v in same if _is_whole(tracking, v, digest)), None)
        if found is None:
            every = {**_version_tags(records or {}, metrics or {}), **(tags or {})}
            facts = facts_of(records or {})
            draft = _Draft(tracking, name, run_id, {**every, DIGEST_TAG: digest}, facts)
            found = draft.register(bundle, metrics or {}, example_images(example, records or {}))
        number = int(found.version)
        _set_aliases(tracking, name, number, {int(v.version) for v in same} - {number}, candidate)
    uri = f"models:/{name}/{number}"
    tracking.set_tags(run_id, {DIGEST_TAG: digest, "vaesc.model": uri})
    return ModelVersion(
        uri=uri, digest=digest, content=digest, run_id=found.run_id or run_id, name=name,
        version=number,
    )  # fmt: skip


def exists(record: ModelVersion) -> bool:
    """Tell whether a version is registered and its files are there, without loading the model.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    try:
        tracking = connect(create=False)
        with tracking.explained(f"look up {record.uri}"):
            found = tracking.client.get_model_version(record.name, str(record.version))
        tagged = found.tags.get(DIGEST_TAG) == record.content
        return tagged and seems_whole(tracking, found, record.content)
    except AbsentError:
        return False


class _Draft:
    """One attempt at a version: a logged model that is checked before it gets a number."""

    def __init__(
        self,
        tracking: Tracking,
        name: str,
        run_id: str,
        tags: Mapping[str, str],
        facts: Facts | None = None,
    ) -> None:
        self.tracking, self.client = tracking, tracking.client
        self.facts = facts or facts_of({})
        self.name, self.run_id, self.tags = name, run_id, dict(tags)

    @functools.cached_property
    def parent(self) -> str:
        """Id of the run that the registering one is nested in: its page is the one people open."""
        with self.tracking.explained(f"look up run {self.run_id}"):
            tags = self.client.get_run(self.run_id).data.tags
        return str(tags.get(PARENT_TAG, ""))

    def register(
        self, bundle: Path, metrics: Mapping[str, float], example: Images | None
    ) -> MlflowVersion:
        """Upload the bundle, check what arrived, and create the version."""
        from vaesc.bundle import SparseVAE

        model = SparseVAE.load(bundle)
        images = ramp(model) if example is None else example
        logged = self._open()
        try:
            self._upload(logged, bundle, model, images)
            self._check(logged, model.reconstruct(images), images)
        except BaseException:
            self._close(logged, "FAILED")
            raise
        self._close(logged, "READY")
        self._log_metrics(logged, metrics)
        found = self._create_version(logged, opening(model))
        return self._describe(found, model)

    def _open(self) -> LoggedModel:
        with self.tracking.explained("log a model"):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            return self.client.create_logged_model(
                experiment, name=self.name.replace(".", "_"),  # MLflow takes no dot here
                source_run_id=self.run_id, model_type="SparseVAE",
                tags={key: value for key, value in self.tags.items() if key != METRICS_TAG},
            )  # fmt: skip

    def _upload(self, logged: LoggedModel, bundle: Path, model: SparseVAE, images: Images) -> None:
        with scratch("registration") as folder:
            packed = folder / "model"
            shutil.copytree(bundle, folder / BUNDLE)
            pack(packed, folder / BUNDLE, model, images, logged=logged, run_id=self.run_id)
            with self.tracking.explained(f"store the files of model {self.name!r}"):
                self.client.log_model_artifacts(logged.model_id, str(packed))

    def _check(self, logged: LoggedModel, expected: Images, images: Images) -> None:
        """Fetch the model back and let MLflow load it: it must reconstruct what it did before."""
        from mlflow import pyfunc
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with scratch("registration") as folder:
            with self.tracking.explained(f"fetch model {self.name!r} back"):
                copy = download_artifacts(
                    logged.artifact_location, dst_path=str(folder), tracking_uri=self.tracking.uri
                )
            try:
                got = pyfunc.load_model(copy, suppress_warnings=True).predict(images)
            except (MlflowException, OSError, ImportError) as error:
                raise RegistryError(
                    f"MLflow cannot load the model {self.name!r}, so it was not registered: "
                    f"{error}"
                ) from error
        if not np.allclose(got, expected, rtol=0, atol=_TOLERANCE):
            raise RegistryError(
                f"the model {self.name!r} reconstructs differently once MLflow has stored it (by "
                f"{np.abs(got - expected).max():.2g}); it was not registered"
            )

    def _close(self, logged: LoggedModel, status: str) -> None:
        with self.tracking.explained(f"mark model {self.name!r} as {status}"):
            self.client.finalize_logged_model(logged.model_id, status)
            seen = self.client.get_logged_model(logged.model_id).status
        if str(getattr(seen, "value", seen)) != status:
            raise RegistryError(f"the model {self.name!r} is {seen} in MLflow, not {status}")

    def _log_metrics(self, logged: LoggedModel, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import LoggedModelOutput

        with self.tracking.explained(f"link model {self.name!r} with run {self.run_id}"):
            for run_id in filter(None, (self.run_id, self.parent)):
                self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self.tracking.log_metrics(self.run_id, metrics, model_id=logged.model_id)

    def _create_version(self, logged: LoggedModel, description: str) -> MlflowVersion:
        from mlflow.exceptions import MlflowException

        with self.tracking.explained(f"register a version of {self.name!r}"):
            try:
                self.client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            return self.client.create_model_version(
                self.name, logged.artifact_location, self.run_id, tags=self.tags,
                description=description, model_id=logged.model_id,
            )  # fmt: skip

    def _describe(self, found: MlflowVersion, model: SparseVAE) -> MlflowVersion:
        """Give a version its card, which names the number that it has only now."""
        with self.tracking.explained(f"describe {shown_version(found)}"):
            card = model_card(model, self.facts, shown_version(found), self.parent)
            return self.client.update_model_version(found.name, str(found.version), card)


def _is_whole(tracking: Tracking, found: MlflowVersion, digest: str) -> bool:
    """Check every file of a registered version."""
    wrong = damage_of(tracking, found, digest)
    if wrong:
        logger.warning("version %s of %s is damaged: %s", found.version, found.name, wrong)
    return wrong is None


def _set_aliases(
    tracking: Tracking, name: str, number: int, damaged: set[int], candidate: bool
) -> None:
    """Name a version; what named a damaged version of the same model names this one now."""
    aliases = aliases_of(tracking, name)
    wanted = {alias for alias, named in aliases.items() if named in damaged}
    champion = aliases.get(CHAMPION)
    # A champion that was deleted is not replaced by whatever comes next: somebody rolls back.
    # A move that was written down and never made (its process was killed) is none.
    been = any(move.carried_out for move in moves(tracking, name, None))
    first = champion is None and not candidate and not been
    if (first or CHAMPION in wanted) and _named(tracking, name, number, champion):
        wanted.discard(CHAMPION)
    elif not wanted and number not in aliases.values() and number == _newest(tracking, name):
        wanted.add(CHALLENGER)
    with tracking.explained(f"name version {number} of {name!r}"):
        for alias in wanted - {CHAMPION}:
            tracking.client.set_registered_model_alias(name, alias, str(number))


def _named(tracking: Tracking, name: str, number: int, champion: int | None) -> bool:
    """Name a first or a repaired champion; False if somebody else has named one meanwhile."""
    kind: Kind = "first" if champion is None else "repair"
    reason = (
        "there was no champion"
        if champion is None
        else f"the files of version {champion}, the same model, are damaged"
    )
    with promoting(tracking, name) as still_ours:
        if aliases_of(tracking, name).get(CHAMPION) != champion:
            return False
        move = next_move(tracking, name, number, champion, kind, reason, user_name())
        make_move(tracking, name, move, still_ours)
        write_move(tracking, name, replace(move, carried_out=True))
    return True


def _newest(tracking: Tracking, name: str) -> int:
    return max(int(v.version) for v in find_versions(tracking, name))


def _version_tags(records: Mapping[str, Record], metrics: Mapping[str, float]) -> dict[str, str]:
    tags = {
        "vaesc.version": vaesc.__version__,
        METRICS_TAG: json.dumps(dict(metrics)),
        **git_tags(),
    }
    for step, record in records.items():
        tags[f"vaesc.digest.{step}"] = record.digest
        tags[f"vaesc.content.{step}"] = record.content
        tags[f"vaesc.run.{step}"] = record.run_id
        if isinstance(record, Dataset):
            tags["vaesc.dataset"] = record.source
    return {key: value for key, value in tags.items() if value}
