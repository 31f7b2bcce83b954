"""What MLflow, its database or the network raise, as one sentence; and what may pass by itself.

MLflow wraps what it meets in errors of its own, some with a code, some with none, and its words
are buried under those of four libraries.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from vaesc.errors import RegistryError


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

_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_REFUSING = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
"""Codes of MLflow for a server's 401. Its 403 is another matter: known, but not permitted."""
_PASSING = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""Codes of MLflow for what another try may find gone: a server's 429 and 503."""


def prepare_environment() -> None:
    """Set what MLflow reads from the environment, before it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It logs a traceback of what it then raises, and what it raises becomes our sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def shown(uri: str) -> str:
    """Return `uri`, or a text that holds some, as it may be printed: without passwords.

    A password may hold what it should have escaped: whatever stands before the last "@" goes.
    """
    bare = re.sub(r"(?<=://)([^/@:\s]*):\S*@", r"\1:***@", uri)
    return re.sub(r"([?&]\w*(?:password|passwd|pwd|token|secret|key)=)[^&\s]+", r"\1***", bare)


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
        raise kind_of(error)(f"MLflow at {shown(uri)} cannot {doing}: {gist(error)}") from error


def kind_of(error: Exception) -> type[RegistryError]:
    """Tell what is not there from what does not answer, and both from what is wrong for good."""
    if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
        return AbsentError
    return UnreachableError if may_pass(error) else RegistryError


def may_pass(error: Exception) -> bool:
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


def gist(error: BaseException) -> str:
    """Return the first sentence of an error, short enough to be read in one breath."""
    text = " ".join(str(error).split()) or type(error).__name__
    for end in (" (Background on this error", " Traceback"):
        text = text.partition(end)[0]
    return shown(text if len(text) <= 300 else f"{text[:300]}...").rstrip(". ")
