"""From a name a person can remember to a whole, verified model in memory.

A reference is an alias (``champion``), a version (``3``), ``latest``, an MLflow address
(``models:/vaesc/3``, ``models:/vaesc@champion``), the id of an MLflow run, or the folder of a
saved model. It is resolved to one version once, and that version's files are checked against the
digest that was registered before a byte of them is believed. They are read as safetensors and
JSON: the code that MLflow keeps beside them is never run here.

Looking up creates nothing: no database, no experiment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.errors import DataError, RegistryError, StoreError
from vaesc.registry.connection import AbsentError, shown
from vaesc.registry.files import DIGEST_TAG, fault, fetched, shown_version
from vaesc.registry.tracking import PARENT_TAG, Tracking, connect

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from vaesc.bundle import SparseVAE

METRICS_TAG = "vaesc.metrics"
"""Tag of a version: its metrics as one JSON object."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PAGE = 1000


def load_model(
    ref: str | int | Path = "champion", *, name: str = "vaesc", device: str = "auto"
) -> SparseVAE:
    """Load a model from the registry, or from a folder.

    Args:
        ref: An alias, a version number, ``latest``, ``models:/name/3``, ``models:/name@alias``,
            the id of an MLflow run, or a folder (a ``Path``, or a text with a slash in it).
        name: The registered model, where `ref` does not name one.
        device: Where torch is to compute, see :func:`vaesc.models.resolve_device`.

    Returns:
        The model, each of its files checked by its SHA-256.

    Raises:
        RegistryError: There is no such model, MLflow cannot be reached, or the files are damaged.
        StoreError: The folder holds no whole model.
    """
    from vaesc.bundle import SparseVAE

    folder = _as_folder(ref)
    if folder is not None:
        return SparseVAE.load(folder, device)
    tracking = connect(create=False)
    found = find_version(tracking, ref, name)
    with fetched(tracking, found) as folder:
        digest = found.tags.get(DIGEST_TAG)
        if digest is None:
            raise RegistryError(f"{shown_version(found)} is not a model that vaesc registered")
        try:
            if wrong := fault(folder, digest):
                raise StoreError(wrong)
            return SparseVAE.load(folder, device)
        except (StoreError, DataError) as error:
            raise RegistryError(
                f"{shown_version(found)} is damaged ({error}); run the pipeline again, which "
                "registers it anew, or name another version"
            ) from error


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
        ref: As for :func:`load_model`, folders excepted.
        name: The registered model, where `ref` does not name one.

    Raises:
        RegistryError: There is no such version, or MLflow cannot be reached.
    """
    tracking = connect(create=False)
    found = find_version(tracking, ref, name)
    return {
        **_summary(found, aliases_of(tracking, found.name)),
        "description": found.description or "",
        "digests": _with_prefix(found.tags, "vaesc.content."),
        "runs": _with_prefix(found.tags, "vaesc.run."),
        "tags": {k: v for k, v in found.tags.items() if k != METRICS_TAG},
    }


def find_version(tracking: Tracking, ref: str | int | Path, name: str = "vaesc") -> ModelVersion:
    """Resolve a reference to the one version that it means now.

    Raises:
        RegistryError: It means none; the sentence says what there is instead.
    """
    text = str(ref).strip()
    if not text:
        raise RegistryError(
            "a model is named by an alias, a version, models:/NAME/VERSION or a run id, got an "
            "empty name; leave it out for the champion"
        )
    if match := re.fullmatch(r"models:/+([^/@]+)(?:/|@)([^/@]+)", text):
        name, text = match.groups()
    elif text.startswith("models:"):
        raise RegistryError(
            f"a model's address is models:/NAME/VERSION or models:/NAME@ALIAS, got {text!r}"
        )
    if _RUN_ID.fullmatch(text):
        return _version_of_run(tracking, text, name)
    aliases = aliases_of(tracking, name)
    number = aliases.get(text, text)
    if number == "latest":
        number = max((int(v.version) for v in find_versions(tracking, name)), default=text)
    if not str(number).isdecimal():
        raise AbsentError(_unknown_alias(tracking, name, text, aliases))
    try:
        with tracking.explained(f"look up models:/{name}/{number}"):
            return tracking.client.get_model_version(name, str(int(number)))
    except AbsentError as error:
        raise AbsentError(
            f"model {name!r} has no version {number}; {_what_there_is(tracking, name)}"
        ) from error


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
            f"no model {name!r} is registered at {shown(tracking.uri)}; {there}, or set "
            "VAESC_HOME or MLFLOW_TRACKING_URI to where yours is"
        ) from error
    return {alias: int(number) for alias, number in model.aliases.items()}


def _as_folder(ref: str | int | Path) -> Path | None:
    if isinstance(ref, Path):
        return ref.expanduser()
    text = str(ref)
    is_path = "/" in text or "\\" in text or text in (".", "..")
    return Path(text).expanduser() if is_path and not text.startswith("models:") else None


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
        return f"model {name!r} at {shown(tracking.uri)} has no version; run the pipeline first"
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
