"""MLflow's own scoring server, given a verified model.

``mlflow models serve -m models:/vaesc@champion`` serves a version as the registry keeps it: it
runs the code that lies there and looks at no digest. Here the model is loaded first as any model
is (:mod:`vaesc.registry.loading`: verified, and also while the registry is away), then packed
anew with the code of the installed vaesc; that folder is what MLflow's server is given.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.errors import ConfigError, ServingError
from vaesc.registry.failures import prepare_environment
from vaesc.registry.files import BUNDLE
from vaesc.registry.loading import load_model

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

HOST, PORT = "127.0.0.1", 5080
_START_SECONDS = 300.0
_STOP_SECONDS = 10.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(
    ref: str | int | Path = "champion",
    *,
    name: str = "vaesc",
    host: str = HOST,
    port: int = PORT,
    workers: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a model over HTTP until this process is interrupted.

    Args:
        ref: As for :func:`vaesc.load_model`.
        name: The registered model, where `ref` does not name one.
        host: The interface to listen on. There is no password: beyond this machine, put it
            behind something that asks for one.
        port: The port, from 1 to 65535.
        workers: Number of processes, each with the model in memory.
        announce: Told in a sentence when the server answers.

    Raises:
        ConfigError: The port is taken or cannot be used, or there are to be no workers.
        ServingError: The server did not start, or ended.
        RegistryError: The model cannot be loaded.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    _check_free(host, port)
    model = load_model(ref, name=name, device="cpu")
    with tempfile.TemporaryDirectory(prefix="vaesc-") as folder:
        packed = pack_to_serve(model, Path(folder))
        with _running(_command(packed, host, port, workers)) as server:
            url = f"http://{_bracketed(_ANYWHERE.get(host, host))}:{port}"
            _wait_until_ready(server, url)
            announce(f"{_said(model)} answers at {url}, process {server.pid}; stop it with Ctrl-C")
            code = server.wait()
        raise ServingError(f"the server at {url} ended with exit code {code}; its words are above")


def pack_to_serve(model: SparseVAE, folder: Path) -> Path:
    """Write a model into `folder` as MLflow's tools take it, with this vaesc's own code."""
    prepare_environment()
    from vaesc.registry.packing import pack, ramp

    model.save(folder / BUNDLE)
    packed = folder / "model"
    pack(packed, folder / BUNDLE, model, ramp(model))
    return packed


def serving_environment() -> dict[str, str]:
    """Return the environment in which ``mlflow models serve --env-manager local`` works."""
    # It starts `bash -c "exec uvicorn ..."`, and finds that only on the PATH.
    own = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def _command(packed: Path, host: str, port: int, workers: int) -> list[str]:
    return [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(packed),
        "--env-manager", "local", "--host", host, "--port", str(port), "--workers", str(workers),
    ]  # fmt: skip


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server and all it starts; none of it outlives the block."""
    # In a session of its own, so that its children can be stopped with it.
    server = subprocess.Popen(command, env=serving_environment(), start_new_session=True)
    try:
        yield server
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Let the server and its children finish what they are at, then end what is left."""
    try:
        os.killpg(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            server.poll()
            os.killpg(server.pid, 0)  # raises once nobody is left
            time.sleep(0.1)
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServingError(
                f"the server at {url} did not start (exit code {server.returncode}); its words "
                "are above"
            )
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise ServingError(f"the server at {url} did not answer within {_START_SECONDS:.0f} seconds")


def _check_free(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port must be from 1 to 65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As uvicorn does: connections that are only just closed do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be listened on ({error.strerror}); choose another "
            "with --port or --host"
        ) from error


def _said(model: SparseVAE) -> str:
    origin = model.origin
    assert origin is not None
    what = f"models:/{origin.name}/{origin.version}" if origin.name else origin.uri
    return f"{what} (images of shape {model.shape})"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
