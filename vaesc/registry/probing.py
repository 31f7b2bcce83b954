"""Whether anything answers at an address of MLflow: asked once, within seconds.

MLflow itself would insist for minutes.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

from vaesc.errors import RegistryError
from vaesc.registry.failures import UnreachableError, gist, may_pass, shown

_PROBE_SECONDS = 5
SQLITE = "sqlite:///"


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI; None for any other URI, or a database in memory."""
    name = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(name) if uri.startswith(SQLITE) and name not in ("", ":memory:") else None


def probe(uri: str, variable: str) -> None:
    """Ask once whether anything answers.

    Args:
        uri: Where.
        variable: The environment variable that names it, for the sentence.

    Raises:
        UnreachableError: Nothing answers now.
        RegistryError: It is damaged, or no place where MLflow could keep anything.
    """
    scheme = urlsplit(uri).scheme
    if path := sqlite_path(uri):
        _probe_sqlite(path)
    elif scheme in ("http", "https"):
        _probe_server(uri, variable)
    elif scheme.startswith(("postgresql", "mysql", "mssql")):
        _probe_database(uri, variable)
    elif scheme in ("", "file"):
        raise RegistryError(
            f"{variable}={shown(uri)} names a folder, and MLflow keeps its runs in "
            "databases only; name a database (sqlite:////absolute/path.db) or a server (http://...)"
        )


def _probe_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if may_pass(error):
            raise UnreachableError(
                f"the run database {path} is in use by another process ({error}); try again "
                "once that has finished"
            ) from error
        raise RegistryError(
            f"the run database {path} cannot be read ({error}); put it back from a copy, or move "
            "it, and `backups` beside it, away to start anew"
        ) from error


def _probe_server(uri: str, variable: str) -> None:
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
        raise _unreachable(uri, variable, error) from error


def _probe_database(uri: str, variable: str) -> None:
    import sqlalchemy

    known = urlsplit(uri).scheme.startswith(("postgresql", "mysql"))
    limits = {"connect_timeout": _PROBE_SECONDS} if known else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=limits, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except ImportError as error:
        raise RegistryError(
            f"{variable}={shown(uri)} needs a database driver that is not installed "
            f"({gist(error)}); install it, or name the driver you have (postgresql+psycopg://...)"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(uri, variable, error) from error


def _unreachable(uri: str, variable: str, error: Exception) -> RegistryError:
    # What the system said is buried under the words of four libraries.
    said = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
    kind = UnreachableError if may_pass(error) else RegistryError
    return kind(
        f"nothing answers at {variable}={shown(uri)} "
        f"({said[1] if said else gist(error)}); start the server, or correct or unset "
        f"{variable}"
    )
