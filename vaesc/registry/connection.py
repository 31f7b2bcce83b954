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

import logging
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from vaesc.config import home
from vaesc.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient


class AbsentError(RegistryError):
    """MLflow answers, or would, but does not have what was asked for."""


class UnreachableError(RegistryError):
    """MLflow, or its database, does not answer now: the one failure that may pass by itself."""


_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What MLflow reads when it is imported or called; whatever the user has set stands."""

_PROBE_SECONDS = 5
_SQLITE = "sqlite:///"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_REFUSING = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
"""Codes of MLflow for a server's 401. Its 403 is another matter: known, but not permitted."""
_PASSING = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""Codes of MLflow for what another try may find gone: a server's 429 and 503."""


def tracking_uri() -> str:
    """Return the URI of the MLflow in use: ``$MLFLOW_TRACKING_URI``, else a file in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{home() / 'mlflow.db'}"


def registry_uri() -> str:
    """Return the URI of the model registry in use: ``$MLFLOW_REGISTRY_URI``, else the same one."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def artifact_root(uri: str) -> str | None:
    """Return where artifacts go when this process decides; None if the server does."""
    return None if _is_server(uri) else _own_artifacts()


def shown(uri: str) -> str:
    """Return `uri` as it may be printed: without its password."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", uri)


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
    uri = tracking_uri()
    prepare_environment()
    _check_presence(uri, create)
    with explained(uri, "open its store"):
        from mlflow import MlflowClient

        _probe(uri)
        return MlflowClient(uri, registry_uri()), uri


def prepare_environment() -> None:
    """Set what MLflow reads from the environment, before it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It logs a traceback of what it then raises, and what it raises becomes our sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def explained(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its database or the network raise into one sentence.

    Args:
        uri: The MLflow that is asked.
        doing: What it cannot do then: "MLflow at ... cannot `doing`: ...".
    """
    prepare_environment()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except RegistryError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if getattr(error, "error_code", "") in _REFUSING:
            raise RegistryError(
                f"MLflow at {shown(uri)} refuses our credentials and cannot {doing}; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to yours there"
            ) from error
        raise _kind_of(error)(f"MLflow at {shown(uri)} cannot {doing}: {_gist(error)}") from error


def _kind_of(error: Exception) -> type[RegistryError]:
    """Tell what is not there from what does not answer, and both from what is wrong for good."""
    if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
        return AbsentError
    return UnreachableError if _may_pass(error) else RegistryError


def _may_pass(error: Exception) -> bool:
    """Say whether an error is of the network or of a busy database.

    MLflow wraps what it meets, with a code of its own or with none: its causes are looked at too.
    """
    import requests
    from sqlalchemy.exc import InterfaceError, OperationalError

    chain = list(_causes(error))
    for each in chain:
        # SQLite says "operational" of everything: a damaged file, a full disk, a lock.
        if isinstance(each, sqlite3.Error):
            return getattr(each, "sqlite_errorname", "").startswith(_BUSY)
    network = (
        ConnectionError, TimeoutError, OperationalError, InterfaceError,
        requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError,
        requests.exceptions.ChunkedEncodingError,
    )  # fmt: skip
    return any(
        isinstance(each, network) or getattr(each, "error_code", "") in _PASSING for each in chain
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI; None for any other URI, or a database in memory."""
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(name) if uri.startswith(_SQLITE) and name not in ("", ":memory:") else None


def _is_server(uri: str) -> bool:
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
        with explained(f"{_SQLITE}{draft}", "create its schema"), _careless_sqlite():
            SqlAlchemyStore(f"{_SQLITE}{draft}", _own_artifacts()).engine.dispose()
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


def _probe(uri: str) -> None:
    """Ask once whether anything answers at `uri`; MLflow itself would insist for minutes."""
    scheme = urlsplit(uri).scheme
    if path := sqlite_path(uri):
        _probe_sqlite(path)
    elif scheme in ("http", "https"):
        _probe_server(uri)
    elif scheme.startswith(("postgresql", "mysql", "mssql")):
        _probe_database(uri)
    elif scheme in ("", "file"):
        raise RegistryError(
            f"MLFLOW_TRACKING_URI={shown(uri)} names a folder, and MLflow keeps its runs in "
            "databases only; name a database (sqlite:////absolute/path.db) or a server (http://...)"
        )


def _probe_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if _may_pass(error):
            raise UnreachableError(
                f"the run database {path} is in use by another process ({error}); try again "
                "once that has finished"
            ) from error
        raise RegistryError(
            f"the run database {path} cannot be read ({error}); put it back from a copy, or move "
            "it away to start anew"
        ) from error


def _probe_server(uri: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        # Any answer will do, even "not found": what is asked is whether a server is there at all.
        http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=_PROBE_SECONDS,
            raise_on_status=False,
        )  # fmt: skip
    except (MlflowException, OSError) as error:
        raise _unreachable(uri, error) from error


def _probe_database(uri: str) -> None:
    import sqlalchemy

    known = urlsplit(uri).scheme.startswith(("postgresql", "mysql"))
    limits = {"connect_timeout": _PROBE_SECONDS} if known else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=limits, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except ImportError as error:
        raise RegistryError(
            f"MLFLOW_TRACKING_URI={shown(uri)} needs a database driver that is not installed "
            f"({_gist(error)}); install it, or name the driver you have (postgresql+psycopg://...)"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> RegistryError:
    # What the system said is buried under the words of four libraries.
    said = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
    kind = UnreachableError if _may_pass(error) else RegistryError
    return kind(
        f"nothing answers at MLFLOW_TRACKING_URI={shown(uri)} "
        f"({said[1] if said else _gist(error)}); start the server, or correct or unset "
        "MLFLOW_TRACKING_URI"
    )


def _gist(error: BaseException) -> str:
    """Return the first sentence of an error, short enough to be read in one breath."""
    text = " ".join(str(error).split()) or type(error).__name__
    for end in (" (Background on this error", " Traceback"):
        text = text.partition(end)[0]
    return shown(text if len(text) <= 300 else f"{text[:300]}...").rstrip(". ")
