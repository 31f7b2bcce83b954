"""Workers of a cluster elsewhere: do they find the servers, the store and the logins of a run?

A whole pipeline (:mod:`tasks.runs`) is a ``vaesc run`` on the worker's machine. The addresses of
the servers are handed on to it. What is secret we do not send through Dask: a worker must have it
in the environment that it was started with. (Prefect's task runner sends Prefect's own settings,
its login included, with every task: Dask's ports are for machines that are trusted with it.)
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from tasks.server import answers, configured, refuses
from vaesc.bucket_errors import ENDPOINTS
from vaesc.errors import ConfigError
from vaesc.registry.failures import shown
from vaesc.remote import STORE

_ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_SAME = (STORE, *ENDPOINTS)
"""Where the store is."""
_LOGINS = (
    "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip
_LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1|0\.0\.0\.0")


def handed_on() -> dict[str, str]:
    """Return the addresses of servers that a pipeline's process gets, whoever starts it."""
    found = {name: os.environ[name] for name in _ADDRESSES if name in os.environ}
    return {name: url for name, url in found.items() if not urlsplit(url).password}


def require_api(address: str, runner: str) -> None:
    """Refuse workers of other machines where Prefect's API answers this machine only.

    Args:
        address: The scheduler's.
        runner: The setting, for the sentence.

    Raises:
        ConfigError: It does.
    """
    url = configured()
    if url is None or _LOOPBACK.fullmatch(urlsplit(url).hostname or ""):
        for worker, host in _asked(address, socket.gethostname).items():
            if host != socket.gethostname():
                raise ConfigError(
                    f"runtime.runner={runner}: the worker {worker} is on the machine {host}, "
                    f"which cannot reach {shown(url) if url else 'the local Prefect server'}; set "
                    "PREFECT_API_URL to a server that all machines reach"
                )


def require_same(address: str, runner: str) -> None:
    """Refuse workers whose pipelines would have other servers or another store than this one.

    That they can reach Prefect's API at all is known by then, see :func:`require_api`.

    Args:
        address: The scheduler's.
        runner: The setting, for the sentence.

    Raises:
        ConfigError: There is one.
    """
    own = facts(handed_on().get("PREFECT_API_URL"))
    for worker, theirs in sorted(_asked(address, facts, own["api"]).items()):
        if found := unlike(own, theirs):
            raise ConfigError(f"runtime.runner={runner}: the worker {worker} {found}")


def facts(api: str | None) -> dict[str, Any]:
    """Return what a process has in its environment, nothing secret; and whether it reaches `api`.

    Args:
        api: Prefect's; None: it has to know that itself.
    """
    url = api or configured()
    return {
        "api": api,
        "reaches": url is not None and answers(url) and not refuses(url),
        "places": {name: os.environ.get(name, "") for name in _SAME},
        "logins": [n for n in (*_LOGINS, *_ADDRESSES) if n in os.environ],
    }


def unlike(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return what a worker lacks, as the end of a sentence that begins with its name."""
    for name, value in own["places"].items():
        if theirs["places"][name] != value:
            return (
                f"has {name}={theirs['places'][name] or '(nothing)'}, this process "
                f"{value or '(nothing)'}: start it with the same"
            )
    needed = [name for name in own["logins"] if name in _LOGINS or name not in handed_on()]
    if missing := [name for name in needed if name not in theirs["logins"]]:
        return (
            f"has no {' and no '.join(missing)}, as this process has: set it where the worker is "
            "started (logins are not handed on)"
        )
    if not theirs["reaches"]:
        return (
            f"does not reach Prefect's API{' ' + shown(own['api']) if own['api'] else ''}, or is "
            "refused there: correct PREFECT_API_URL, or its login where the worker is started"
        )
    return None


def _asked(address: str, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        answered: dict[str, Any] = client.run(function, *arguments)
    return answered


def unwanted() -> Callable[[], bool] | None:
    """Return what tells whether the task of this thread is still wanted; None: it is no worker's.

    It is not once whoever submitted it has given it up or is gone, which Dask cannot tell a
    function that already runs; nor once the worker ends.
    """
    distributed = sys.modules.get("distributed")
    try:
        worker = distributed.get_worker() if distributed else None
    except ValueError:
        worker = None
    if worker is None:
        return None
    key = worker.get_current_task()

    def is_unwanted() -> bool:
        task = worker.state.tasks.get(key)
        runs = task is not None and task.state in ("executing", "long-running")
        return not runs or worker.status.name in ("closing", "closed", "failed")

    return is_unwanted
