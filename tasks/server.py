"""The Prefect API that runs talk to: yours, or else a local server that looks after itself.

A configured server (``PREFECT_API_URL``, or a Prefect profile that names one) is used as it is.
Otherwise one local server per :func:`vaesc.config.home` is started and kept between runs, since
starting it costs more than a cached run. Nobody has to stop it: a small keeper process ends it
when no vaesc process has used it for ten minutes, when its state file is gone, or when the keeper
itself is killed.

Run by hand: ``python -m tasks.server start | stop | status``.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from tasks.children import ServerError, die_with_parent, free_port, last_words, terminate
from vaesc.config import home
from vaesc.processes import pid_exists
from vaesc.registry.failures import shown
from vaesc.registry.rescue import is_whole, set_aside

__all__ = ["ENVIRONMENT", "ServerError", "answers", "configured", "connect"]

logger = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
START_SECONDS = 180.0
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "vaesc,tasks,flows",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # 429, 502 and 503 are asked again anyway; one stumble of a server is no reason to lose a run.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "408,500,504",
}
"""How Prefect is to behave wherever vaesc runs; what the environment already says stands."""


def connect() -> str:
    """Point this process at a Prefect API, starting the local server if none is configured.

    Must run before prefect is imported: it reads its settings then.

    Returns:
        The API's URL.

    Raises:
        ServerError: The configured server does not answer or does not let us in, or the local one
            did not start.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    url = configured()
    if url is None:
        url = start()
        os.environ["PREFECT_API_URL"] = url
        os.environ.setdefault("PREFECT_HOME", str(_folder()))
    elif not answers(url):
        raise ServerError(
            f"nothing answers at the configured Prefect API {shown(url)}; start that server, or "
            "correct or unset PREFECT_API_URL (or the Prefect profile)"
        )
    elif refuses(url):
        raise ServerError(
            f"the Prefect API {shown(url)} refuses our credentials; set PREFECT_API_AUTH_STRING "
            "to user:password as its PREFECT_SERVER_API_AUTH_STRING says (or PREFECT_API_KEY)"
        )
    return url


def configured() -> str | None:
    """Return the API that the environment or the active Prefect profile names, if any."""
    return _setting("PREFECT_API_URL")


def start() -> str:
    """Return the URL of the local server, starting it if it does not run.

    Raises:
        ServerError: It did not answer in time.
    """
    folder = _folder()
    try:
        (folder / "clients").mkdir(parents=True, exist_ok=True)
        (folder / "clients" / str(os.getpid())).touch()
    except OSError as error:
        raise ServerError(
            f"the folder {folder} cannot be written ({error.strerror}); make it writable, or set "
            "VAESC_HOME to a folder that is"
        ) from error
    with FileLock(folder / "server.lock"):
        if url := status():
            return url
        port = free_port()
        _check_database(folder / "prefect.db")
        logger.warning(
            "starting a local Prefect server (about 10 s; it stops by itself when idle)"
        )
        keeper = _launch_keeper(folder, port)
        _await_health(keeper, folder, f"http://127.0.0.1:{port}/api")
        state = {"url": f"http://127.0.0.1:{port}/api", "started": time.time()}
        _state_file().write_text(json.dumps(state))
        return str(state["url"])


def _check_database(path: Path) -> None:
    """Set a damaged database aside, and let the server begin a new one.

    The results lie in the store, and the runs in MLflow: only the pages of earlier flow runs go.
    """
    if path.exists() and not is_whole(path):
        logger.warning(
            "the local Prefect server's database was damaged and lies in %s now; a new one begins "
            "without the earlier flow runs (artifacts, MLflow runs and models are not touched)",
            set_aside(path),
        )  # fmt: skip


def status() -> str | None:
    """Return the URL of the local server if it runs and answers."""
    try:
        url = str(json.loads(_state_file().read_text())["url"])
    except (OSError, ValueError, KeyError):
        return None
    return url if answers(url) else None


def stop() -> bool:
    """Stop the local server; returns whether one was running."""
    running = status() is not None
    _state_file().unlink(missing_ok=True)  # the keeper watches this file
    return running


def keep(folder: Path, port: int) -> None:
    """Run the server until nobody needs it any more: the keeper process's whole life."""
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1",
         "--port", str(port)],
        env=_server_environment(folder, port), preexec_fn=die_with_parent,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state_file, begun = folder / "server.json", time.monotonic()
    needed, published = begun, False
    try:
        while server.poll() is None:
            time.sleep(1.0)
            now = time.monotonic()
            if _clients(folder):
                needed = now
            # Whoever started us publishes our port once we answer; a state file that is gone
            # afterwards, or that names another server, is the word to stop.
            ours = _state_port(state_file) == port
            published = published or ours
            if (published and not ours) or now - needed > IDLE_SECONDS:
                break
            if not published and now - begun > START_SECONDS:
                break
    finally:
        if _state_port(state_file) == port:
            state_file.unlink(missing_ok=True)
        terminate(server)


def _launch_keeper(folder: Path, port: int) -> subprocess.Popen[bytes]:
    _state_file().unlink(missing_ok=True)
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.server", "keep", str(folder), str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip


def _await_health(keeper: subprocess.Popen[bytes], folder: Path, url: str) -> None:
    begun = said = time.monotonic()
    log = folder / "server.log"
    while time.monotonic() - begun < START_SECONDS:
        if answers(url, patience=0):
            return
        if keeper.poll() is not None:
            raise ServerError(
                f"the local Prefect server ended at once ({last_words(log)}); see {log}, try "
                "`vaesc doctor`, or set PREFECT_API_URL to a server of yours"
            )
        if time.monotonic() - said > 15:
            said = time.monotonic()
            logger.warning("still waiting for the local Prefect server (%.0f s)", said - begun)
        time.sleep(0.2)
    raise ServerError(
        f"the local Prefect server did not answer within {START_SECONDS:.0f} s; see {log}, "
        "or set PREFECT_API_URL to a server of yours"
    )


def _server_environment(folder: Path, port: int) -> dict[str, str]:
    own = {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    # A database of yours is for a server of yours: the local one keeps its own.
    foreign = ("PREFECT_API_DATABASE", "PREFECT_SERVER_DATABASE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**ENVIRONMENT, **kept, **own}


def _clients(folder: Path) -> list[int]:
    """Return the living processes that use the server, forgetting the dead ones."""
    living = []
    for mark in (folder / "clients").glob("*"):
        if mark.name.isdigit() and pid_exists(int(mark.name)):
            living.append(int(mark.name))
        else:
            mark.unlink(missing_ok=True)
    return living


def _state_port(state_file: Path) -> int | None:
    try:
        return int(str(json.loads(state_file.read_text())["url"]).rsplit(":", 1)[1].split("/")[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _setting(name: str) -> str | None:
    """Return a setting of Prefect that the environment or the user's active profile names."""
    return os.environ.get(name) or _profile().get(name)


def _profile() -> dict[str, str]:
    """Return the settings of the user's active Prefect profile."""
    default = Path(os.environ.get("PREFECT_HOME", "~/.prefect")) / "profiles.toml"
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", default)).expanduser()
    try:
        profiles = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    settings = profiles.get("profiles", {}).get(active, {})
    return {name: str(value) for name, value in settings.items()}


def answers(url: str, *, patience: float = 30.0) -> bool:
    """Tell whether a Prefect API answers at `url`; one that asks who we are does too.

    Args:
        url: Of the API.
        patience: Seconds for which a server that is there, but slow, is asked again: who held it
            for dead would start another, and the first one's users would lose theirs.
    """
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            return error.code in (401, 403)
        except (OSError, ValueError, HTTPException) as error:
            slow = isinstance(getattr(error, "reason", error), TimeoutError)
            if not slow or time.monotonic() >= until:
                return False


def refuses(url: str) -> bool:
    """Tell whether the Prefect API at `url` asks for credentials other than ours.

    Its /health answers everybody, so something that only we may read is asked for.
    """
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/version")
    if login := _setting("PREFECT_API_AUTH_STRING"):
        token = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    elif key := _setting("PREFECT_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, HTTPException):
        return False  # another matter, which its first use will tell
    return False


def _folder() -> Path:
    return home() / "prefect"


def _state_file() -> Path:
    return _folder() / "server.json"


def main(arguments: list[str]) -> int:
    """Serve ``python -m tasks.server ...``."""
    match arguments:
        case ["start"]:
            logger.warning("the local Prefect server runs at %s", start())
        case ["stop"]:
            logger.warning("stopped" if stop() else "no local Prefect server was running")
        case ["status"]:
            logger.warning("%s", status() or "no local Prefect server is running")
        case ["keep", folder, port]:
            keep(Path(folder), int(port))
        case _:
            logger.error("usage: python -m tasks.server start | stop | status")
            return 2
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main(sys.argv[1:]))
