"""One place where runs are broken: a home, a Prefect server, a process that forks the runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from tests.faults.homes import Home
from tests.faults.injector import BALLAST, Injection, Point
from tests.project import clean_environment
from vaesc.config import Application

ROOT = Path(__file__).parents[2]
NAMES = get_args(Application)
SETTINGS = """
[dataset]
limit = 400
[vae]
hidden = [16]
latent_dim = 4
likelihood = "gaussian"
[training]
epochs = 3
[runtime]
checkpoint_seconds = 0.05
[dictionary]
n_atoms = 16
n_nonzero_coefs = 2
max_epochs = 3
[refine]
epochs = 1
hidden = [16, 16]
channels = [4]
[evaluation]
sparsity_levels = [1, 2]
topk_epochs = 1
iwae_samples = [5]
iwae_images = [20]
"""
APPLICATIONS = """
applications = ["generation", "representation", "anomaly", "compression", "semi_supervised"]
[generation]
n_samples = 100
n_components = 4
binary_epochs = 0
[representation]
n_anchors = 32
n_nonzero_coefs = 4
[compression]
n_images = 50
[semi_supervised]
n_labels = [100]
n_draws = 1
network_draws = 1
epochs = 1
"""
_APPLIED = (
    "umap",
    "constriction",
    "vaesc.applications",
    *(f"vaesc.applications.{n}" for n in NAMES),
)
"""Modules of the applications, imported once for all runs that have some."""
_DISK_BYTES = 512 << 20
_SLOWEST = 600.0
"""A run takes some seconds, with applications on a busy machine minutes; so long, and it hangs."""


@dataclass
class Run:
    """What became of one run."""

    code: int
    """Exit code; negative: the signal that ended it."""
    seconds: float
    said: str
    """Its standard error."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What it printed, if it came to that."""

    def computed(self) -> set[str]:
        """Return the addresses of what it computed itself."""
        steps = self.summary.get("steps", ())
        return {step["digest"] for step in steps if step["state"] == "computed"}


class Lane:
    """A home that is emptied, run in, broken and looked at, again and again.

    Home and temporary files lie on a small disk of their own (a tmpfs), where this process may
    mount one: only such a disk can really be filled, SQLite's own writes included.

    Args:
        folder: Everything of it is below.
        applied: Runs make every application, too.
    """

    def __init__(self, folder: Path, *, applied: bool = False) -> None:
        self.folder, self.disk = folder, folder / "disk"
        self._settings = APPLICATIONS + SETTINGS if applied else SETTINGS
        self._modules = _APPLIED if applied else ()
        self.home, self.scratch = self.disk / "home", self.disk / "tmp"
        self._ballast = self.disk / "ballast"
        self.fillable = False
        """Whether the disk is one of its own."""
        self._template = folder / "template.db"
        self.environment = {
            **clean_environment(), "VAESC_HOME": str(self.home), "TMPDIR": str(self.scratch),
            "PREFECT_HOME": str(folder / "no-profile"), "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", BALLAST: str(self._ballast),
        }  # fmt: skip

    def __enter__(self) -> Lane:
        self.disk.mkdir(parents=True, exist_ok=True)
        self.fillable = _mounted(self.disk)
        (self.folder / "small.toml").write_text(self._settings)
        self._server("start")
        # Runs are told its address, so its keeper knows of no client but this process: without
        # one, it would end the server after ten minutes.
        (self.folder / "server" / "prefect" / "clients" / str(os.getpid())).touch()
        state = json.loads((self.folder / "server" / "prefect" / "server.json").read_text())
        self.prefect = str(state["url"])
        self.environment["PREFECT_API_URL"] = self.prefect
        self.empty()
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote", *self._modules],
            env=self.environment, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._zygote.kill()
        self._zygote.wait()
        self._server("stop")
        if self.fillable:
            subprocess.run(["umount", "--lazy", self.disk], check=True)

    def empty(self) -> None:
        """Begin anew: no artifact, no record, an empty run database."""
        for folder in (self.home, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        if not self._template.exists():
            program = "from vaesc.registry import connect; connect()"
            subprocess.run([sys.executable, "-c", program], env=self.environment, check=True)
            shutil.copy(self.home / "mlflow.db", self._template)
        shutil.copy(self._template, self.home / "mlflow.db")

    def relieve(self) -> None:
        """Make room again on a disk that was filled."""
        self._ballast.unlink(missing_ok=True)

    def run(
        self,
        injection: Injection | None = None,
        *,
        trace: Path | None = None,
    ) -> Run:
        """Run the pipeline in a process of its own, broken at a point or not."""
        out, err = self.folder / "out", self.folder / "err"
        for path in (out, err):
            path.write_bytes(b"")
        job = {
            "arguments": self.command,
            "environment": self.environment,
            "injection": injection and injection.to_json(), "trace": trace and str(trace),
            "out": str(out), "err": str(err), "seconds": _SLOWEST,
        }  # fmt: skip
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(job) + "\n")
        self._zygote.stdin.flush()
        answer = self._answer()
        text = out.read_text()
        summary = json.loads(text) if answer["code"] == 0 and text else {}
        return Run(answer["code"], answer["seconds"], err.read_text(), summary)

    def run_anew(self, environment: dict[str, str]) -> Run:
        """Run the pipeline as a user does, in a process that imports everything itself.

        Prefect reads its environment when it is imported: a fork of ours has read it already.
        """
        started = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "vaesc", *self.command],
                env={**self.environment, **environment}, cwd=ROOT, capture_output=True, text=True,
                timeout=_SLOWEST, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Run(-1000, _SLOWEST, "")
        seconds = round(time.monotonic() - started, 2)
        summary = json.loads(done.stdout) if done.returncode == 0 else {}
        return Run(done.returncode, seconds, done.stderr, summary)

    @property
    def command(self) -> list[str]:
        """What is run."""
        return ["run", "--json", "--config", str(self.folder / "small.toml")]

    def trace(self) -> list[Point]:
        """Run undisturbed, and return the points that it passed, in their order."""
        path = self.folder / "trace.jsonl"
        path.unlink(missing_ok=True)
        done = self.run(trace=path)
        if done.code:
            raise RuntimeError(f"an undisturbed run failed: {done.said[-2000:]}")
        return [Point(**json.loads(line)) for line in path.read_text().splitlines()]

    def look(self) -> Home:
        """Return the home as it is now."""
        return Home(self.home, self.scratch, self.prefect)

    def _answer(self) -> dict[str, Any]:
        assert self._zygote.stdout is not None
        while line := self._zygote.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError("the process that forks the runs has ended")

    def _server(self, verb: str) -> None:
        environment = {**self.environment, "VAESC_HOME": str(self.folder / "server")}
        environment.pop("PREFECT_API_URL", None)
        subprocess.run(
            [sys.executable, "-m", "tasks.server", verb], env=environment, cwd=ROOT, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


def _mounted(folder: Path) -> bool:
    """Mount a small disk at `folder`, if that is allowed here."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
