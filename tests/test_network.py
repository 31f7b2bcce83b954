"""A run talks to this machine and to nobody else, and neither Prefect nor MLflow reports home.

The processes of a real run, its Prefect server among them, write down every call (see
network/sitecustomize.py), and calls to elsewhere are refused before they are made.
"""

import json
import os
import time
from pathlib import Path

import pytest

from tests.project import Project, stop_server

ROOT = Path(__file__).parents[1]
HOOK = ROOT / "tests" / "network"
KEPT = ("PATH", "LANG", "LC_", "TMPDIR", "LD_LIBRARY_PATH", "OMP_", "OPENBLAS_", "VIRTUAL_ENV")
ASKED_FOR = {
    "MLFLOW_DISABLE_TELEMETRY": "false",
    "DO_NOT_TRACK": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "true",
}

BOTH = ("prefect", "mlflow")
"""What the hosts that they report to are called."""

HEARTBEAT = """
import asyncio
import prefect.server.api.server
from prefect.server.database import provide_database_interface
from prefect.server.services.perpetual_services import get_enabled_perpetual_services
enabled = [service.function for service in get_enabled_perpetual_services()]
found = {function.__name__: function for function in enabled}
async def beat():
    await provide_database_interface().create_db()
    await found["send_telemetry_heartbeat"]()
if "send_telemetry_heartbeat" in found:
    asyncio.run(beat())
    print("a heartbeat")
elif len(found) > 5:
    print("no heartbeat")
"""
"""What a Prefect server with our settings does every ten minutes, at once and alone.

A whole server does it as it starts, and not again for ten minutes where SQLite was busy then.
"""


class Watched(Project):
    """A home whose processes write down whom they call.

    Prefect and MLflow send nothing where they see a test or CI, so that a test would find nothing
    whatever we do. Hence an environment that has nearly nothing in it.
    """

    def __init__(self, home):
        super().__init__(home)
        self.log = home / "calls.jsonl"
        kept = {k: v for k, v in os.environ.items() if k.startswith(KEPT)}
        ours = {"VAESC_HOME": str(home), "HOME": str(home / "user"), "OMP_NUM_THREADS": "1"}
        watch = {"VAESC_NETWORK_LOG": str(self.log), "PYTHONPATH": f"{HOOK}{os.pathsep}{ROOT}"}
        self.env = {**kept, **ours, **watch}
        (home / "user").mkdir()

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def calls(self):
        return [line for line in self.lines() if "host" in line]

    def elsewhere(self):
        return {line["host"] for line in self.calls() if not line["here"]}


@pytest.fixture
def watched(tmp_path):
    project = Watched(tmp_path / "home")
    yield project
    stop_server(project)


CALLS = """
import socket
def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        print(error)
attempt(socket.socket().connect, ("192.0.2.1", 80))
attempt(socket.socket(type=socket.SOCK_DGRAM).sendto, b"", ("192.0.2.2", 53))
attempt(socket.gethostbyname, "name.invalid")
attempt(socket.socket(socket.AF_UNIX).connect, "/nobody")
attempt(socket.socket().connect, ("127.0.0.1", 1))
"""


def test_a_call_to_elsewhere_is_seen_and_refused_in_children_too(watched):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CALLS!r}])"
    said = watched.python(child)
    assert watched.elsewhere() == {"192.0.2.1", "192.0.2.2", "name.invalid"}
    assert {line["host"] for line in watched.calls() if line["here"]} == {"/nobody", "127.0.0.1"}
    assert said.count("the test refuses") == 3


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.service
def test_a_run_calls_nobody_else_unless_it_is_asked_to(watched):
    assert watched.vaesc("--help").returncode == 0
    assert not watched.calls()
    watched.run()
    listed = watched.vaesc("models", "list")
    assert listed.returncode == 0, listed.stderr
    time.sleep(10)  # a server's services begin some time after it answers
    stop_server(watched)

    assert watched.elsewhere() == set()
    callers = {line["process"] for line in watched.calls()}
    watching = {line["process"] for line in watched.lines()}
    assert any("vaesc run" in process for process in callers), callers
    for part in ("tasks.server keep", "prefect server start", "vaesc models list"):
        assert any(part in process for process in watching), watching

    # Whoever asks for telemetry keeps it; and that it is seen here shows that it was off above.
    assert watched.script(HEARTBEAT).stdout == "no heartbeat\n"
    assert watched.elsewhere() == set()
    watched.env |= ASKED_FOR
    assert watched.script(HEARTBEAT).stdout == "a heartbeat\n"
    watched.run()
    assert all(any(who in host for host in watched.elsewhere()) for who in BOTH)
