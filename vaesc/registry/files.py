"""A version's files: fetched from wherever MLflow keeps them, and checked before they are used.

A model is identified by the SHA-256 of its ``bundle.json``, which lists the SHA-256 of every other
file. The version carries that digest as a tag, so that files and registry vouch for each other.
MLflow's own ``models:/`` addresses are avoided on purpose: they are resolved with the process-wide
tracking URI, not with the client that was asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vaesc.errors import RegistryError
from vaesc.registry.connection import is_server, registry_uri
from vaesc.registry.failures import UnreachableError
from vaesc.store import file_digest
from vaesc.untrusted import check_inside, read_json

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from vaesc.registry.tracking import Tracking

DIGEST_TAG = "vaesc.model_digest"
"""Tag of a version, and of the run that registered it: the digest of the model."""

BUNDLE = "bundle"
"""Name of the model's folder among the version's artifacts."""

_MANIFEST = "bundle.json"


def model_digest(folder: Path) -> str:
    """Return the digest of the model saved in `folder`."""
    return file_digest(folder / _MANIFEST)


@contextmanager
def fetched(tracking: Tracking, version: ModelVersion) -> Iterator[Path]:
    """Provide a version's bundle as a local folder: its own if it is here, else a passing copy.

    Raises:
        RegistryError: It cannot be fetched.
    """
    uri = _location(tracking, version)
    here = _local_path(tracking, version, uri)
    if here is not None:
        yield here
        return
    with tempfile.TemporaryDirectory(prefix="vaesc-") as folder:
        with tracking.explained(f"fetch the files of {shown_version(version)}"):
            from mlflow.artifacts import download_artifacts

            copy = download_artifacts(uri, dst_path=folder, tracking_uri=tracking.uri)
        yield Path(copy)


def local_folder(tracking: Tracking, version: ModelVersion) -> Path | None:
    """Return where a version's bundle lies if that is a path on this machine; else None.

    Raises:
        RegistryError: MLflow does not say where it lies, or says a folder of its own machine.
    """
    return _local_path(tracking, version, _location(tracking, version))


def fault(folder: Path, digest: str) -> str | None:
    """Say in what a bundle's files are not those of the model with `digest`; None if they are."""
    try:
        check_inside(folder / _MANIFEST, folder)
        if model_digest(folder) != digest:
            return f"{_MANIFEST} does not have the SHA-256 that was registered"
        listed: dict[str, str] = read_json(folder / _MANIFEST)["files"]
        for name, expected in listed.items():
            check_inside(folder / name, folder)
            if file_digest(folder / name) != expected:
                return f"{name} does not have its SHA-256"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def damage_of(tracking: Tracking, version: ModelVersion, digest: str) -> str | None:
    """Say in what a registered version's files are not those of its model; None if they are.

    Raises:
        UnreachableError: They cannot be fetched now, which says nothing of them.
    """
    try:
        with fetched(tracking, version) as folder:
            return fault(folder, digest)
    except UnreachableError:
        raise
    except RegistryError as error:
        return str(error)


def seems_whole(tracking: Tracking, version: ModelVersion, digest: str) -> bool:
    """Check a version's files: all by SHA-256 if they are here, else without fetching the weights.

    Raises:
        RegistryError: Where they lie cannot be asked, or is a folder of another machine.
    """
    uri = _location(tracking, version)
    here = _local_path(tracking, version, uri)
    if here is not None:
        return fault(here, digest) is None
    with tracking.explained(f"list the files of {shown_version(version)}"):
        from mlflow.artifacts import list_artifacts

        present = {Path(f.path).name for f in list_artifacts(uri, tracking_uri=tracking.uri)}
    with tempfile.TemporaryDirectory(prefix="vaesc-") as folder:
        with tracking.explained(f"fetch {_MANIFEST} of {shown_version(version)}"):
            from mlflow.artifacts import download_artifacts

            if _MANIFEST not in present:
                return False
            download_artifacts(f"{uri}/{_MANIFEST}", dst_path=folder, tracking_uri=tracking.uri)
        whole = model_digest(Path(folder)) == digest
        return whole and set(read_json(Path(folder, _MANIFEST))["files"]) <= present


def shown_version(version: ModelVersion) -> str:
    """Return a version's address, as the user would write it."""
    return f"models:/{version.name}/{version.version}"


def _location(tracking: Tracking, version: ModelVersion) -> str:
    with tracking.explained(f"say where the files of {shown_version(version)} are"):
        root = tracking.client.get_model_version_download_uri(version.name, str(version.version))
    return f"{str(root).rstrip('/')}/artifacts/{BUNDLE}"


def _local_path(tracking: Tracking, version: ModelVersion, uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    path = Path(url2pathname(parts.path)) if parts.scheme else Path(uri)
    if (is_server(tracking.uri) or is_server(registry_uri())) and not path.is_dir():
        raise RegistryError(
            f"the files of {shown_version(version)} are said to be in {path}, which is not on "
            "this machine: the MLflow server hands out paths of its own; start it with "
            "--serve-artifacts --artifacts-destination, or mount that folder here"
        )
    return path
