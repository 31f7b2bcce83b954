"""The Prefect API that runs talk to: yours, or else a local server that looks after itself.

A configured server (``PREFECT_API_URL``, or a Prefect profile that names one) is used as it is.
Otherwise one local server per :func:`vaesc.config.home` is started and kept between runs, since
starting it costs more than a cached run. Nobody has to stop it: a small keeper process ends it
when no vaesc process has used it for ten minutes, when its state file is gone, or when the keeper
itself is killed.

Run by hand: ``python -m tasks.server start | stop | status``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from vaesc.config import home
from vaesc.errors import VaescError
from vaesc.registry.processes import pid_exists

logger = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
START_SECONDS = 180.0
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "vaesc,tasks,flows",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


class ServerError(VaescError):
    """The configured Prefect API does not answer, or the local server did not start."""


def connect() -> str:
    """Point this process at a Prefect API, starting the local server if none is configured.

    Must run before prefect is imported: it reads its settings then.

    Returns:
        The API's URL.

    Raises:
        ServerError: The configured server does not answer, or the local one did not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    url = configured()
    if url is None:
        url = start()
        os.environ["PREFECT_API_URL"] = url
        os.environ.setdefault("PREFECT_HOME", str(_folder()))
    elif not answers(url):
        raise ServerError(
            f"nothing answers at the configured Prefect API {url}; start that server, or correct "
            "or unset PREFECT_API_URL (or the Prefect profile)"
        )
    return url


def configured() -> str | None:
    """Return the API that the environment or the active Prefect profile names, if any."""
    return os.environ.get("PREFECT_API_URL") or _profile_api_url()


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
        port = _free_port()
        logger.warning(
            "starting a local Prefect server (about 10 s; it stops by itself when idle)"
        )
        keeper = _launch_keeper(folder, port)
        _await_health(keeper, folder, f"http://127.0.0.1:{port}/api")
        state = {"url": f"http://127.0.0.1:{port}/api", "started": time.time()}
        _state_file().write_text(json.dumps(state))
        return str(state["url"])


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
        env=_server_environment(folder, port), preexec_fn=_die_with_parent,
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
        _terminate(server)


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
        if answers(url):
            return
        if keeper.poll() is not None:
            raise ServerError(
                f"the local Prefect server ended at once ({_last_line(log)}); see {log}, try "
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


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")[:200]


def _server_environment(folder: Path, port: int) -> dict[str, str]:
    own = {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    # A database of yours is for a server of yours: the local one keeps its own.
    foreign = ("PREFECT_API_DATABASE", "PREFECT_SERVER_DATABASE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**_QUIET, **kept, **own}


def _die_with_parent() -> None:
    """Ask Linux to end the server when the keeper dies, however it dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _terminate(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()


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


def _profile_api_url() -> str | None:
    """Return the API that the user's active Prefect profile names, if any."""
    default = Path(os.environ.get("PREFECT_HOME", "~/.prefect")) / "profiles.toml"
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", default)).expanduser()
    try:
        profiles = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    url = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def answers(url: str) -> bool:
    """Tell whether a Prefect API answers at `url`; one that asks who we are does too."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
