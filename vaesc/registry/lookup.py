"""From a name a person can remember to one version of a registered model.

A reference is an alias (``champion``), a version (``3``), ``latest``, an MLflow address
(``models:/vaesc/3``, ``models:/vaesc@champion``) or the id of an MLflow run. What is not there is
refused in a sentence that says what is.

Looking up creates nothing in MLflow: no database, no experiment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.errors import RegistryError
from vaesc.registry.connection import registry_uri
from vaesc.registry.failures import AbsentError, shown
from vaesc.registry.files import DIGEST_TAG, shown_version
from vaesc.registry.tracking import PARENT_TAG, Tracking, connect

_VERSION = re.compile(r"[0-9]{1,18}")

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

METRICS_TAG = "vaesc.metrics"
"""Tag of a version: its metrics as one JSON object."""
DECISION_TAG = "vaesc.decision"
"""Tag of a version: the gate's last word on it, as JSON."""
ATOMS_TAG = "vaesc.atoms"
"""Tag of a version: the lasting numbers of its atoms, by row (:mod:`vaesc.gate.atoms`)."""

RUN_ID = re.compile(r"[0-9a-f]{32}")
_PAGE = 1000


def list_models(name: str | None = None) -> list[dict[str, Any]]:
    """Return every version that vaesc registered, newest first, as plain JSON values.

    Args:
        name: Only this registered model; default: all of them.

    Raises:
        RegistryError: MLflow cannot be reached, or there is no registry yet.
    """
    tracking = connect(create=False)
    ours = [v for v in find_versions(tracking, name) if DIGEST_TAG in v.tags]
    # MLflow's search leaves the aliases out.
    aliases = {each: aliases_of(tracking, each) for each in {v.name for v in ours}}
    rows = [_summary(v, aliases[v.name]) for v in ours]
    return sorted(rows, key=lambda row: (row["name"], -row["version"]))


def show_model(ref: str | int = "champion", *, name: str = "vaesc") -> dict[str, Any]:
    """Return one version whole, as plain JSON values: also its digests, runs and tags.

    Args:
        ref: As for :func:`vaesc.load_model`, folders excepted.
        name: The registered model, where `ref` does not name one.

    Raises:
        RegistryError: There is no such version, or MLflow cannot be reached.
    """
    tracking = connect(create=False)
    found = find_version(tracking, ref, name)
    return {
        **_summary(found, aliases_of(tracking, found.name)),
        "description": found.description or "",
        "decision": json.loads(found.tags.get(DECISION_TAG, "null")),
        "digests": _with_prefix(found.tags, "vaesc.content."),
        "runs": _with_prefix(found.tags, "vaesc.run."),
        "tags": {k: v for k, v in found.tags.items() if k != METRICS_TAG},
    }


def parsed(ref: str | int | Path, name: str = "vaesc") -> tuple[str, str]:
    """Take a reference apart: the registered model, and an alias, number, ``latest`` or run id.

    Raises:
        RegistryError: It is empty, or an address of another form.
    """
    text = str(ref).strip()
    if not text:
        raise RegistryError(
            "a model is named by an alias, a version, models:/NAME/VERSION or a run id, got an "
            "empty name; leave it out for the champion"
        )
    if match := re.fullmatch(r"models:/+([^/@]+)(?:/|@)([^/@]+)", text):
        return match[1], match[2]
    if text.startswith("models:"):
        raise RegistryError(
            f"a model's address is models:/NAME/VERSION or models:/NAME@ALIAS, got {text!r}"
        )
    return name, text


def is_fixed(text: str) -> bool:
    """Tell whether the second part of :func:`parsed` means one version for good: no alias."""
    return text.isdecimal() or bool(RUN_ID.fullmatch(text))


def find_version(tracking: Tracking, ref: str | int | Path, name: str = "vaesc") -> ModelVersion:
    """Resolve a reference to the one version that it means now.

    Raises:
        RegistryError: It means none; the sentence says what there is instead.
    """
    name, text = parsed(ref, name)
    if RUN_ID.fullmatch(text):
        return _version_of_run(tracking, text, name)
    number = _number(tracking, name, text)
    try:
        return _get_version(tracking, name, number)
    except AbsentError as error:
        # Between the two questions an alias may have moved, and its old version been deleted.
        now = number if is_fixed(text) else _number(tracking, name, text)
        if now != number:
            return _get_version(tracking, name, now)
        raise AbsentError(
            f"model {name!r} has no version {number}; {_what_there_is(tracking, name)}"
        ) from error


def _number(tracking: Tracking, name: str, text: str) -> int:
    """Return the version that an alias, a number or ``latest`` means now."""
    aliases = aliases_of(tracking, name)
    number: str | int = aliases.get(text, text)
    if number == "latest":
        number = max((int(v.version) for v in find_versions(tracking, name)), default=text)
    if not _VERSION.fullmatch(str(number)):
        raise AbsentError(_unknown_alias(tracking, name, text, aliases))
    return int(number)


def _get_version(tracking: Tracking, name: str, number: int) -> ModelVersion:
    with tracking.explained(f"look up models:/{name}/{number}"):
        return tracking.client.get_model_version(name, str(number))


def find_versions(
    tracking: Tracking, name: str | None = None, digest: str | None = None
) -> list[ModelVersion]:
    """Return all versions of one registered model or of all, or only those of one digest.

    Their aliases are not filled in, see :func:`aliases_of`.
    """
    terms = [f"name = '{name}'"] if name else []
    terms += [f"tags.`{DIGEST_TAG}` = '{digest}'"] if digest else []

    def pages() -> Iterator[ModelVersion]:
        token = None
        while True:
            with tracking.explained("list its models"):
                page = tracking.client.search_model_versions(
                    " and ".join(terms) or None, max_results=_PAGE, page_token=token
                )
            yield from page
            if not (token := page.token):
                return

    return list(pages())


def aliases_of(tracking: Tracking, name: str) -> dict[str, int]:
    """Return the version that each alias of a registered model names.

    Raises:
        RegistryError: There is no such registered model; the sentence says which there are.
    """
    try:
        with tracking.explained(f"look up the model {name!r}"):
            model = tracking.client.get_registered_model(name)
    except AbsentError as error:
        names = sorted({v.name for v in find_versions(tracking) if DIGEST_TAG in v.tags})
        there = f"it has {', '.join(names)}" if names else "it is empty; run the pipeline first"
        raise AbsentError(
            f"no model {name!r} is registered at {shown(registry_uri())}; {there}, or set "
            "VAESC_HOME or MLFLOW_TRACKING_URI to where yours is"
        ) from error
    return {alias: int(number) for alias, number in model.aliases.items()}


def _version_of_run(tracking: Tracking, run_id: str, name: str) -> ModelVersion:
    """Return the version that a run, or a step nested in it, registered or found registered."""
    with tracking.explained(f"look up run {run_id}"):
        run = tracking.client.get_run(run_id)
        nested = tracking.client.search_runs(
            [run.info.experiment_id], f"tags.`{PARENT_TAG}` = '{run_id}'"
        )
    digests = [digest for each in [run, *nested] if (digest := _registered(each.data.tags))]
    found = find_versions(tracking, digest=digests[0]) if digests else []
    if not found:
        raise AbsentError(
            f"run {run_id} has registered no model; {_what_there_is(tracking, name)}"
        )
    return max(found, key=lambda v: (v.name == name, int(v.version)))


def _registered(tags: Mapping[str, str]) -> str | None:
    """Return the digest of the model a run registered; a cached step keeps it as its own."""
    cached = tags.get("vaesc.digest") if tags.get("vaesc.step") == "register" else None
    return tags.get(DIGEST_TAG) or cached


def _unknown_alias(tracking: Tracking, name: str, alias: str, aliases: Mapping[str, int]) -> str:
    if not aliases and not find_versions(tracking, name):
        return f"model {name!r} at {shown(registry_uri())} has no version; run the pipeline first"
    folder = f", or write ./{alias} for the folder" if Path(alias).is_dir() else ""
    return f"model {name!r} has no alias {alias!r}; {_what_there_is(tracking, name)}{folder}"


def _what_there_is(tracking: Tracking, name: str) -> str:
    aliases = ", ".join(f"{a} (version {v})" for a, v in aliases_of(tracking, name).items())
    versions = sorted(int(v.version) for v in find_versions(tracking, name))
    numbers = ", ".join(map(str, versions[-10:])) or "none"
    more = f" and {len(versions) - 10} older ones" if len(versions) > 10 else ""
    return f"there are the aliases {aliases or 'none'}, and the versions {numbers}{more}"


def _summary(version: ModelVersion, aliases: Mapping[str, int]) -> dict[str, Any]:
    number = int(version.version)
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "name": version.name,
        "version": number,
        "aliases": sorted(alias for alias, named in aliases.items() if named == number),
        "uri": shown_version(version),
        "dataset": version.tags.get("vaesc.dataset", ""),
        "created": created.isoformat(timespec="seconds"),
        "status": version.status,
        "run_id": version.run_id or "",
        "model_digest": version.tags.get(DIGEST_TAG, ""),
        "metrics": json.loads(version.tags.get(METRICS_TAG, "{}")),
    }


def _with_prefix(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in tags.items() if k.startswith(prefix)}
