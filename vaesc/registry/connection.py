"""Which MLflow, opened quickly or refused in one sentence.

The tracking and registry server is ``MLFLOW_TRACKING_URI`` (and ``MLFLOW_REGISTRY_URI``, if they
differ); without it, a SQLite file in :func:`vaesc.config.home`. Three habits of MLflow are bent
here, because they cost the user time or truth:

- A fresh SQLite file is migrated in place, so two processes that start together break each other
  and a killed one leaves half a schema. Here it is migrated beside, under a lock, without waiting
  for the disk at every statement, and renamed when whole.
- A server that is not there is asked for four minutes. Here it is probed once, first.
- Looking something up creates the database it looks in. Here only a writer does.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vaesc.config import home
from vaesc.errors import RegistryError
from vaesc.registry.failures import AbsentError, explained, prepare_environment, shown
from vaesc.registry.probing import SQLITE, probe, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking_uri() -> str:
    """Return the URI of the MLflow in use: ``$MLFLOW_TRACKING_URI``, else a file in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home() / 'mlflow.db'}"


def registry_uri() -> str:
    """Return the URI of the model registry in use: ``$MLFLOW_REGISTRY_URI``, else the same one."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def artifact_root(uri: str) -> str | None:
    """Return where artifacts go when this process decides; None if the server does."""
    return None if is_server(uri) else _own_artifacts()


def open_client(*, create: bool) -> tuple[MlflowClient, str]:
    """Open the MLflow in use, without touching any global state of MLflow.

    Args:
        create: Create a SQLite database that is not there yet.

    Returns:
        The client and its tracking URI.

    Raises:
        UnreachableError: It does not answer now.
        RegistryError: It is damaged, or is not there and `create` is False.
    """
    uri, registry = tracking_uri(), registry_uri()
    prepare_environment()
    for each in dict.fromkeys((uri, registry)):
        _check_presence(each, create)
    with explained(uri, "open its store"):
        from mlflow import MlflowClient

        probe(uri, "MLFLOW_TRACKING_URI")
    with explained(registry, "open its registry"):
        if registry != uri:
            probe(registry, "MLFLOW_REGISTRY_URI")
        return MlflowClient(uri, registry), uri


def open_home_client() -> tuple[MlflowClient, str] | None:
    """Open the home's own database where it is there and not the MLflow in use; else None."""
    path = home() / "mlflow.db"
    uri = f"{SQLITE}{path}"
    if uri in (tracking_uri(), registry_uri()) or not path.exists():
        return None
    prepare_environment()
    with explained(uri, "open its store"):
        from mlflow import MlflowClient

        return MlflowClient(uri, uri), uri


def is_server(uri: str) -> bool:
    """Say whether a URI is that of a server, which keeps artifacts where it likes."""
    return urlsplit(uri).scheme in ("http", "https", "databricks", "databricks-uc", "uc")


def _check_presence(uri: str, create: bool) -> None:
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    if not create:
        raise AbsentError(
            f"there is no model registry at {shown(uri)} yet; run the pipeline first, or set "
            "VAESC_HOME or MLFLOW_TRACKING_URI to where yours is"
        )
    _create_sqlite(path)


def _own_artifacts() -> str:
    # MLflow's own choice is ./mlruns, which depends on the folder the command was typed in.
    return (home() / "mlartifacts").as_uri()


def _create_sqlite(path: Path) -> None:
    """Create a migrated database at `path`: whole or absent, by one process at a time."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _migrate_and_publish(path)
    except OSError as error:
        raise RegistryError(
            f"the run database {path} cannot be created ({error.strerror}); make {path.parent} "
            "writable, or set VAESC_HOME to a folder that is"
        ) from error


def _migrate_and_publish(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with explained(f"{SQLITE}{draft}", "create its schema"), _careless_sqlite():
            SqlAlchemyStore(f"{SQLITE}{draft}", _own_artifacts()).engine.dispose()
        handle = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _careless_sqlite() -> Iterator[None]:
    """Let SQLite connections opened meanwhile not wait for the disk: a draft is fsynced once."""
    from sqlalchemy import Engine, event

    def hurry(connection: Any, _: object) -> None:  # noqa: ANN401
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=MEMORY")

    event.listen(Engine, "connect", hurry)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hurry)
