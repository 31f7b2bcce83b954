"""A project of its own for tests of whole runs: real processes, a Prefect server, MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from vaesc.store import read_artifact

STEPS = ["ingest", "train", "extract", "learn", "refine", "evaluate", "register"]
SMALL = """
[training]
epochs = 3
[dictionary]
n_atoms = 32
n_nonzero_coefs = 2
max_epochs = 3
[refine]
epochs = 1
hidden = [16, 16]
channels = [4]
[evaluation]
sparsity_levels = [1, 2, 4]
topk_epochs = 1
"""


def assignments(*sections):
    """Return the settings of these sections of `SMALL` as --set takes them; of all, if of none."""
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, settings in tomllib.loads(SMALL).items()
        for key, value in settings.items()
        if not sections or section in sections
    ]


def clean_environment():
    """Return this process's environment without what points at anybody's servers."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}


def ask(url, path, body, **headers):
    """POST to a Prefect API, and return its answer; one that is too busy is asked again.

    So what is posted twice must be the same as once.
    """
    headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), headers)
    for pause in (2, 4, 8):
        try:
            return _answer(request)
        except OSError as error:
            if not _is_busy(error):
                raise
        time.sleep(pause)
    return _answer(request)


def _answer(request):
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def _is_busy(error):
    """Say whether a server failed ("database is locked") or tarried; it may refuse, or be gone."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return isinstance(getattr(error, "reason", error), TimeoutError)


class Project:
    """A home of its own, and vaesc run in it."""

    def __init__(self, home: Path, server: str | None = None):
        home.mkdir(exist_ok=True)
        self.home, self.config = home, home / "small.toml"
        self.config.write_text(SMALL)
        self.env = clean_environment()
        self.env |= {"VAESC_HOME": str(home), "PREFECT_HOME": str(home / "no-profile")}
        if server:
            self.env["PREFECT_API_URL"] = server

    def vaesc(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "vaesc", *arguments],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip

    def run(self, *arguments):
        done = self.vaesc("run", "--config", str(self.config), "--json", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def script(self, program):
        """Run a program that may use the flows, with a Prefect API."""
        start = "from tasks import server; server.connect()\n"
        return subprocess.run(
            [sys.executable, "-c", start + program],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip

    def python(self, program):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


def states(summary):
    return {step["name"]: step["state"] for step in summary["steps"]}


def artifacts(home):
    found = [read_artifact(p) for p in sorted(home.glob("store/*/??/*"))]
    return {(a.kind, a.digest): a.content for a in found}


def stop_server(project):
    """End the Prefect server that the project's runs started."""
    command = [sys.executable, "-m", "tasks.server", "stop"]
    root = Path(__file__).parents[1]
    subprocess.run(command, env=project.env, cwd=root, check=True, capture_output=True)


@contextmanager
def both_pages(project):
    """Start what ``make ui`` starts; give the addresses of Prefect's and of MLflow's pages."""
    root, log = Path(__file__).parents[1], project.home / "ui.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.ui"], env=project.env, cwd=root, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    deadline, told = time.monotonic() + 120, ""
    try:
        while "startup complete" not in told:
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
            told = log.read_text()
        yield tuple(
            re.search(rf"{name} +(http://[\w.:]+)", told)[1] for name in ("Prefect", "MLflow")
        )
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def processes(marker):
    """Return the process ids whose command line holds `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if marker.encode() in words:
            found.append(int(path.parent.name))
    return found


def files_below(folder):
    """Return the files in a folder, at any depth; any may come and go meanwhile."""
    found = [Path(top, name) for top, _, names in os.walk(folder) for name in names]
    return [path for path in found if path.is_file()]


def content_of(path):
    """Return a file's bytes; none if it has vanished, as those of a running server may."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
