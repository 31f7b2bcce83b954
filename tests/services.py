"""The real servers for tests: in a process of their own, so that it can be killed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

import pytest
from project import ask

from deployments.postgres import find_binaries

ROOT = Path(__file__).parents[1]
_PROGRAM = """
import json, signal, sys
from pathlib import Path
from deployments.stack import Stack
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Stack(Path(sys.argv[1])) as stack:
    print(json.dumps([stack.environment, stack.storage]), flush=True)
    sys.stdin.read()
"""


def need_postgres():
    """Skip without PostgreSQL; fail where the servers are required."""
    if find_binaries() is None:
        sentence = "needs PostgreSQL's server (Debian: apt-get install postgresql)"
        if os.environ.get("VAESC_REQUIRE_SERVICES") == "1":
            pytest.fail(sentence)
        pytest.skip(sentence)


def open_folder():
    """Return a new folder that PostgreSQL's user may enter, which pytest's own it may not."""
    folder = Path(tempfile.mkdtemp(prefix="vaesc-stack-"))
    folder.chmod(0o755)
    return folder


class Servers:
    """A running stack, whoever asks it, and everything that was said meanwhile."""

    def __init__(self):
        self.folder = open_folder()
        with (self.folder / "stack.stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self.folder)], cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        line = self.process.stdout.readline()
        assert line, (self.folder / "stack.stderr").read_text()
        self.environment, self.storage = json.loads(line)
        known = json.loads((self.folder / "secrets.json").read_text())
        self.secrets = sorted(known.values())
        self.api = self.environment["PREFECT_API_URL"]

    def ask(self, path, body):
        """Ask the Prefect server."""
        login = b64encode(self.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
        return ask(self.api, path, body, authorization=f"Basic {login}")

    def processes(self):
        """Return the stack's processes and their command lines, by process id."""
        return descendants(self.process.pid)

    def close(self):
        """End what still runs and remove what it made."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(90)
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.folder)


def descendants(root):
    """Return the process `root` and all that descend from it, with their command lines."""
    seen = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has just ended
        seen[int(entry.name)] = (parent, line)
    ours = {root}
    while grown := {pid for pid, (parent, _) in seen.items() if parent in ours} - ours:
        ours |= grown
    return {pid: seen[pid][1] for pid in ours if pid in seen}


def alive(pids):
    """Return those of `pids` that still run; a zombie does not."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running


def wait_for(condition, seconds, otherwise):
    """Return what `condition` comes to once that is true; else fail with `otherwise()`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(1)
    return found
