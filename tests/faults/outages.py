"""MLflow or Prefect goes away in the middle of a run, at many of its requests.

A short outage must not even fail the run; if it does, in one sentence, and the next one completes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tasks.children import free_port
from tests.faults.injector import Injection, Point
from tests.faults.lane import Lane
from tests.faults.proxy import FAULTS, Proxy
from tests.faults.trial import Trial, Truth, recover, spoken

SERVERS = ("MLflow", "Prefect")
POINTS = 3
"""Requests of a run at which each fault is injected, evenly spread."""


class Outages:
    """A lane whose MLflow is a server, and proxies before both servers.

    Args:
        lane: Where runs go on; its home is emptied.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._requests = dict.fromkeys(SERVERS, 0)

    def count(self) -> None:
        """Run undisturbed through proxies that count, to know which requests there are."""
        self._lane.empty()
        with (
            _Served(self._lane) as url,
            Proxy(url) as mlflow,
            Proxy(self._lane.prefect) as prefect,
        ):
            done = self._lane.run_anew(_through(mlflow, prefect))
            if done.code:
                raise RuntimeError(f"a run through proxies failed: {done.said[-2000:]}")
            self._requests = {"MLflow": mlflow.n_requests, "Prefect": prefect.n_requests}

    def plan(self) -> list[tuple[str, str, int]]:
        """Return every fault, server and request."""
        return [
            (fault, server, 1 + i * n // POINTS)
            for fault in FAULTS
            for server, n in self._requests.items()
            for i in range(POINTS)
        ]

    def attempt(self, fault: str, server: str, nth: int, truth: Truth) -> Trial:
        """Let a server misbehave at a request of a run, run again, and say all that is wrong."""
        trial = Trial(Injection(f"{server}: {fault}", Point("request", server, nth)), "all")
        self._lane.empty()
        struck = {"MLflow": ("", 0), "Prefect": ("", 0), server: (fault, nth)}
        with (
            _Served(self._lane) as url,
            Proxy(url, *struck["MLflow"]) as mlflow,
            Proxy(self._lane.prefect, *struck["Prefect"]) as prefect,
        ):
            broken = self._lane.run_anew(_through(mlflow, prefect))
            trial.code = broken.code
            trial.wrong += spoken(broken)
            home = self._lane.look()
            finished = home.contents()
            home.models()
            trial.wrong += home.partial
            calm = {"MLFLOW_TRACKING_URI": url}
            recover(self._lane, trial, truth, finished, environment=calm)
        return trial


class _Served:
    """An MLflow server on the lane's database, for a while."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __enter__(self) -> str:
        port = free_port()
        home = self._lane.home
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--workers", "1",
            "--serve-artifacts", "--artifacts-destination", str(home / "mlartifacts"),
        ]  # fmt: skip
        log = Path(self._lane.folder, "mlflow.log").open("wb")
        self._process = subprocess.Popen(
            command, env=self._lane.environment, stdout=log, stderr=log, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                return url
            time.sleep(0.3)
        raise RuntimeError("MLflow's server did not start")

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _through(mlflow: Proxy, prefect: Proxy) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": mlflow.url, "PREFECT_API_URL": prefect.url}
